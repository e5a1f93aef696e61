//! A virtio device as a PCI function (virtio 1.2, 4.1): capabilities, BAR, MSI-X, doorbells.
//!
//! ```text
//!   BAR 0, 32 KiB    0x0000 common configuration     0x1000 interrupt status (reading clears it)
//!                    0x2000 device configuration     0x3000 doorbells, 4 bytes apart, one a queue
//!                    0x4000 MSI-X table              0x6000 MSI-X pending bits
//! ```
//!
//! While the device runs and its BAR is mapped, its doorbells are somewhere; each access that changes where says so,
//! and so does each that opens, closes or changes a vector. What the registers of the common configuration do stands
//! in `registers.rs`.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::Event;
use super::link::Link;
use super::registers::{self, Registers};
use super::settings::Settings;
use crate::devices::pci::msix::{self, Msix};
use crate::devices::pci::{BarKind, ConfigSpace, Identity};

/// From one queue's doorbell to the next.
pub const DOORBELL_BYTES: u64 = 4;

const VENDOR: u16 = 0x1af4;
/// PCI device ids begin here; the virtio device id is added (4.1.2).
const FIRST_DEVICE: u16 = 0x1040;
const CAPABILITY_VENDOR: u8 = 0x09;

const BAR_BYTES: u64 = 0x8000;
const COMMON: u64 = 0x0000;
const INTERRUPT: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const DEVICE_BYTES: u64 = 0x1000;
const DOORBELLS: u64 = 0x3000;
const DOORBELLS_BYTES: u64 = 0x1000;
const TABLE: u64 = 0x4000;
const PENDING: u64 = 0x6000;
/// What the table's room holds.
const MOST_VECTORS: usize = ((PENDING - TABLE) / msix::ENTRY_BYTES) as usize;

/// What kind of device stands behind a transport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind {
    /// Virtio device id (virtio 1.2, 5): 2 is a block device.
    pub device_id: u16,
    /// PCI class code.
    pub class: u32,
    /// Features offered; VERSION_1 is added.
    pub features: u64,
    /// Device configuration, little endian, at most 4 KiB.
    pub config: Vec<u8>,
    /// Which bytes of it the driver may write.
    pub writable: Range<usize>,
    /// Most entries of each queue, powers of two; at most 511 queues.
    pub queues: Vec<u16>,
}

/// A virtio device as a PCI function.
#[derive(Debug)]
pub struct Transport {
    config: ConfigSpace,
    window: usize,
    msix_at: usize,
    msix: Msix,
    registers: Registers,
    link: Arc<Link>,
    /// Where the doorbells are, as last told.
    doorbells_at: Option<u64>,
}

impl Transport {
    /// A device at power-on, and its end of what it shares with its worker. Fails where the host gives no descriptors.
    ///
    /// # Panics
    /// When it has too many queues: a mistake in this program.
    pub fn new(kind: Kind) -> io::Result<(Transport, Arc<Link>)> {
        assert!(kind.queues.len() < MOST_VECTORS, "Each queue has its vector");
        let identity = Identity {
            vendor: VENDOR,
            device: FIRST_DEVICE + kind.device_id,
            class: kind.class,
            revision: 1,
            subsystem: (VENDOR, FIRST_DEVICE + kind.device_id),
        };
        let mut config = ConfigSpace::new(&identity).with_bar(0, BarKind::Memory32, BAR_BYTES).with_interrupt_pin();
        let msix = Msix::new(kind.queues.len() as u16 + 1);
        let msix_at = config.add_capability(msix::CAPABILITY, &msix.capability(0, TABLE as u32, PENDING as u32));
        config.make_writable(msix_at + 2, &Msix::CONTROL_WRITABLE.to_le_bytes());
        config.add_capability(CAPABILITY_VENDOR, &structure(1, COMMON, registers::BYTES as u32, &[]));
        let multiplier = (DOORBELL_BYTES as u32).to_le_bytes();
        config.add_capability(CAPABILITY_VENDOR, &structure(2, DOORBELLS, DOORBELLS_BYTES as u32, &multiplier));
        config.add_capability(CAPABILITY_VENDOR, &structure(3, INTERRUPT, 1, &[]));
        config.add_capability(CAPABILITY_VENDOR, &structure(4, DEVICE, DEVICE_BYTES as u32, &[]));
        let window = config.add_capability(CAPABILITY_VENDOR, &structure(5, 0, 0, &[0; 4]));
        config.make_writable(window + 4, &[0xff]);
        config.make_writable(window + 8, &[0xff; 8]);
        let link = Arc::new(Link::new(kind.queues.len(), Settings::new(kind.config, kind.writable))?);
        let registers = Registers::new(kind.features, &kind.queues, link.clone());
        Ok((Transport { config, window, msix_at, msix, registers, link: link.clone(), doorbells_at: None }, link))
    }

    /// The function's configuration space: the board asks it for BARs and interrupt line.
    pub fn config(&self) -> &ConfigSpace {
        &self.config
    }

