//! The common configuration of a virtio device (virtio 1.2, 4.1.4.3): features, queues, status.
//!
//! ```text
//!   status   0 ──ACKNOWLEDGE, DRIVER──▶ features ──FEATURES_OK──▶ queues ──DRIVER_OK──▶ runs ─▶ NEEDS_RESET
//!            ▲                                                                            │
//!            └────────── reads 0 when the worker has let go ◀──── driver writes 0 ◀───────┘
//! ```
//!
//! A register written at a width it does not have, or at a time when it may not be, keeps its value.

use std::sync::Arc;

use super::link::Link;
use super::{Event, F_VERSION_1, QueueSetup, Started};

/// Bytes of the structure.
pub const BYTES: usize = 0x38;

const STATUS_FEATURES_OK: u8 = 8;
const STATUS_DRIVER_OK: u8 = 4;
const STATUS_NEEDS_RESET: u8 = 0x40;
const STATUS_OF_DRIVER: u8 = 0x8f;

/// The registers.
#[derive(Debug)]
pub struct Registers {
    link: Arc<Link>,
    offered: u64,
    generation: u64,
    resetting: Option<u8>,
    status: u8,
    features: u64,
    offered_select: u32,
    accepted_select: u32,
    queue_select: u16,
    queues: Vec<QueueSetup>,
}

impl Registers {
    /// Registers after a reset, of a device that offers `features` and has queues of at most these sizes.
    pub fn new(features: u64, queues: &[u16], link: Arc<Link>) -> Registers {
        Registers {
            link,
            offered: features | F_VERSION_1,
            generation: 0,
            resetting: None,
            status: 0,
            features: 0,
            offered_select: 0,
            accepted_select: 0,
            queue_select: 0,
            queues: queues.iter().map(|most| QueueSetup::new(*most)).collect(),
        }
    }

    /// True from DRIVER_OK to the reset.
    pub fn running(&self) -> bool {
        self.status & STATUS_DRIVER_OK != 0
    }

    /// True when the driver has enabled `queue` and set DRIVER_OK.
    pub fn rings(&self, queue: u16) -> bool {
        self.running() && self.queues.get(usize::from(queue)).is_some_and(|queue| queue.enabled)
    }

    /// System reset: as at power-on. The worker has ended before.
    pub fn restart(&mut self) {
        self.generation += 1;
        self.begin();
        self.resetting = None;
        self.link.restart(self.generation);
    }

