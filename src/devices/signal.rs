//! What the board tells the rest of the machine.

use serde::Serialize;

use super::GuestTime;
use super::i6300esb::Evidence;
use super::reset::ResetKind;
use super::virtio;

/// Which of the two serial ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Com {
    /// COM1, 0x3f8, IRQ 4: the guest's console.
    Com1,
    /// COM2, 0x2f8, IRQ 3: health and roles.
    Com2,
}

/// One thing that somebody outside the board has to know or act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// [`super::board::Board::wake_at`] is sooner than the ticker knows: it has to be told.
    WakeSooner,
    /// [`super::board::Board::wake_at`] is so much later than the ticker knows that moving its timer
    /// saves a wake-up. Comes at most twice a stage; may be ignored at the cost of that wake-up.
    WakeLater,
    /// The guest petted the running watchdog: its countdown starts again.
    WatchdogPetted,
    /// Stage 1 of the watchdog ran out: evidence, and with type IRQ or SMI an interrupt.
    WatchdogPretimeout {
        /// When it ran out.
        due_at: GuestTime,
        /// The registers then.
        evidence: Evidence,
    },
    /// Stage 2 of the watchdog ran out with the output on: the guest has stopped petting.
    WatchdogExpired {
        /// When it ran out.
        due_at: GuestTime,
        /// The registers just before the chip went back to its defaults.
        evidence: Evidence,
    },
    /// The guest wrote its pvpanic device.
    Panicked {
        /// Bits as in [`super::pvpanic`]: `PANICKED`, `CRASH_LOADED`; at least one is set.
        events: u8,
    },
    /// The guest asked for a system reset.
    Reset(ResetKind),
    /// The guest powered off (ACPI S5).
    PowerOff,
    /// The guest sent a byte by a serial port.
    Output {
        /// The port.
        com: Com,
        /// The byte.
        byte: u8,
    },
    /// A serial port that turned input away has room again.
    InputRoom {
        /// The port.
        com: Com,
    },
    /// An interrupt line has changed its level.
    IrqLine {
        /// GSI number: 3 and 4 the serial ports, 1 and 12 the i8042, [`super::board::intx_line`] the PCI slots.
        line: u32,
        /// The new level.
        level: bool,
    },
    /// The guest did something to a virtio device.
    Virtio {
        /// The device's slot, as [`super::board::Board::add_virtio`] gave it.
        slot: u8,
        /// What it did.
        event: virtio::Event,
    },
}

/// What one access or tick brought about, in order; mostly nothing.
///
/// Whoever called the board acts on it after letting the board's lock go.
#[must_use = "the machine has to act on the signals"]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    signals: Vec<Signal>,
}

impl Outcome {
    /// True when nothing happened that anybody has to know.
    pub fn is_empty(&self) -> bool {
        self.signals.is_empty()
    }

    /// The signals, oldest first.
    pub fn signals(&self) -> &[Signal] {
        &self.signals
    }

    /// Adds a signal after the others.
    pub fn push(&mut self, signal: Signal) {
        self.signals.push(signal);
    }
}

impl IntoIterator for Outcome {
    type Item = Signal;
    type IntoIter = std::vec::IntoIter<Signal>;
    fn into_iter(self) -> Self::IntoIter {
        self.signals.into_iter()
    }
}
