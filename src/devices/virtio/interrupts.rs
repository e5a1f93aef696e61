//! How a device interrupts its driver: by messages (MSI-X), or by a line where the driver has not enabled them.
//!
//! ```text
//!   worker ── queue(n) ──▶ MSI-X on:  the queue's vector ── open ──▶ its bell (in KVM: an irqfd) ──▶ local APIC
//!                    │                                  └── closed ▶ pending, sent when it opens
//!                    └───▶ MSI-X off: interrupt status ──▶ the board looks at its lines
//! ```
//!
//! The worker takes no lock and makes no system call but the bell's. Who opens a vector has routed its message
//! before; so one that finds it open may ring.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, Ordering};

use vmm_sys_util::eventfd::EventFd;

/// Interrupt status bit: a queue has used buffers (4.1.4.5).
pub const INTERRUPT_QUEUE: u8 = 1;
/// Interrupt status bit: device status or configuration has changed.
pub const INTERRUPT_CONFIG: u8 = 2;
/// No vector: nothing is sent (4.1.5.1.2).
pub const NO_VECTOR: u16 = 0xffff;

#[derive(Debug)]
struct Vector {
    open: AtomicBool,
    pending: AtomicBool,
    bell: EventFd,
}

impl Vector {
    fn new() -> io::Result<Vector> {
        let bell = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        Ok(Vector { open: AtomicBool::new(false), pending: AtomicBool::new(false), bell })
    }

    fn ring(&self) {
        // A counter that is full rings already.
        let _ = self.bell.write(1);
    }

    fn fire(&self) {
        if self.open.load(Ordering::SeqCst) {
            return self.ring();
        }
        self.pending.store(true, Ordering::SeqCst);
        // It may have opened in between, and found nothing pending.
        if self.open.load(Ordering::SeqCst) {
            self.flush();
        }
    }

    fn flush(&self) {
        if self.pending.swap(false, Ordering::SeqCst) {
            self.ring();
        }
    }
}

/// A device's interrupts, shared by its transport and its worker.
#[derive(Debug)]
pub struct Interrupts {
    status: AtomicU8,
    by_message: AtomicBool,
    /// The driver is ready for interrupts (DRIVER_OK).
    awake: AtomicBool,
    of_config: AtomicU16,
    of_queues: Vec<AtomicU16>,
    vectors: Vec<Vector>,
}

impl Interrupts {
    /// Those of a device with `queues` queues: a vector for each, and one for its configuration.
    pub fn new(queues: usize) -> io::Result<Interrupts> {
        Ok(Interrupts {
            status: AtomicU8::new(0),
            by_message: AtomicBool::new(false),
            awake: AtomicBool::new(false),
            of_config: AtomicU16::new(NO_VECTOR),
            of_queues: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
            vectors: (0..=queues).map(|_| Vector::new()).collect::<io::Result<_>>()?,
        })
    }

    /// Queue `queue` has used buffers: tells the driver. True when the board has to look at its lines.
    #[must_use = "a line that has risen has to be told"]
    pub fn queue(&self, queue: u16) -> bool {
        if !self.by_message.load(Ordering::Acquire) {
            return self.raise(INTERRUPT_QUEUE);
        }
        if let Some(vector) = self.of_queues.get(usize::from(queue)) {
            self.fire(vector.load(Ordering::Acquire));
        }
        false
    }

    /// Status or configuration has changed: tells the driver, if it is there. True as for [`Interrupts::queue`].
    #[must_use = "a line that has risen has to be told"]
    pub fn config(&self) -> bool {
        if !self.awake.load(Ordering::Acquire) {
            return false;
        }
        let rose = self.raise(INTERRUPT_CONFIG);
        if !self.by_message.load(Ordering::Acquire) {
            return rose;
        }
        self.fire(self.of_config.load(Ordering::Acquire));
        false
    }

    /// How many vectors it has.
    pub fn vectors(&self) -> u16 {
        self.vectors.len() as u16
    }

    /// What `vector` rings.
    pub fn bell(&self, vector: u16) -> Option<&EventFd> {
        self.vectors.get(usize::from(vector)).map(|vector| &vector.bell)
    }

    /// What `vector` rings is routed to a processor: from now on it may ring; what is pending is sent.
    pub fn open(&self, vector: u16) {
        if let Some(vector) = self.vectors.get(usize::from(vector)) {
            vector.open.store(true, Ordering::SeqCst);
            vector.flush();
        }
    }

    /// `vector` is masked: from now on it is pending instead.
    pub fn close(&self, vector: u16) {
        if let Some(vector) = self.vectors.get(usize::from(vector)) {
            vector.open.store(false, Ordering::SeqCst);
        }
    }