    /// The structure as it reads.
    pub fn read(&mut self) -> [u8; BYTES] {
        self.settle();
        let none = QueueSetup { size: 0, ..QueueSetup::new(0) };
        let queue = self.queues.get(usize::from(self.queue_select)).unwrap_or(&none);
        let interrupts = self.link.interrupts();
        let half = |value: u64, select: u32| match select {
            0 => value as u32,
            1 => (value >> 32) as u32,
            _ => 0,
        };
        let mut bytes = [0; BYTES];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0x00, &self.offered_select.to_le_bytes());
        put(0x04, &half(self.offered, self.offered_select).to_le_bytes());
        put(0x08, &self.accepted_select.to_le_bytes());
        put(0x0c, &half(self.features, self.accepted_select).to_le_bytes());
        put(0x10, &interrupts.assigned(None).to_le_bytes());
        put(0x12, &(self.queues.len() as u16).to_le_bytes());
        put(0x14, &[self.status()]);
        put(0x15, &[self.link.settings().generation()]);
        put(0x16, &self.queue_select.to_le_bytes());
        put(0x18, &queue.size.to_le_bytes());
        put(0x1a, &interrupts.assigned(Some(self.queue_select)).to_le_bytes());
        put(0x1c, &u16::from(queue.enabled).to_le_bytes());
        put(0x1e, &self.queue_select.to_le_bytes());
        put(0x20, &queue.descriptors.to_le_bytes());
        put(0x28, &queue.available.to_le_bytes());
        put(0x30, &queue.used.to_le_bytes());
        bytes
    }

    /// A write of any length at `offset`, which lies in the structure.
    pub fn write(&mut self, offset: usize, data: &[u8]) -> Option<Event> {
        self.settle();
        match (offset, data) {
            (0x00, &[a, b, c, d]) => self.offered_select = u32::from_le_bytes([a, b, c, d]),
            (0x08, &[a, b, c, d]) => self.accepted_select = u32::from_le_bytes([a, b, c, d]),
            (0x0c, &[a, b, c, d]) => self.accept(u32::from_le_bytes([a, b, c, d])),
            (0x10, &[a, b]) => self.link.interrupts().assign(None, u16::from_le_bytes([a, b])),
            (0x14, &[status]) => return self.write_status(status),
            (0x16, &[a, b]) => self.queue_select = u16::from_le_bytes([a, b]),
            (0x18, &[a, b]) => self.resize(u16::from_le_bytes([a, b])),
            (0x1a, &[a, b]) => self.link.interrupts().assign(Some(self.queue_select), u16::from_le_bytes([a, b])),
            (0x1c, &[1, 0]) => {
                if let Some(queue) = self.unset_queue() {
                    queue.enabled = true;
                }
            }
            (0x20..0x38, &[a, b, c, d]) if offset.is_multiple_of(4) => {
                self.place(offset, u32::from_le_bytes([a, b, c, d]));
            }
            (0x20 | 0x28 | 0x30, &[a, b, c, d, e, f, g, h]) => {
                self.place(offset, u32::from_le_bytes([a, b, c, d]));
                self.place(offset + 4, u32::from_le_bytes([e, f, g, h]));
            }
            _ => {}
        }
        None
    }

    /// A reset that the worker has seen is over.
    fn settle(&mut self) {
        if self.link.is_quiet(self.generation) {
            self.resetting = None;
        }
    }

    fn status(&self) -> u8 {
        let broken = self.link.is_broken() && self.resetting.is_none();
        self.resetting.unwrap_or(self.status) | if broken { STATUS_NEEDS_RESET } else { 0 }
    }

    fn begin(&mut self) {
        self.status = 0;
        self.features = 0;
        self.offered_select = 0;
        self.accepted_select = 0;
        self.queue_select = 0;
        for queue in &mut self.queues {
            *queue = QueueSetup::new(queue.most);
        }
        self.link.interrupts().forget();
    }

    fn accept(&mut self, half: u32) {
        if self.status & STATUS_FEATURES_OK != 0 {
            return;
        }
        let half = u64::from(half);
        match self.accepted_select {
            0 => self.features = self.features & !0xffff_ffff | half,
            1 => self.features = self.features & 0xffff_ffff | half << 32,
            _ => {}
        }
    }

    fn resize(&mut self, size: u16) {
        if let Some(queue) = self.unset_queue()
            && size.is_power_of_two()
            && size <= queue.most
        {
            queue.size = size;
        }
    }

    fn place(&mut self, offset: usize, half: u32) {
        let Some(queue) = self.unset_queue() else { return };
        let address = match offset {
            0x20 | 0x24 => &mut queue.descriptors,
            0x28 | 0x2c => &mut queue.available,
            _ => &mut queue.used,
        };
        let half = u64::from(half);
        *address = if offset & 4 == 0 { *address & !0xffff_ffff | half } else { *address & 0xffff_ffff | half << 32 };
    }

    /// The selected queue, if it is there and may still be set up.
    fn unset_queue(&mut self) -> Option<&mut QueueSetup> {
        if self.running() || self.resetting.is_some() {
            return None;
        }
        self.queues.get_mut(usize::from(self.queue_select)).filter(|queue| !queue.enabled)
    }

    fn write_status(&mut self, status: u8) -> Option<Event> {
        if status == 0 {
            return self.driver_reset();
        }
        if self.resetting.is_some() {
            return None;
        }
        let had = self.status;
        // Bits are only ever added (2.1.1); NEEDS_RESET is the device's own.
        self.status |= status & STATUS_OF_DRIVER;
        let agreed = self.features & !self.offered == 0 && self.features & F_VERSION_1 != 0;
        if had & STATUS_FEATURES_OK == 0 && !agreed {
            self.status &= !STATUS_FEATURES_OK;
        }
        if self.status & STATUS_FEATURES_OK == 0 {
            self.status &= !STATUS_DRIVER_OK;
        }
        if self.status & !had & STATUS_DRIVER_OK == 0 {
            return None;
        }
        self.link.interrupts().wake();
        let (generation, features) = (self.generation, self.features);
        Some(Event::Started(Started { generation, features, queues: self.queues.clone() }))
    }

    fn driver_reset(&mut self) -> Option<Event> {
        if self.resetting.is_some() {
            return None;
        }
        let ran = self.running();
        let status = self.status();
        self.begin();
        if !ran {
            return None;
        }
        self.generation += 1;
        self.resetting = Some(status);
        Some(Event::Reset { generation: self.generation })
    }
}