    /// The same, for the board to place the BARs at power-on.
    pub fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    /// A configuration read of 1, 2 or 4 bytes at `offset` (0..=255).
    pub fn config_read(&mut self, offset: usize, data: &mut [u8]) {
        match self.windowed(offset, data.len()) {
            Some(at) => self.bar_read(0, at, data),
            None => self.config.read(offset, data),
        }
    }

    /// A configuration write of 1, 2 or 4 bytes at `offset` (0..=255). What came of it, in order.
    pub fn config_write(&mut self, offset: usize, data: &[u8]) -> Vec<Event> {
        if let Some(at) = self.windowed(offset, data.len()) {
            return self.bar_write(0, at, data);
        }
        self.config.write(offset, data);
        let mut events = Vec::new();
        let control = self.msix_at + 2;
        if offset < control + 2 && control < offset + data.len() {
            self.set_msix_control(&mut events);
        }
        self.follow_doorbells(&mut events);
        events
    }

    /// A read of any length at `offset` in BAR `bar`; it lies inside the BAR.
    pub fn bar_read(&mut self, _bar: usize, offset: u64, data: &mut [u8]) {
        data.fill(0);
        match offset {
            COMMON..INTERRUPT => super::copy(&self.registers.read(), offset - COMMON, data),
            INTERRUPT => {
                if let Some(first) = data.first_mut() {
                    *first = self.link.interrupts().take_status();
                }
            }
            DEVICE..DOORBELLS => self.link.settings().read(offset - DEVICE, data),
            TABLE..PENDING => self.msix.read(offset - TABLE, data),
            PENDING.. => self.link.interrupts().read_pending(offset - PENDING, data),
            _ => {}
        }
    }

    /// A write of any length at `offset` in BAR `bar`; it lies inside the BAR. What came of it, in order.
    pub fn bar_write(&mut self, _bar: usize, offset: u64, data: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        match offset {
            COMMON..INTERRUPT => {
                events.extend(self.registers.write((offset - COMMON) as usize, data));
                self.follow_doorbells(&mut events);
            }
            DEVICE..DOORBELLS => {
                let changed = self.link.settings().write(offset - DEVICE, data);
                events.extend(changed.then_some(Event::Configured));
            }
            DOORBELLS..TABLE => {
                let queue = ((offset - DOORBELLS) / DOORBELL_BYTES) as u16;
                events.extend(self.registers.rings(queue).then_some(Event::Notify { queue }));
            }
            TABLE..PENDING => events.extend(self.msix.write(offset - TABLE, data).map(Event::Vector)),
            _ => {}
        }
        events
    }

    /// Level of the function's INTA line.
    pub fn interrupt(&self) -> bool {
        let mut command = [0; 2];
        self.config.read(4, &mut command);
        self.link.interrupts().line() && command[1] & 0x04 == 0
    }

    /// System reset: as at power-on; the board places the BARs afterwards. The worker has ended before, and what was
    /// routed into the old virtual machine is gone.
    pub fn reset(&mut self) {
        self.config.reset();
        self.msix.reset();
        self.doorbells_at = None;
        self.registers.restart();
    }

    fn set_msix_control(&mut self, events: &mut Vec<Event>) {
        let mut control = [0; 2];
        self.config.read(self.msix_at + 2, &mut control);
        events.extend(self.msix.set_control(u16::from_le_bytes(control)).into_iter().map(Event::Vector));
        self.link.interrupts().set_by_message(self.msix.enabled());
    }

    fn follow_doorbells(&mut self, events: &mut Vec<Event>) {
        let at = self.registers.running().then(|| self.config.bar_address(0)).flatten().map(|bar| bar + DOORBELLS);
        if std::mem::replace(&mut self.doorbells_at, at) != at {
            events.push(Event::Doorbells { at });
        }
    }

    /// The configuration access capability (4.1.4.9) shows a piece of the BAR; where, if this is an access to it.
    fn windowed(&self, offset: usize, length: usize) -> Option<u64> {
        if offset != self.window + 16 {
            return None;
        }
        let mut fields = [0; 16];
        self.config.read(self.window, &mut fields);
        let dword = |at: usize| u32::from_le_bytes([fields[at], fields[at + 1], fields[at + 2], fields[at + 3]]);
        let (bar, at, width) = (fields[4], u64::from(dword(8)), u64::from(dword(12)));
        let fits = at.checked_add(width).is_some_and(|end| end <= BAR_BYTES);
        (bar == 0 && matches!(width, 1 | 2 | 4) && width == length as u64 && at.is_multiple_of(width) && fits)
            .then_some(at)
    }
}

/// Body of a virtio capability, after its id and next pointer (4.1.4).
fn structure(cfg_type: u8, offset: u64, length: u32, more: &[u8]) -> Vec<u8> {
    let mut body = vec![16 + more.len() as u8, cfg_type, 0, 0, 0, 0];
    body.extend((offset as u32).to_le_bytes());
    body.extend(length.to_le_bytes());
    body.extend(more);
    body
}
