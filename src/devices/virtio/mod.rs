//! Virtio 1.2 devices over modern PCI.
//!
//! ```text
//!   vCPU ─ board ─▶ Transport ── Event ──▶ Link: inbox, bell ──▶ worker thread: queues, guest RAM, I/O
//!                      ▲                    ▲ ▲                     │
//!                      │        doorbells ──┘ └── host: refresh     │
//!                      └── status, settings ◀── Link ◀──────────────┤
//!                             KVM: irqfd ◀── Interrupts ◀───────────┘
//! ```
//!
//! The transport moves registers under the board's lock; the queues of a device are worked on by its one thread,
//! which never takes that lock. What they share is the [`link::Link`]: a bell that rings once however often it is
//! pushed, so that no guest can make a vCPU wait for a disk. A running device's doorbells ring it from within KVM,
//! and its interrupts go into KVM the same way: no exit, no lock.
//!
//! Each reset of the device begins a new *generation*; whatever is told about an older one is dropped.
//!
//! # What a device has to bring
//!
//! - A [`pci::Kind`]: its device id, class, features, configuration space and queues.
//! - A worker with `fn run(&mut self, host: &Host<'_>)`, the body of its thread, which asks [`link::Link::next`] (or,
//!   with descriptors of its own, waits on [`link::Link::bell_fd`] beside them, then `hush`, then `news`) and does as
//!   it is told: `Start` opens the queues ([`ring::open_all`]); `Rung` looks at them; `Reset` lets all of them go and
//!   *then* says [`link::Link::let_go`]; `Stop` ends it with nothing in flight. A [`ring::Malformed`] from anywhere
//!   goes to [`backend::Host::break_down`], and the queues with it.
//! - Two rows in [`backend::Backend`], which runs it.
//!
//! Around a look at a queue: `look`; `next` and `used` until there is none; `wants_interrupt`, and if so
//! [`backend::Host::interrupt_queue`]; `rest`, and from the start if that says so.

pub mod backend;
pub mod block;
pub mod interrupts;
pub mod link;
pub mod net;
pub mod pci;
mod registers;
pub mod ring;
pub mod rng;
pub mod settings;
#[cfg(test)]
mod tests;

use super::pci::msix::Change;

/// `VIRTIO_F_VERSION_1`: the device is not a legacy one (virtio 1.2, 6).
pub const F_VERSION_1: u64 = 1 << 32;
/// `VIRTIO_F_INDIRECT_DESC`: chains may lie in tables of their own (2.7.5.3).
pub const F_INDIRECT_DESC: u64 = 1 << 28;
/// `VIRTIO_F_EVENT_IDX`: each side says from which index on it wants to be told (2.7.7, 2.7.10).
pub const F_EVENT_IDX: u64 = 1 << 29;

/// What a guest did to a virtio device that somebody has to act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The guest rang the bell of this queue (virtio 1.2, 4.1.5.2).
    Notify {
        /// Queue number, 0 is the first.
        queue: u16,
    },
    /// The driver has set DRIVER_OK.
    Started(Started),
    /// The driver has reset the device: let the queues go.
    Reset {
        /// The generation that begins.
        generation: u64,
    },
    /// The driver has written the device's configuration space.
    Configured,
    /// An MSI-X vector has opened, closed or changed: the machine routes it.
    Vector(Change),
    /// The doorbells of a running device have come, moved or gone: the machine follows.
    Doorbells {
        /// Guest-physical address of queue 0's; the others follow [`pci::DOORBELL_BYTES`] apart.
        at: Option<u64>,
    },
}

/// What the driver had set up when it set DRIVER_OK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// Number of device resets before.
    pub generation: u64,
    /// The features negotiated.
    pub features: u64,
    /// The queues, in order; those that the driver did not enable too.
    pub queues: Vec<QueueSetup>,
}

/// One queue as the driver left it; nothing of it has been checked but that the size is a power of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueSetup {
    /// Entries, a power of two, at most [`QueueSetup::most`].
    pub size: u16,
    /// Most entries it may have.
    pub most: u16,
    /// True when the driver enabled it.
    pub enabled: bool,
    /// Guest-physical address of the descriptor table.
    pub descriptors: u64,
    /// Of the available ring.
    pub available: u64,
    /// Of the used ring.
    pub used: u64,
}

impl QueueSetup {
    /// A queue of at most `most` entries as it is after a reset.
    pub fn new(most: u16) -> QueueSetup {
        QueueSetup { size: most, most, enabled: false, descriptors: 0, available: 0, used: 0 }
    }
}

/// Copies what `bytes` has from `offset` on; the rest of `data` stays.
fn copy(bytes: &[u8], offset: u64, data: &mut [u8]) {
    let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    for (to, from) in data.iter_mut().zip(&bytes[from..]) {
        *to = *from;
    }
}
