//! The witness: what the processors were doing when the watchdog's first stage ran out.
//!
//! ```text
//!   any thread that ticks the board ── verdict ──▶ queue ──▶ ticker: tell
//!                                                             │ stage 1: ask, kick
//!   vcpu-N  out of KVM_RUN, asked? ── registers ─────────────▶│ all there, or time over
//!                                                             ▼
//!                                        Report::WatchdogPretimeout, then what comes after it
//! ```
//!
//! A guest that hangs with interrupts off still leaves `KVM_RUN` at a kick; each processor's registers are read by its own
//! thread. One thread tells all verdicts, so that the evidence always stands in the log before the expiry that follows.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kvm_bindings::{KVM_MP_STATE_HALTED, KVM_MP_STATE_RUNNABLE};
use kvm_ioctls::VcpuFd;
use serde::{Serialize, Serializer};
use vm_memory::{Bytes, GuestAddress};

use super::allowance::Allowance;
use super::memory::Ram;
use super::pace::Pace;
use super::report::{Report, Sink};
use crate::devices::GuestTime;
use crate::devices::i6300esb::Evidence;
use crate::devices::signal::Signal;

/// How long the processors may take to answer, in looks of a few milliseconds; one that stands still or does not get to
/// run is left out.
const ANSWER_LOOKS: u32 = 20;
const ANSWER_LOOK: Duration = Duration::from_millis(5);
/// How many bytes at the instruction pointer are kept.
const CODE_BYTES: u64 = 16;
const PAGE_BYTES: u64 = 4096;
/// How often a guest is told of that lets stages run out again and again.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// What one processor was doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// Which.
    pub vcpu: usize,
    /// `runs`, `halted` (waits for an interrupt) or `off` (never started).
    pub state: &'static str,
    /// Instruction pointer.
    #[serde(serialize_with = "hex")]
    pub rip: u64,
    /// Stack pointer.
    #[serde(serialize_with = "hex")]
    pub rsp: u64,
    /// Flags; bit 9: takes interrupts.
    #[serde(serialize_with = "hex")]
    pub rflags: u64,
    /// Root of its page tables: which address space.
    #[serde(serialize_with = "hex")]
    pub cr3: u64,
    /// The bytes at the instruction pointer, as far as they are in RAM.
    #[serde(serialize_with = "hex_bytes")]
    pub code: Vec<u8>,
}

impl Seen {
    /// Reads the registers of processor `vcpu`, on its own thread; none when KVM does not tell them.
    pub fn of(vcpu: usize, fd: &VcpuFd, ram: &Ram) -> Option<Seen> {
        let registers = fd.get_regs().ok()?;
        let system = fd.get_sregs().ok()?;
        let state = match fd.get_mp_state().map_or(KVM_MP_STATE_RUNNABLE, |state| state.mp_state) {
            KVM_MP_STATE_RUNNABLE => "runs",
            KVM_MP_STATE_HALTED => "halted",
            _ => "off",
        };
        let (rip, rsp, rflags, cr3) = (registers.rip, registers.rsp, registers.rflags, system.cr3);
        let linear = if system.cs.l != 0 { rip } else { system.cs.base.wrapping_add(rip) & 0xffff_ffff };
        Some(Seen { vcpu, state, rip, rsp, rflags, cr3, code: code(linear, fd, ram) })
    }
}

/// What lies at `linear` up to the end of its page.
fn code(linear: u64, fd: &VcpuFd, ram: &Ram) -> Vec<u8> {
    let Ok(translation) = fd.translate_gva(linear) else { return Vec::new() };
    if translation.valid == 0 {
        return Vec::new();
    }
    let bytes = CODE_BYTES.min(PAGE_BYTES - linear % PAGE_BYTES);
    let mut code = vec![0; bytes as usize];
    match ram.guest().read_slice(&mut code, GuestAddress(translation.physical_address)) {
        Ok(()) => code,
        Err(_) => Vec::new(),
    }
}

/// How a pretimeout looks as JSON, wherever it is logged: 64-bit registers as text, since JSON's numbers end at 2^53.
pub fn as_json(due_at: GuestTime, evidence: &Evidence, vcpus: &[Seen]) -> serde_json::Value {
    serde_json::json!({
        "interrupt": evidence.interrupts(),
        "pets": evidence.pets,
        "unpetted_ms": due_at.since(evidence.petted_at).as_millis() as u64,
        "vcpus": vcpus,
    })
}

