//! `duplexvm boot`: one guest alone, without a pair.
//!
//! ```text
//!   machine's threads ── console bytes ──▶ stdout, stderr or a file, at once
//!                     ── other reports ──▶ channel ──▶ this loop: event, policy, exit code
//! ```

mod args;
mod events;

use std::error::Error;
use std::fs::File;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use nix::sys::signal::{SigSet, Signal};
use serde_json::json;

pub use args::{BootArgs, DiskArg, Entry, OnReset, OnWatchdog, Pretimeout, TapArg};
use events::Events;

use crate::devices::virtio::net::tap::TapError;
use crate::firmware;
use crate::storage::gate::{LeaseGate, Right};
use crate::time::Mono;
use crate::vmm::boot::{Entry as KernelEntry, Kernel};
use crate::vmm::kvm::KvmUnusable;
use crate::vmm::machine::{DiskConfig, Machine, MachineConfig, MachineError};
use crate::vmm::memory::MemoryError;
use crate::vmm::prepared::PrepareError;
use crate::vmm::report::{Report, Sink};
use crate::vmm::witness;

/// How many reports may wait; a guest that makes more at a time loses some.
const WAITING_REPORTS: usize = 1024;
/// Longest line of COM2 that is looked at.
const LINE_BYTES: usize = 255;

