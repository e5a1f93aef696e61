//! A `vcpu-N` thread: the run loop.
//!
//! ```text
//!            ┌──────────── turn: run ◀────────────────────────────┐
//!            ▼                                                    │
//!         KVM_RUN ── PIO, MMIO ──▶ board ──┐                      │
//!            ▲  │                          │                      │
//!            └──┼──────────────────────────┘                      │
//!               ├── EINTR (kick, gate's alarm) ──▶ gate? turn ── run ──▶ witness? NMI? ── stop ──▶ thread ends
//!               └── shutdown, internal error ──▶ guest has ended ─┘
//! ```
//!
//! `HLT` never comes here: KVM's own interrupt controllers wake the guest.

use std::io;

use kvm_bindings::{KVM_EXIT_IO_OUT, kvm_run};
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::pace::Turn;
use super::processor;
use super::report::Report;
use super::signal::{Alarm, swallow_kicks, take_kicks_in};
use super::wiring::Wiring;
use crate::clock;

/// One processor.
#[derive(Debug)]
pub struct Vcpu<'a> {
    index: usize,
    fd: &'a mut VcpuFd,
    wiring: &'a Wiring,
    alarm: Alarm,
    /// The witness's last question that was answered.
    answered: u64,
    /// How many NMIs were injected.
    nmis: u64,
}

enum Step {
    Again,
    Interrupted,
}

impl<'a> Vcpu<'a> {
    /// The processor behind `fd`, on the thread that calls this.
    pub fn new(index: usize, fd: &'a mut VcpuFd, wiring: &'a Wiring) -> io::Result<Vcpu<'a>> {
        take_kicks_in(fd)?;
        Ok(Vcpu { index, fd, wiring, alarm: Alarm::new()?, answered: 0, nmis: 0 })
    }

    /// The thread's body: ends when the machine stops.
    pub fn run(&mut self) {
        let pace = self.wiring.pace();
        loop {
            pace.hold_if_passed();
            match pace.turn() {
                Turn::Stop => return,
                Turn::Run { again } => {
                    if again {
                        // Tells a guest with kvmclock that it was away; others have nothing to be told.
                        let _ = self.fd.kvmclock_ctrl();
                    }
                }
            }
            self.alarm.arm(pace.gate_shuts_at(), clock::mono());
            self.wiring.witness().answer(&mut self.answered, self.index, self.fd);
            self.take_nmi(pace.nmis());
            while let Step::Again = self.step() {}
            swallow_kicks();
        }
    }

    /// Injects an NMI if more were asked for than came. The line from outside is wired to every local APIC's LINT1: the
    /// boot processor takes it always, another where its kernel wants so (Linux: `apic_extnmi=all`).
    fn take_nmi(&mut self, asked: u64) {
        if std::mem::replace(&mut self.nmis, asked) == asked || (self.index != 0 && !processor::takes_nmis(self.fd)) {
            return;
        }
        if let Err(error) = self.fd.nmi() {
            log::error!("KVM refuses the NMI for processor {}: {error}", self.index);
        }
    }

    fn step(&mut self) -> Step {
        match self.fd.run() {
            Ok(VcpuExit::IoIn(..) | VcpuExit::IoOut(..)) => {
                self.wiring.has_run();
                self.port();
            }
            Ok(VcpuExit::MmioRead(address, data)) => {
                self.wiring.has_run();
                self.wiring.access(|board, now| board.mmio_read(now, address, data));
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                self.wiring.has_run();
                self.wiring.access(|board, now| board.mmio_write(now, address, data));
            }
            Ok(VcpuExit::Shutdown) => {
                self.wiring.has_run();
                return self.end(Report::TripleFault { vcpu: self.index });
            }
            Ok(VcpuExit::InternalError) => {
                let what = self.internal_error();
                return self.broken(what);
            }
            Ok(VcpuExit::FailEntry(reason, cpu)) => {
                let what = format!("the host's processor {cpu} refuses to enter the guest (reason {reason:#x})");
                return self.broken(what);
            }
            // Only hypervisors that KVM does not play here end a guest this way.
            Ok(VcpuExit::SystemEvent(event, _)) => {
                let what = format!("it came back with system event {event}, which nothing in this machine makes");
                return self.broken(what);
            }
            Ok(VcpuExit::Hlt | VcpuExit::Intr | VcpuExit::IrqWindowOpen | VcpuExit::SetTpr) => {}
            Ok(exit) => {
                let what = format!("it came back with {exit:?}");
                return self.broken(what);
            }
            Err(error) => match error.errno() {
                libc::EINTR => return Step::Interrupted,
                // A processor that waited for its start-up signal has got it.
                libc::EAGAIN => {}
                _ => return self.broken(format!("KVM_RUN failed: {error}")),
            },
        }
        Step::Again
    }

    /// One port instruction; a string instruction comes here with many elements, one access each.
    fn port(&mut self) {
        let run: *mut kvm_run = self.fd.get_kvm_run();
        // SAFETY: the exit was one of I/O, so this is the union's field, and its data lie in the mapping of this
        // vCPU, at the offset the kernel says; nobody else touches it until the next KVM_RUN.
        let (io, data) = unsafe {
            let io = (*run).__bindgen_anon_1.io;
            let bytes = usize::from(io.size) * io.count as usize;
            let start = run.cast::<u8>().add(io.data_offset as usize);
            (io, std::slice::from_raw_parts_mut(start, bytes))
        };
        for element in data.chunks_exact_mut(usize::from(io.size).max(1)) {
            if u32::from(io.direction) == KVM_EXIT_IO_OUT {
                self.wiring.access(|board, now| board.pio_write(now, io.port, element));
            } else {
                self.wiring.access(|board, now| board.pio_read(now, io.port, element));
            }
        }
    }

    fn internal_error(&mut self) -> String {
        // SAFETY: the exit was an internal error, so this is the union's field.
        let internal = unsafe { self.fd.get_kvm_run().__bindgen_anon_1.internal };
        let kind = match internal.suberror {
            1 => "an instruction that it cannot emulate",
            2 => "two exceptions at once",
            3 => "an event that it cannot deliver",
            4 => "an exit that it does not know",
            _ => "an error of its own",
        };
        format!("it met {kind} (suberror {})", internal.suberror)
    }

    fn broken(&mut self, what: String) -> Step {
        let rip = self.fd.get_regs().map_or(0, |registers| registers.rip);
        self.end(Report::KvmError { vcpu: self.index, what, rip })
    }

    fn end(&mut self, why: Report) -> Step {
        self.wiring.end(why);
        Step::Interrupted
    }
}