    /// The pending bits from byte `offset` on, as the guest reads them.
    pub(super) fn read_pending(&self, offset: u64, data: &mut [u8]) {
        let bit = |vector: u64| {
            let vector = usize::try_from(vector).ok().and_then(|vector| self.vectors.get(vector));
            u8::from(vector.is_some_and(|vector| vector.pending.load(Ordering::SeqCst)))
        };
        for (byte, at) in data.iter_mut().zip(offset..) {
            *byte = (0..8).fold(0, |bits, shift| bits | bit(at * 8 + shift) << shift);
        }
    }

    /// The driver has switched MSI-X on or off.
    pub(super) fn set_by_message(&self, on: bool) {
        self.by_message.store(on, Ordering::Release);
    }

    /// The driver has become ready (DRIVER_OK).
    pub(super) fn wake(&self) {
        self.awake.store(true, Ordering::Release);
    }

    /// Gives `queue`, or the configuration, a vector; one that does not exist becomes none.
    pub(super) fn assign(&self, queue: Option<u16>, vector: u16) {
        let vector = if vector < self.vectors() { vector } else { NO_VECTOR };
        if let Some(place) = self.place(queue) {
            place.store(vector, Ordering::Release);
        }
    }

    /// The vector of `queue`, or of the configuration.
    pub(super) fn assigned(&self, queue: Option<u16>) -> u16 {
        self.place(queue).map_or(NO_VECTOR, |place| place.load(Ordering::Acquire))
    }

    /// A device reset: no vectors, nothing in the status. What MSI-X itself holds stays.
    pub(super) fn forget(&self) {
        self.awake.store(false, Ordering::Release);
        self.of_config.store(NO_VECTOR, Ordering::Release);
        self.of_queues.iter().for_each(|of| of.store(NO_VECTOR, Ordering::Release));
        self.take_status();
    }

    /// A system reset: as at power-on.
    pub(super) fn reset(&self) {
        self.forget();
        self.set_by_message(false);
        for vector in &self.vectors {
            vector.open.store(false, Ordering::SeqCst);
            vector.pending.store(false, Ordering::SeqCst);
            // An empty one fails to be read.
            let _ = vector.bell.read();
        }
    }

    pub(super) fn take_status(&self) -> u8 {
        self.status.swap(0, Ordering::AcqRel)
    }

    /// Level of the line.
    pub(super) fn line(&self) -> bool {
        self.status.load(Ordering::Acquire) != 0 && !self.by_message.load(Ordering::Acquire)
    }

    fn place(&self, queue: Option<u16>) -> Option<&AtomicU16> {
        match queue {
            None => Some(&self.of_config),
            Some(queue) => self.of_queues.get(usize::from(queue)),
        }
    }

    fn raise(&self, bits: u8) -> bool {
        self.status.fetch_or(bits, Ordering::AcqRel) == 0
    }

    fn fire(&self, vector: u16) {
        if let Some(vector) = self.vectors.get(usize::from(vector)) {
            vector.fire();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rung(interrupts: &Interrupts, vector: u16) -> bool {
        interrupts.bell(vector).unwrap().read().is_ok()
    }

    #[test]
    fn without_messages_a_line_rises_once() {
        let interrupts = Interrupts::new(1).unwrap();
        assert!(!interrupts.config(), "nobody is there");
        interrupts.wake();
        assert!(interrupts.queue(0) && !interrupts.queue(0) && !interrupts.config());
        assert!(interrupts.line());
        assert_eq!(interrupts.take_status(), INTERRUPT_QUEUE | INTERRUPT_CONFIG);
        assert!(!interrupts.line());
    }

    #[test]
    fn a_closed_vector_is_pending_until_it_opens() {
        let interrupts = Interrupts::new(2).unwrap();
        interrupts.set_by_message(true);
        interrupts.wake();
        interrupts.assign(Some(1), 2);
        interrupts.assign(None, 3);
        assert_eq!(interrupts.assigned(None), NO_VECTOR, "there is no such vector");
        assert!(!interrupts.queue(1) && !interrupts.queue(0) && !interrupts.config());
        let mut pending = [0];
        interrupts.read_pending(0, &mut pending);
        assert_eq!((pending, rung(&interrupts, 2)), ([0b100], false));
        interrupts.open(2);
        interrupts.read_pending(0, &mut pending);
        assert_eq!((pending, rung(&interrupts, 2)), ([0], true));
        assert!(!interrupts.queue(1) && rung(&interrupts, 2));
        interrupts.close(2);
        assert!(!interrupts.queue(1) && !rung(&interrupts, 2));
        interrupts.reset();
        interrupts.open(2);
        assert!(!rung(&interrupts, 2), "a system reset forgets what was pending");
    }

    #[test]
    fn none_is_lost_between_closing_and_opening() {
        let interrupts = Interrupts::new(1).unwrap();
        interrupts.set_by_message(true);
        interrupts.assign(Some(0), 1);
        for _ in 0..if cfg!(miri) { 20 } else { 2000 } {
            std::thread::scope(|scope| {
                scope.spawn(|| assert!(!interrupts.queue(0)));
                interrupts.close(1);
                interrupts.open(1);
            });
            assert!(rung(&interrupts, 1));
        }
    }
}