fn hex<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{value:#x}"))
}

fn hex_bytes<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    serializer.serialize_str(&text)
}

/// The answers to one question.
#[derive(Debug, Default)]
struct Round {
    number: u64,
    answered: usize,
    seen: Vec<Seen>,
}

/// The witness of one start of a machine.
#[derive(Debug)]
pub struct Witness {
    vcpus: usize,
    ram: Arc<Ram>,
    verdicts: Mutex<VecDeque<(Signal, GuestTime)>>,
    asked: AtomicU64,
    round: Mutex<Round>,
    answered: Condvar,
    stages: Mutex<Allowance>,
    expiries: Mutex<Allowance>,
}

impl Witness {
    /// For a machine of `vcpus` processors.
    pub fn new(vcpus: usize, ram: Arc<Ram>) -> Witness {
        Witness {
            vcpus,
            ram,
            verdicts: Mutex::default(),
            asked: AtomicU64::new(0),
            round: Mutex::default(),
            answered: Condvar::new(),
            stages: Mutex::new(Allowance::new(TELL_EVERY)),
            expiries: Mutex::new(Allowance::new(TELL_EVERY)),
        }
    }

    /// Notes what the watchdog found; the ticker tells it.
    pub fn note(&self, verdict: Signal, seen_at: GuestTime) {
        lock(&self.verdicts).push_back((verdict, seen_at));
    }

    /// Tells what was noted, in its order: the ticker's call.
    pub fn tell(&self, pace: &Pace, sink: &Sink) {
        loop {
            let Some((verdict, seen_at)) = lock(&self.verdicts).pop_front() else { return };
            match verdict {
                Signal::WatchdogPretimeout { due_at, evidence } if lock(&self.stages).spend(seen_at) => {
                    let vcpus = self.ask(pace);
                    sink.report(Report::WatchdogPretimeout { due_at, seen_at, evidence, vcpus });
                }
                Signal::WatchdogExpired { due_at, evidence } if lock(&self.expiries).spend(seen_at) => {
                    sink.report(Report::WatchdogExpired { due_at, seen_at, evidence });
                }
                _ => {}
            }
        }
    }

    /// A processor's own thread, between two `KVM_RUN`s: answers what was asked since question `answered`.
    pub fn answer(&self, answered: &mut u64, vcpu: usize, fd: &VcpuFd) {
        let asked = self.asked.load(Ordering::Acquire);
        if asked == *answered {
            return;
        }
        *answered = asked;
        let seen = Seen::of(vcpu, fd, &self.ram);
        let mut round = lock(&self.round);
        if round.number == asked {
            round.answered += 1;
            round.seen.extend(seen);
            self.answered.notify_all();
        }
    }

    /// Asks all processors, and waits a moment for their answers.
    fn ask(&self, pace: &Pace) -> Vec<Seen> {
        let mut round = lock(&self.round);
        *round = Round { number: round.number + 1, ..Round::default() };
        self.asked.store(round.number, Ordering::Release);
        drop(round);
        pace.kick();
        let mut round = lock(&self.round);
        for _ in 0..ANSWER_LOOKS {
            if round.answered >= self.vcpus || pace.is_stopping() {
                break;
            }
            let waited = self.answered.wait_timeout_while(round, ANSWER_LOOK, |round| round.answered < self.vcpus);
            round = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let mut seen = std::mem::take(&mut round.seen);
        seen.sort_by_key(|seen| seen.vcpu);
        seen
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_text_in_json() {
        let seen = Seen {
            vcpu: 1,
            state: "runs",
            rip: 0xffff_ffff_8100_0000,
            rsp: 0x10,
            rflags: 2,
            cr3: 0,
            code: vec![0xf3, 0x90],
        };
        let json = serde_json::to_string(&seen).expect("plain text and numbers");
        assert_eq!(
            json,
            concat!(
                r#"{"vcpu":1,"state":"runs","rip":"0xffffffff81000000","rsp":"0x10","rflags":"0x2","cr3":"0x0","#,
                r#""code":"f390"}"#
            )
        );
    }
}
