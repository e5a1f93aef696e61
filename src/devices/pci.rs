//! One PCI bus: configuration access, and base addresses decoded when they are used.
//!
//! ```text
//!   0xcf8, 0xcfc ─┐
//!                 ├─▶ slot, register ─▶ Function ─▶ ConfigSpace (256 bytes: value, writable mask)
//!   ECAM window ──┘
//!   PCI window ─────▶ the function whose BAR holds the address now ─▶ (bar, offset)
//! ```
//!
//! All functions are conventional ones on bus 0, function 0 of their slot. Whatever answers nobody
//! reads all ones. No table of BARs is kept: a guest that moves one only writes its register.

mod config_space;
pub mod msix;
#[cfg(test)]
mod tests;

pub use config_space::{BarKind, ConfigSpace, Identity};

use super::GuestTime;
use super::i6300esb::{I6300esb, Verdict};
use super::pvpanic::Pvpanic;
use super::signal::{Outcome, Signal};
use super::virtio::pci::Transport;

/// Slots on the bus.
pub const SLOTS: usize = 32;
/// CONFIG_ADDRESS: a 32-bit port (PCI local bus specification 3.0, 3.2.2.3.2).
pub const CONFIG_ADDRESS: u16 = 0xcf8;
/// First of the four ports of CONFIG_DATA.
pub const CONFIG_DATA: u16 = 0xcfc;
/// Bytes of a function's configuration space, and what of it the ECAM shows (no function is PCI Express).
pub const CONFIG_BYTES: usize = 256;

/// A PCI function and its chip.
#[derive(Debug)]
pub enum Function {
    /// 00:00.0: what PCI probing looks for first.
    HostBridge(ConfigSpace),
    /// The i6300esb watchdog.
    Watchdog(I6300esb),
    /// The pvpanic device.
    Pvpanic(Pvpanic),
    /// A virtio device.
    Virtio(Transport),
}

impl Function {
    /// The host bridge: an Intel 440FX by its ids, without registers of its own.
    pub fn host_bridge() -> Function {
        let identity =
            Identity { vendor: 0x8086, device: 0x1237, class: 0x06_00_00, revision: 2, subsystem: (0x1af4, 0x1100) };
        Function::HostBridge(ConfigSpace::new(&identity))
    }

    fn config(&self) -> &ConfigSpace {
        match self {
            Function::HostBridge(config) => config,
            Function::Watchdog(chip) => chip.config(),
            Function::Pvpanic(chip) => chip.config(),
            Function::Virtio(device) => device.config(),
        }
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        match self {
            Function::HostBridge(config) => config,
            Function::Watchdog(chip) => chip.config_mut(),
            Function::Pvpanic(chip) => chip.config_mut(),
            Function::Virtio(device) => device.config_mut(),
        }
    }

    fn config_read(&mut self, offset: usize, data: &mut [u8]) {
        match self {
            Function::HostBridge(config) => config.read(offset, data),
            Function::Watchdog(chip) => chip.config_read(offset, data),
            Function::Pvpanic(chip) => chip.config().read(offset, data),
            Function::Virtio(device) => device.config_read(offset, data),
        }
    }

    fn config_write(&mut self, now: GuestTime, slot: u8, offset: usize, data: &[u8], out: &mut Outcome) {
        match self {
            Function::HostBridge(config) => config.write(offset, data),
            Function::Watchdog(chip) => chip.config_write(now, offset, data),
            Function::Pvpanic(chip) => chip.config_mut().write(offset, data),
            Function::Virtio(device) => {
                for event in device.config_write(offset, data) {
                    out.push(Signal::Virtio { slot, event });
                }
            }
        }
    }

    fn bar_read(&mut self, bar: usize, offset: u64, data: &mut [u8]) {
        match self {
            Function::HostBridge(_) => {}
            Function::Watchdog(chip) => chip.read(offset, data),
            Function::Pvpanic(chip) => chip.read(offset, data),
            Function::Virtio(device) => device.bar_read(bar, offset, data),
        }
    }

