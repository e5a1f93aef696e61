//! The `block` thread: takes requests off the queue, does them one after another, tells the guest.
//!
//! ```text
//!                Start            Rung: each chain in the ring
//!   ┌──────┐ ─────────────▶ ┌─────────┐ ── gate open: submit ──▶ done ──▶ used ring, interrupt
//!   │ idle │                │ working │ ── gate shut: hold, look again each millisecond
//!   └──────┘ ◀───────────── └─────────┘ ── malformed: broken, nothing more until a reset
//!                Reset            Stop: what is in flight ends and what failed settles, what is held is dropped
//! ```
//!
//! A held request is kept under the grant it came in with: if the right comes back under another one, the
//! request never goes.

use std::cell::Cell;
use std::time::Duration;

use vm_memory::{Bytes, GuestMemoryMmap};

use super::backend::Host;
use super::block::{self, F_FLUSH, Request, Status, Wish};
use super::disk::{Admission, Disk, Stopped};
use super::link::Work;
use super::pci::Kind;
use super::ring::{Malformed, Ring};
use super::{F_EVENT_IDX, Started};
use crate::storage::gate::Grant;

/// How often a held request asks the gate again.
const HELD_LOOK: Duration = Duration::from_millis(1);

/// One disk and its queue.
#[derive(Debug)]
pub struct Worker {
    disk: Disk,
    name: String,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    ring: Ring,
    durable: bool,
}

impl Worker {
    /// A worker for `disk`, which the guest knows as `name` (20 bytes of it).
    pub fn new(disk: Disk, name: String) -> Worker {
        Worker { disk, name, running: None }
    }

    /// What its transport shows.
    pub fn kind(&self) -> Kind {
        block::kind(&self.disk)
    }

    /// The thread's body: ends when the link says stop, with nothing in flight.
    pub fn run(&mut self, host: &Host<'_>) {
        loop {
            match host.link.next() {
                Work::Stop => {
                    self.running = None;
                    std::thread::sleep(host.gate.settles_in((host.now)()));
                    return;
                }
                Work::Reset(generation) => {
                    self.running = None;
                    host.link.let_go(generation);
                }
                Work::Start(started) => match start(&started, host.memory) {
                    Ok(running) => {
                        self.running = Some(running);
                        self.work(host);
                    }
                    Err(malformed) => self.break_down(malformed, host),
                },
                Work::Rung => self.work(host),
                Work::Refresh => {}
            }
        }
    }

    fn work(&mut self, host: &Host<'_>) {
        if let Err(malformed) = self.work_through(host) {
            self.break_down(malformed, host);
        }
    }

    fn work_through(&mut self, host: &Host<'_>) -> Result<(), Malformed> {
        while !host.link.recalled() {
            let Some(running) = &mut self.running else { return Ok(()) };
            let Some(chain) = running.ring.next(host.memory)? else {
                if running.ring.rest(host.memory)? {
                    continue;
                }
                return Ok(());
            };
            let head = chain.head;
            let request = block::parse(chain, host.memory, &self.disk)?;
            let durable = running.durable;
            let Some((status, written)) = self.serve(&request, durable, host) else { return Ok(()) };
            host.memory.write_obj(status as u8, request.status).map_err(|_| Malformed::Outside)?;
            self.complete(head, written + 1, host)?;
        }
        Ok(())
    }

    fn complete(&mut self, head: u16, written: u32, host: &Host<'_>) -> Result<(), Malformed> {
        let Some(running) = &mut self.running else { return Ok(()) };
        running.ring.used(head, written, host.memory)?;
        if running.ring.wants_interrupt(host.memory)? {
            host.interrupt_queue(0);
        }
        Ok(())
    }

    /// Does one request: its status and the bytes of data written to the guest; none: it was recalled.
    fn serve(&mut self, request: &Request, durable: bool, host: &Host<'_>) -> Option<(Status, u32)> {
        let admission = Asking { host, grant: host.gate.grant(host.right), busy: Cell::new(false) };
        let result = match request.wish {
            Wish::Read(at) => self.disk.read(at, &request.data, &admission),
            Wish::Write(at) => self.disk.write(at, &request.data, durable, &admission),
            Wish::Flush => self.disk.flush(&admission),
            Wish::Id => {
                super::disk::fill(&request.data, &block::id(&self.name));
                Ok(())
            }
            Wish::Refused(status) => return Some((status, 0)),
        };
        admission.mark(false);
        match result {
            Ok(()) if request.wish == Wish::Id => Some((Status::Ok, block::id("").len() as u32)),
            Ok(()) if matches!(request.wish, Wish::Read(_)) => Some((Status::Ok, request.bytes() as u32)),
            Ok(()) => Some((Status::Ok, 0)),
            Err(Stopped::Recalled) => None,
            Err(Stopped::Failed(error)) => {
                host.gate.failed((host.now)());
                (host.failed)(error);
                Some((Status::IoError, 0))
            }
        }
    }

    fn break_down(&mut self, why: Malformed, host: &Host<'_>) {
        self.running = None;
        host.break_down(why);
    }
}

fn start(started: &Started, memory: &GuestMemoryMmap) -> Result<Running, Malformed> {
    let setup = started.queues.first().ok_or(Malformed::Queue)?;
    let ring = Ring::open(setup, started.features & F_EVENT_IDX != 0, memory)?;
    Ok(Running { ring, durable: started.features & F_FLUSH == 0 })
}

/// Asks the gate for one request, and waits while it is shut.
struct Asking<'a> {
    host: &'a Host<'a>,
    grant: Grant,
    busy: Cell<bool>,
}

impl Asking<'_> {
    /// Notes, for who drains, that a request is with the kernel, or no longer.
    fn mark(&self, busy: bool) {
        match (self.busy.replace(busy), busy) {
            (false, true) => self.host.gate.begins(),
            (true, false) => self.host.gate.ended(),
            _ => {}
        }
    }
}

impl Admission for Asking<'_> {
    fn admit(&self, write: bool) -> Result<(), Stopped> {
        let Host { gate, right, now, held, link, .. } = *self.host;
        let mut told = false;
        loop {
            self.mark(true);
            if let Ok(until) = gate.pass(right, self.grant, now()) {
                if write {
                    gate.submitted(until, now());
                }
                return Ok(());
            }
            self.mark(false);
            if !std::mem::replace(&mut told, true) {
                held();
            }
            link.hush();
            if link.recalled_within(HELD_LOOK) {
                return Err(Stopped::Recalled);
            }
        }
    }
}
