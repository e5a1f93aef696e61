//! A function's configuration space: what it holds, and which bits a guest may change.

use super::CONFIG_BYTES;

const COMMAND: usize = 0x04;
const COMMAND_MEMORY: u8 = 1 << 1;
const STATUS: usize = 0x06;
const STATUS_CAPABILITIES: u8 = 1 << 4;
const CACHE_LINE: usize = 0x0c;
const BAR0: usize = 0x10;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const INTERRUPT_PIN: usize = 0x3d;
/// The header ends here; capabilities and registers of the device's own follow.
const HEADER_BYTES: usize = 0x40;
/// BARs closer than this would share a page, which a guest cannot map apart.
const PAGE_BYTES: u64 = 0x1000;

/// Who a function says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Class, subclass and programming interface, 24 bits.
    pub class: u32,
    /// Revision.
    pub revision: u8,
    /// Subsystem vendor and subsystem id.
    pub subsystem: (u16, u16),
}

/// What a memory BAR looks like; none is prefetchable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BarKind {
    /// One register, below 4 GiB.
    Memory32,
    /// Two registers, anywhere.
    Memory64,
}

#[derive(Debug, Clone, Copy)]
struct Bar {
    kind: BarKind,
    size_bytes: u64,
}

/// An address found in a BAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hit {
    pub bar: usize,
    pub offset: u64,
    size_bytes: u64,
}

impl Hit {
    /// How many of `len` bytes from the hit on lie in the BAR.
    pub fn inside(&self, len: usize) -> usize {
        usize::try_from(self.size_bytes - self.offset).map_or(len, |left| left.min(len))
    }
}

/// 256 bytes of configuration space, type 0 header.
///
/// Each bit is read-only or writable; sizing a BAR needs nothing more, since its low bits stay 0.
/// Writable in any function: command 0x0507, cache line, interrupt line, and the BARs it has.
#[derive(Debug, Clone)]
pub struct ConfigSpace {
    bytes: [u8; CONFIG_BYTES],
    at_power_on: [u8; CONFIG_BYTES],
    writable: [u8; CONFIG_BYTES],
    bars: [Option<Bar>; 6],
    free_from: usize,
    last_capability: usize,
}

impl ConfigSpace {
    /// A function without BARs or capabilities.
    pub fn new(identity: &Identity) -> ConfigSpace {
        let mut bytes = [0; CONFIG_BYTES];
        bytes[0x00..0x02].copy_from_slice(&identity.vendor.to_le_bytes());
        bytes[0x02..0x04].copy_from_slice(&identity.device.to_le_bytes());
        bytes[0x08..0x0c].copy_from_slice(&(identity.class << 8 | u32::from(identity.revision)).to_le_bytes());
        bytes[0x2c..0x2e].copy_from_slice(&identity.subsystem.0.to_le_bytes());
        bytes[0x2e..0x30].copy_from_slice(&identity.subsystem.1.to_le_bytes());
        let mut writable = [0; CONFIG_BYTES];
        writable[COMMAND..COMMAND + 2].copy_from_slice(&0x0507u16.to_le_bytes());
        writable[CACHE_LINE] = 0xff;
        writable[INTERRUPT_LINE] = 0xff;
        ConfigSpace {
            bytes,
            at_power_on: bytes,
            writable,
            bars: [None; 6],
            free_from: HEADER_BYTES,
            last_capability: CAPABILITIES,
        }
    }

    /// Adds BAR `index` of `size_bytes`, a power of two of at least 16.
    ///
    /// # Panics
    /// When the size is no such power, or the registers do not exist: a mistake in this program.
    #[must_use]
    pub fn with_bar(mut self, index: usize, kind: BarKind, size_bytes: u64) -> ConfigSpace {
        assert!(size_bytes.is_power_of_two() && size_bytes >= 16, "BAR sizes are powers of two from 16 up");
        let register = BAR0 + 4 * index;
        let mask = !(size_bytes - 1);
        self.writable[register..register + 4].copy_from_slice(&(mask as u32).to_le_bytes());
        if kind == BarKind::Memory64 {
            assert!(index < 5, "A 64-bit BAR takes two registers");
            self.preset(register, 0b100);
            self.writable[register + 4..register + 8].copy_from_slice(&((mask >> 32) as u32).to_le_bytes());
        }
        self.bars[index] = Some(Bar { kind, size_bytes });
        self
    }

    /// Gives the function an INTA pin.
    #[must_use]
    pub fn with_interrupt_pin(mut self) -> ConfigSpace {
        self.preset(INTERRUPT_PIN, 1);
        self
    }