    fn bar_write(&mut self, now: GuestTime, slot: u8, bar: usize, offset: u64, data: &[u8], out: &mut Outcome) {
        match self {
            Function::HostBridge(_) => {}
            Function::Watchdog(chip) => {
                if chip.write(now, offset, data) {
                    out.push(Signal::WatchdogPetted);
                }
            }
            Function::Pvpanic(chip) => {
                if let Some(events) = chip.write(offset, data) {
                    out.push(Signal::Panicked { events });
                }
            }
            Function::Virtio(device) => {
                for event in device.bar_write(bar, offset, data) {
                    out.push(Signal::Virtio { slot, event });
                }
            }
        }
    }

    fn interrupt(&self) -> bool {
        match self {
            Function::Virtio(device) => device.interrupt(),
            // The watchdog's interrupt is reported as a verdict; it has no pin.
            Function::HostBridge(_) | Function::Watchdog(_) | Function::Pvpanic(_) => false,
        }
    }

    fn reset(&mut self) {
        match self {
            Function::HostBridge(config) => config.reset(),
            Function::Watchdog(chip) => chip.reset(),
            Function::Pvpanic(chip) => chip.reset(),
            Function::Virtio(device) => device.reset(),
        }
    }
}

/// No free slot is left on the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("All {SLOTS} slots of the PCI bus are taken; give the guest fewer disks or network cards")]
pub struct BusFull;

/// The bus: functions by slot, and the address register.
#[derive(Debug, Default)]
pub struct Pci {
    address: u32,
    functions: Vec<Function>,
}

impl Pci {
    /// Puts `function` into the next free slot and says which that is.
    pub fn plug(&mut self, function: Function) -> Result<u8, BusFull> {
        let slot = self.functions.len();
        if slot >= SLOTS {
            return Err(BusFull);
        }
        self.functions.push(function);
        Ok(slot as u8)
    }

    /// How many slots are occupied: the first ones.
    pub fn slots(&self) -> u8 {
        // At most 32: `plug` sees to that.
        self.functions.len() as u8
    }

    /// The function in `slot`.
    pub fn function(&self, slot: u8) -> Option<&Function> {
        self.functions.get(usize::from(slot))
    }

    /// The function in `slot`, for changes from the host's side.
    pub fn function_mut(&mut self, slot: u8) -> Option<&mut Function> {
        self.functions.get_mut(usize::from(slot))
    }

    /// Every slot that asserts its INTA line.
    pub fn interrupts(&self) -> impl Iterator<Item = u8> {
        self.functions.iter().zip(0u8..).filter(|(function, _)| function.interrupt()).map(|(_, slot)| slot)
    }

    /// What firmware would do: gives each BAR an address from `window` on, naturally aligned and at
    /// least a page apart, switches memory decoding on, and writes each slot's interrupt line.
    /// Panics never: a BAR that does not fit below `end` stays 0, which is unmapped.
    pub fn place(&mut self, window: u64, end: u64, line_of: impl Fn(u8) -> u32) {
        let mut next = window;
        for (function, slot) in self.functions.iter_mut().zip(0u8..) {
            next = function.config_mut().place(next, end, line_of(slot));
        }
    }

    /// Leaves to the guest what Linux does itself: memory decoding of all functions is off, though their BARs have their
    /// addresses. Linux sizes BARs with half the accesses then: it need not switch decoding off and on around each.
    pub fn begin_bare(&mut self) {
        self.functions.iter_mut().for_each(|function| function.config_mut().leave_decoding_off());
    }

    /// A read of CONFIG_ADDRESS or CONFIG_DATA; `data` comes filled with ones.
    pub fn io_read(&mut self, port: u16, data: &mut [u8]) {
        if port == CONFIG_ADDRESS && data.len() == 4 {
            data.copy_from_slice(&self.address.to_le_bytes());
        } else if let Some((slot, register)) = self.selected(port) {
            self.config_read(slot, register, data);
        }
    }

    /// A write of CONFIG_ADDRESS or CONFIG_DATA.
    pub fn io_write(&mut self, now: GuestTime, port: u16, data: &[u8], out: &mut Outcome) {
        if port == CONFIG_ADDRESS {
            // Narrower writes go to other chips that live here (0xcf9), not to the address.
            if let Ok(bytes) = data.try_into() {
                self.address = u32::from_le_bytes(bytes) & 0x80ff_fffc;
            }
        } else if let Some((slot, register)) = self.selected(port) {
            self.config_write(now, slot, register, data, out);
        }
    }

