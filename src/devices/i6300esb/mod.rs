//! The Intel 6300ESB watchdog as a PCI function: configuration space, BAR 0, verdicts.
//!
//! ```text
//!   config 0x00..0x3f ─▶ ConfigSpace (header; BAR 0: 16 bytes)
//!   config 0x60, 0x68 ─┐
//!   BAR 0 ─────────────┴▶ Registers ─▶ Countdown
//!                             └─ tick(now) ─▶ Verdicts
//! ```
//!
//! The chip is pure: time comes in with each call, and what falls due is said, never done. Before an
//! access at `now` the caller calls [`I6300esb::tick`] for `now`, so that an access never sees a
//! stage that should be over. What it does at registers' level stands in `registers.rs`.

mod countdown;
mod registers;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::Serialize;

use super::GuestTime;
use super::pci::{BarKind, ConfigSpace, Identity};
use registers::{BAR_BYTES, Registers};

/// In free-run with the output off the ticker is asked for at most once in this time, however short
/// the stages are.
pub const FREE_RUN_FLOOR: Duration = Duration::from_millis(100);

const CONFIG: usize = 0x60;
const LOCK: usize = 0x68;

/// The watchdog's registers at one moment: what is kept as evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// Config register (0x60).
    pub config: u16,
    /// Lock register (0x68): mode, enable, lock.
    pub lock: u8,
    /// Preloads of stage 1 and stage 2, in counts.
    pub preloads: [u32; 2],
    /// Interrupt status (bit 0: stage 1 has run out since it was last cleared).
    pub interrupt_status: u8,
    /// The timeout flag: the watchdog has fired since it was last cleared.
    pub timeout_flag: bool,
    /// Pets taken while running, since power-on.
    pub pets: u64,
    /// When the guest last petted or started it.
    pub petted_at: GuestTime,
}

impl Evidence {
    /// True where the end of stage 1 is an interrupt: type IRQ or SMI. Linux and FreeBSD set neither.
    pub fn interrupts(&self) -> bool {
        registers::interrupts(self.config)
    }
}

/// What the watchdog found when time went on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Stage 1 ran out with an interrupt due ([`Evidence::interrupts`]), or with the output on: then stage 2's end will
    /// be a reset.
    Pretimeout {
        /// When.
        due_at: GuestTime,
        /// The registers then.
        evidence: Evidence,
    },
    /// Stage 2 ran out with the output on; the chip is back at its defaults.
    Expired {
        /// When.
        due_at: GuestTime,
        /// The registers just before.
        evidence: Evidence,
    },
}

/// The watchdog as a PCI function.
#[derive(Debug, Clone)]
pub struct I6300esb {
    header: ConfigSpace,
    registers: Registers,
}

impl Default for I6300esb {
    fn default() -> I6300esb {
        I6300esb::new()
    }
}

impl I6300esb {
    /// The function at power-on: BAR 0 and command are 0, the timeout flag is clear.
    pub fn new() -> I6300esb {
        let identity =
            Identity { vendor: 0x8086, device: 0x25ab, class: 0x08_80_00, revision: 0, subsystem: (0x1af4, 0x1100) };
        let header = ConfigSpace::new(&identity).with_bar(0, BarKind::Memory32, BAR_BYTES as u64);
        I6300esb { header, registers: Registers::new(false) }
    }

    /// The PCI header, without the chip's own registers.
    pub fn config(&self) -> &ConfigSpace {
        &self.header
    }

    /// The same, for the board to place the BAR.
    pub fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.header
    }

    /// Configuration read of any width at `offset`; what lies past 255 is left as it was.
    pub fn config_read(&self, offset: usize, data: &mut [u8]) {
        self.header.read(offset, data);
        for (byte, at) in data.iter_mut().zip(offset..) {
            match at {
                CONFIG => *byte = self.registers.config(),
                LOCK => *byte = self.registers.lock(),
                _ => {}
            }
        }
    }

    /// Configuration write of any width at `offset`.
    pub fn config_write(&mut self, now: GuestTime, offset: usize, data: &[u8]) {
        self.header.write(offset, data);
        for (byte, at) in data.iter().zip(offset..) {
            match at {
                CONFIG => self.registers.write_config(*byte),
                LOCK => self.registers.write_lock(now, *byte),
                _ => {}
            }
        }
    }

    /// Read of any width at `offset` in BAR 0; what lies past its end is left as it was.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        if let Ok(offset) = usize::try_from(offset) {
            self.registers.read(offset, data);
        }
    }

    /// Write of any width at `offset` in BAR 0; true when it petted the running watchdog.
    pub fn write(&mut self, now: GuestTime, offset: u64, data: &[u8]) -> bool {
        usize::try_from(offset).is_ok_and(|offset| self.registers.write(now, offset, data))
    }

    /// Lets everything fall due that is due by `now`, in order, each at its own time.
    ///
    /// The work is bounded, however far `now` has gone and whatever the guest has programmed: in
    /// free-run with the output off the pretimeouts of whole rounds that lie behind are one. Calls at
    /// each [`I6300esb::verdict_at`] miss none.
    pub fn tick(&mut self, now: GuestTime) -> Vec<Verdict> {
        self.registers.tick(now)
    }

    /// When the next verdict falls due, exactly; none when no verdict will, whatever the time.
    pub fn verdict_at(&self) -> Option<GuestTime> {
        self.registers.verdict_at()
    }

    /// When the ticker has to call [`I6300esb::tick`]: as [`I6300esb::verdict_at`], with the floor of
    /// [`FREE_RUN_FLOOR`]. Pets move it later.
    pub fn wake_at(&self) -> Option<GuestTime> {
        self.registers.wake_at()
    }

    /// The registers as they stand.
    pub fn evidence(&self) -> Evidence {
        self.registers.evidence()
    }

    /// System reset: all but the timeout flag as at power-on, BAR 0 and command 0.
    pub fn reset(&mut self) {
        self.header.reset();
        self.registers.reset();
    }
}