    /// Appends a capability with this id; `body` is what follows its id and next pointer. Says where
    /// the capability starts.
    ///
    /// # Panics
    /// When it does not fit into 256 bytes: a mistake in this program.
    pub fn add_capability(&mut self, id: u8, body: &[u8]) -> usize {
        let start = self.free_from;
        assert!(start + 2 + body.len() <= CONFIG_BYTES, "Capabilities fit into 192 bytes");
        self.preset(start, id);
        for (byte, offset) in body.iter().zip(start + 2..) {
            self.preset(offset, *byte);
        }
        let link = if self.last_capability == CAPABILITIES { CAPABILITIES } else { self.last_capability + 1 };
        self.preset(link, start as u8);
        self.preset(STATUS, self.at_power_on[STATUS] | STATUS_CAPABILITIES);
        self.last_capability = start;
        self.free_from = (start + 2 + body.len()).next_multiple_of(4);
        start
    }

    /// Lets the guest change these bits at `offset`.
    ///
    /// # Panics
    /// When they lie past 256 bytes: a mistake in this program.
    pub fn make_writable(&mut self, offset: usize, mask: &[u8]) {
        self.writable[offset..offset + mask.len()].copy_from_slice(mask);
    }

    /// Sets a byte from the device's side, whatever the guest may write.
    ///
    /// # Panics
    /// When `offset` is past 255: a mistake in this program.
    pub fn set(&mut self, offset: usize, byte: u8) {
        self.bytes[offset] = byte;
    }

    /// Reads from `offset`; what lies past the 256 bytes is left as it was.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        for (byte, at) in data.iter_mut().zip(offset..CONFIG_BYTES) {
            *byte = self.bytes[at];
        }
    }

    /// Writes from `offset`; only writable bits change.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        for (byte, at) in data.iter().zip(offset..CONFIG_BYTES) {
            self.bytes[at] = self.bytes[at] & !self.writable[at] | byte & self.writable[at];
        }
    }

    /// Back to power-on: command, BARs, cache line, interrupt line and writable registers.
    pub fn reset(&mut self) {
        self.bytes = self.at_power_on;
    }

    /// Where BAR `index` is mapped now; none when memory decoding is off, or the BAR is 0, at the
    /// very end of its space (as while it is being sized), or not there.
    pub fn bar_address(&self, index: usize) -> Option<u64> {
        if self.bytes[COMMAND] & COMMAND_MEMORY == 0 {
            return None;
        }
        let bar = (*self.bars.get(index)?)?;
        let low = u64::from(self.dword(BAR0 + 4 * index) & !0xf);
        let (address, limit) = match bar.kind {
            BarKind::Memory32 => (low, u64::from(u32::MAX)),
            BarKind::Memory64 => (u64::from(self.dword(BAR0 + 4 * index + 4)) << 32 | low, u64::MAX),
        };
        let last = address.checked_add(bar.size_bytes - 1)?;
        (address != 0 && last < limit).then_some(address)
    }

    /// The BAR that holds `address` now.
    pub(super) fn decode(&self, address: u64) -> Option<Hit> {
        (0..6).find_map(|bar| {
            let offset = address.checked_sub(self.bar_address(bar)?)?;
            let size_bytes = self.bars[bar]?.size_bytes;
            (offset < size_bytes).then_some(Hit { bar, offset, size_bytes })
        })
    }

    /// What firmware does at power-on: BARs from `next` on, memory decoding on where there is one,
    /// the interrupt line where there is a pin. Says where the next function may begin.
    pub(super) fn place(&mut self, mut next: u64, end: u64, line: u32) -> u64 {
        for index in 0..6 {
            let Some(bar) = self.bars[index] else { continue };
            let address = next.next_multiple_of(bar.size_bytes.max(PAGE_BYTES));
            if address + bar.size_bytes > end {
                continue;
            }
            self.write(BAR0 + 4 * index, &(address as u32).to_le_bytes());
            if bar.kind == BarKind::Memory64 {
                self.write(BAR0 + 4 * index + 4, &((address >> 32) as u32).to_le_bytes());
            }
            self.bytes[COMMAND] |= COMMAND_MEMORY;
            next = address + bar.size_bytes;
        }
        if self.bytes[INTERRUPT_PIN] != 0 {
            self.bytes[INTERRUPT_LINE] = line as u8;
        }
        next
    }

    /// Memory decoding off; the BARs keep their addresses.
    pub(super) fn leave_decoding_off(&mut self) {
        self.bytes[COMMAND] &= !COMMAND_MEMORY;
    }

    fn preset(&mut self, offset: usize, byte: u8) {
        self.at_power_on[offset] = byte;
        self.bytes[offset] = byte;
    }

    fn dword(&self, offset: usize) -> u32 {
        u32::from_le_bytes([self.bytes[offset], self.bytes[offset + 1], self.bytes[offset + 2], self.bytes[offset + 3]])
    }
}