/// Why a guest was not started, or could not go on.
#[derive(Debug, thiserror::Error)]
enum BootCommandError {
    #[error("There is no built-in guest called {name:?}; there are {known}")]
    UnknownGuest { name: String, known: String },
    #[error("A built-in guest loads no initial RAM disk; take --initrd out, or name a kernel file")]
    BuiltinInitrd,
    #[error("Console file {path:?} cannot be opened")]
    Serial {
        path: std::path::PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Machine(#[from] MachineError),
}

impl BootCommandError {
    fn exit_code(&self) -> u8 {
        match self {
            BootCommandError::UnknownGuest { .. } | BootCommandError::BuiltinInitrd => 2,
            BootCommandError::Machine(MachineError::Tap(TapError::Name { .. })) => 2,
            BootCommandError::Machine(MachineError::Tap(TapError::Absent | TapError::Forbidden { .. })) => 3,
            BootCommandError::Machine(MachineError::Boot(error)) => error.exit_code(),
            BootCommandError::Machine(MachineError::Prepare(error)) => match error {
                PrepareError::Kvm(KvmUnusable::Broken(_)) => 1,
                PrepareError::Kvm(_) => 3,
                PrepareError::Vcpus { .. } | PrepareError::Memory(MemoryError::Size { .. }) => 2,
                _ => 1,
            },
            _ => 1,
        }
    }
}

/// Runs the command; the exit code is that of the module's table in the README.
pub fn run(args: &BootArgs) -> ExitCode {
    match boot(args) {
        Ok(end) => {
            eprintln!("duplexvm boot: {}", end.words);
            ExitCode::from(end.code)
        }
        Err(error) => {
            let mut words = error.to_string();
            let mut cause = error.source();
            while let Some(source) = cause {
                words.push_str(&format!(": {source}"));
                cause = source.source();
            }
            eprintln!("duplexvm boot: {words}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// How the guest ended.
struct End {
    code: u8,
    words: String,
}

fn end(code: u8, words: impl Into<String>) -> Option<End> {
    Some(End { code, words: words.into() })
}

fn boot(args: &BootArgs) -> Result<End, BootCommandError> {
    let disks_changed = disks_changed().map_err(MachineError::Thread)?;
    let config = machine_config(args)?;
    let (reports, incoming) = bounded(WAITING_REPORTS);
    let sink = sink(console(args)?, reports);
    let mut events = Events::new(args.json);
    let machine = Machine::build(config, Arc::new(LeaseGate::always_open()), sink)?;
    events.guest_starting();
    machine.start();
    Watch { args, events, machine, com2: Vec::new() }.until_the_end(&incoming, &disks_changed)
}

/// SIGUSR1, by which the operator says that disks have grown. Before any other thread is there: all of them leave it to
/// the one that waits for it.
fn disks_changed() -> io::Result<Receiver<()>> {
    let signals: SigSet = [Signal::SIGUSR1].into_iter().collect();
    signals.thread_block()?;
    let (sender, receiver) = bounded(1);
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        while signals.wait().is_ok() {
            // One that waits says it already.
            let _ = sender.try_send(());
        }
    })?;
    Ok(receiver)
}

fn machine_config(args: &BootArgs) -> Result<MachineConfig, BootCommandError> {
    let disk = |disk: &DiskArg| DiskConfig {
        path: disk.path.clone(),
        read_only: disk.read_only,
        right: Right::Member,
        shown: true,
    };
    Ok(MachineConfig {
        kernel: kernel(args)?,
        cmdline: args.cmdline.clone(),
        vcpus: args.vcpus,
        memory_bytes: args.memory,
        disks: args.disks.iter().map(disk).collect(),
        nets: args.taps.iter().map(TapArg::config).collect(),
    })
}

fn kernel(args: &BootArgs) -> Result<Kernel, BootCommandError> {
    let name = &args.kernel;
    if let Some(name) = name.strip_prefix("builtin:") {
        if args.initrd.is_some() {
            return Err(BootCommandError::BuiltinInitrd);
        }
        let guest = firmware::find(name).ok_or_else(|| BootCommandError::UnknownGuest {
            name: name.into(),
            known: firmware::guests().map(|guest| guest.name).collect::<Vec<_>>().join(", "),
        })?;
        let load_address = firmware::LOAD_ADDRESS;
        return Ok(Kernel::Flat { image: firmware::blob(), load_address, entry: guest.entry });
    }
    let entry = match args.entry {
        Entry::Auto => KernelEntry::Auto,
        Entry::Pvh => KernelEntry::Pvh,
        Entry::Linux => KernelEntry::Linux,
    };
    Ok(Kernel::File { path: name.into(), initrd: args.initrd.clone(), entry })
}

/// Where the console goes.
enum Console {
    Stdout,
    Stderr,
    File(File),
}

impl Console {
    fn write(&mut self, bytes: &[u8]) {
        // A reader that has gone away does not end the guest.
        let _ = match self {
            Console::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(bytes).and_then(|()| stdout.flush())
            }
            Console::Stderr => io::stderr().lock().write_all(bytes),
            Console::File(file) => file.write_all(bytes),
        };
    }
}

fn console(args: &BootArgs) -> Result<Console, BootCommandError> {
    match &args.serial {
        Some(path) => File::create(path)
            .map(Console::File)
            .map_err(|source| BootCommandError::Serial { path: path.clone(), source }),
        None if args.json => Ok(Console::Stderr),
        None => Ok(Console::Stdout),
    }
}

fn sink(console: Console, reports: Sender<(Mono, Report)>) -> Sink {
    let console = Mutex::new(console);
    Sink::new(move |at, report| match report {
        Report::Console(bytes) => console.lock().unwrap_or_else(PoisonError::into_inner).write(&bytes),
        // The machine's threads must not wait: what finds no room is a guest that repeats itself.
        report => drop(reports.try_send((at, report))),
    })
}

/// The loop over what the machine reports.
struct Watch<'a> {
    args: &'a BootArgs,
    events: Events,
    machine: Machine,
    com2: Vec<u8>,
}

impl Watch<'_> {
    fn until_the_end(
        mut self,
        incoming: &Receiver<(Mono, Report)>,
        disks_changed: &Receiver<()>,
    ) -> Result<End, BootCommandError> {
        loop {
            let (at, report) = select! {
                // The machine holds the other end: it cannot be closed before the machine is gone.
                recv(incoming) -> report => report.expect("the machine lives, and with it its sink"),
                recv(disks_changed) -> _ => {
                    self.machine.measure_disks();
                    continue;
                }
            };
            if let Some(end) = self.on_report(at, report)? {
                let bytes = self.machine.stop();
                self.events.guest("guest_stopped", crate::clock::mono(), json!({}));
                self.events.guest("memory_released", crate::clock::mono(), json!({ "bytes": bytes }));
                return Ok(end);
            }
        }
    }

    fn on_report(&mut self, at: Mono, report: Report) -> Result<Option<End>, BootCommandError> {
        let events = &mut self.events;
        Ok(match report {
            Report::FirstInstruction => {
                events.guest("guest_first_instruction", at, json!({}));
                None
            }
            Report::Com2(bytes) => {
                self.on_com2(at, &bytes);
                None
            }
            Report::WatchdogPretimeout { due_at, evidence, vcpus, .. } => {
                events.guest("watchdog_pretimeout", at, witness::as_json(due_at, &evidence, &vcpus));
                if self.args.pretimeout == Pretimeout::Nmi {
                    self.machine.inject_nmi();
                }
                None
            }
            Report::WatchdogExpired { evidence, .. } => {
                events.fault("watchdog", at, json!({ "pets": evidence.pets }));
                return self.on_expired();
            }
            Report::Panicked { events: bits } => {
                events.fault("panic", at, json!({ "events": bits }));
                end(11, "the guest panicked")
            }
            Report::TripleFault { vcpu } => {
                events.fault("triple_fault", at, json!({ "vcpu": vcpu }));
                end(12, format!("the guest met a triple fault on processor {vcpu}"))
            }
            Report::KvmError { vcpu, what, rip } => {
                events.fault("kvm_error", at, json!({ "vcpu": vcpu, "what": what, "rip": rip }));
                end(13, format!("KVM cannot run processor {vcpu} any further: {what}, at {rip:#x}"))
            }
            Report::Reset { kind } => {
                events.fault("reset", at, json!({ "how": kind }));
                match self.args.on_reset {
                    OnReset::Exit => end(14, format!("the guest asked for a reset ({kind:?})")),
                    OnReset::Restart => self.restart(&format!("the guest asked for a reset ({kind:?})"))?,
                }
            }
            Report::PowerOff => end(0, "the guest powered off"),
            Report::ThreadPanicked { thread, message } => {
                events.fault("vmm", at, json!({ "thread": thread, "what": message }));
                end(1, format!("thread {thread} of the machine died: {message}"))
            }
            Report::DeviceFailed { device, error } => {
                events.guest("device_failed", at, json!({ "device": device, "error": error }));
                eprintln!("duplexvm boot: {device} failed a request: {error}");
                None
            }
            Report::DeviceBroken { device, why } => {
                events.guest("device_broken", at, json!({ "device": device, "why": why }));
                eprintln!("duplexvm boot: the guest's driver broke {device}: {why}");
                None
            }
            // A gate that is always open neither holds nor releases; consoles went another way.
            Report::Held | Report::Released | Report::FirstPet | Report::Console(_) => None,
        })
    }

    fn on_expired(&mut self) -> Result<Option<End>, BootCommandError> {
        const WHY: &str = "the guest's watchdog expired";
        Ok(match self.args.watchdog {
            OnWatchdog::Exit => end(10, WHY),
            OnWatchdog::Reset => self.restart(WHY)?,
            OnWatchdog::Pause => {
                self.machine.pause();
                eprintln!("duplexvm boot: {WHY}; it stands still until this process is ended");
                None
            }
            OnWatchdog::Nmi => {
                self.machine.inject_nmi();
                eprintln!("duplexvm boot: {WHY}; it was given an NMI");
                None
            }
            OnWatchdog::None => {
                eprintln!("duplexvm boot: {WHY}; it goes on");
                None
            }
        })
    }

    fn restart(&mut self, why: &str) -> Result<Option<End>, BootCommandError> {
        eprintln!("duplexvm boot: {why}; it starts again");
        self.com2.clear();
        self.events.guest_starting();
        self.machine.reset()?;
        Ok(None)
    }

    fn on_com2(&mut self, at: Mono, bytes: &[u8]) {
        for byte in bytes {
            if matches!(byte, b'\n' | b'\r') {
                if self.com2 == b"READY" {
                    self.events.guest("guest_ready", at, json!({}));
                }
                self.com2.clear();
            } else if self.com2.len() <= LINE_BYTES {
                self.com2.push(*byte);
            }
        }
    }
}