    /// A read at `offset` in the ECAM window (PCI Express base specification, 7.2.2).
    pub fn ecam_read(&mut self, offset: u64, data: &mut [u8]) {
        if let Some((slot, register)) = ecam(offset) {
            self.config_read(slot, register, data);
        }
    }

    /// A write at `offset` in the ECAM window.
    pub fn ecam_write(&mut self, now: GuestTime, offset: u64, data: &[u8], out: &mut Outcome) {
        if let Some((slot, register)) = ecam(offset) {
            self.config_write(now, slot, register, data, out);
        }
    }

    /// A read at `address` in the PCI window; `data` comes filled with ones.
    pub fn mmio_read(&mut self, address: u64, data: &mut [u8]) {
        if let Some((slot, hit)) = self.decode(address) {
            let inside = hit.inside(data.len());
            self.functions[slot].bar_read(hit.bar, hit.offset, &mut data[..inside]);
        }
    }

    /// A write at `address` in the PCI window.
    pub fn mmio_write(&mut self, now: GuestTime, address: u64, data: &[u8], out: &mut Outcome) {
        if let Some((slot, hit)) = self.decode(address) {
            let inside = hit.inside(data.len());
            self.functions[slot].bar_write(now, slot as u8, hit.bar, hit.offset, &data[..inside], out);
        }
    }

    /// Lets everything fall due that is due by `now`.
    pub fn tick(&mut self, now: GuestTime, out: &mut Outcome) {
        for function in &mut self.functions {
            if let Function::Watchdog(chip) = function {
                for verdict in chip.tick(now) {
                    out.push(match verdict {
                        Verdict::Pretimeout { due_at, evidence } => Signal::WatchdogPretimeout { due_at, evidence },
                        Verdict::Expired { due_at, evidence } => Signal::WatchdogExpired { due_at, evidence },
                    });
                }
            }
        }
    }

    /// When [`Pci::tick`] next has something to do.
    pub fn wake_at(&self) -> Option<GuestTime> {
        self.functions
            .iter()
            .filter_map(|function| match function {
                Function::Watchdog(chip) => chip.wake_at(),
                _ => None,
            })
            .min()
    }

    /// Bus reset: every function as at power-on, BARs 0; [`Pci::place`] has to follow.
    pub fn reset(&mut self) {
        self.address = 0;
        for function in &mut self.functions {
            function.reset();
        }
    }

    fn selected(&self, port: u16) -> Option<(usize, usize)> {
        let byte = usize::from(port.checked_sub(CONFIG_DATA)?);
        if byte > 3 || self.address & 0x8000_0000 == 0 {
            return None;
        }
        let bus_and_function = self.address & 0x00ff_0700;
        let slot = (self.address >> 11 & 0x1f) as usize;
        (bus_and_function == 0).then_some((slot, (self.address & 0xfc) as usize + byte))
    }

    fn config_read(&mut self, slot: usize, register: usize, data: &mut [u8]) {
        if let Some(function) = self.functions.get_mut(slot) {
            function.config_read(register, data);
        }
    }

    fn config_write(&mut self, now: GuestTime, slot: usize, register: usize, data: &[u8], out: &mut Outcome) {
        if let Some(function) = self.functions.get_mut(slot) {
            function.config_write(now, slot as u8, register, data, out);
        }
    }

    fn decode(&self, address: u64) -> Option<(usize, config_space::Hit)> {
        self.functions.iter().enumerate().find_map(|(slot, function)| Some((slot, function.config().decode(address)?)))
    }
}

/// Slot and register of an offset in the ECAM window; none off bus 0 or function 0.
fn ecam(offset: u64) -> Option<(usize, usize)> {
    let bus_and_function = offset >> 20 << 3 | offset >> 12 & 7;
    (bus_and_function == 0).then_some(((offset >> 15 & 0x1f) as usize, (offset & 0xfff) as usize))
}
