//! Chips, and the board they sit on. They move bytes and know no roles.
//!
//! ```text
//!   vCPU threads ──┐  pio/mmio, now          ┌─▶ serial   COM1, COM2
//!                  ├─▶ Mutex<Board> ─ match ─┼─▶ reset    i8042, 0xcf9, 0x92, ACPI ports
//!   ticker ────────┘  tick, now              └─▶ pci ─▶ host bridge, i6300esb, pvpanic, virtio
//!                  ◀── Outcome: what the rest of the machine has to know
//! ```
//!
//! A chip is a plain value: it reads no clock, owns no thread, descriptor or callback (a virtio device shares
//! event descriptors with its back end, and no more). Time comes in as [`GuestTime`]; what a chip has to say
//! goes out as a value. Chips belong to [`board::Board`],
//! which stands under one lock, shared by the vCPU threads and the ticker.

pub mod board;
pub mod i6300esb;
pub mod i8042;
pub mod pci;
pub mod pvpanic;
pub mod reset;
pub mod serial;
pub mod signal;
pub mod virtio;

use std::ops::Add;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Guest-virtual time: nanoseconds since the machine was made.
///
/// It stands still while the machine is paused, and is handed in by the caller: the chips read no
/// clock. Its range ends after 584 years; sums that would pass the end stay there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct GuestTime(u64);

impl GuestTime {
    /// The moment the machine was made.
    pub const ZERO: GuestTime = GuestTime(0);

    /// The moment `ns` nanoseconds after the machine was made.
    pub const fn from_ns(ns: u64) -> GuestTime {
        GuestTime(ns)
    }

    /// Nanoseconds since the machine was made.
    pub const fn ns(self) -> u64 {
        self.0
    }

    /// The moment `by` later; none when it lies past the end of the range.
    pub fn checked_add(self, by: Duration) -> Option<GuestTime> {
        self.0.checked_add(crate::time::nanos(by)).map(GuestTime)
    }

    /// The time from `earlier` to this moment; zero when `earlier` is the later one.
    pub const fn since(self, earlier: GuestTime) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for GuestTime {
    type Output = GuestTime;
    fn add(self, by: Duration) -> GuestTime {
        GuestTime(self.0.saturating_add(crate::time::nanos(by)))
    }
}
