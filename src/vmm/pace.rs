//! Who may run, and what time it is in the guest.
//!
//! ```text
//!   wish    Pause ──resume──▶ Run ──pause──▶ Pause          Stop, from anywhere, for good
//!   held    the gate has passed; the first vCPU or the ticker to see it says so, the first parked
//!           vCPU to see it open again, under the same grant, takes it back
//!   ended   the guest has reset, powered off or died: it does not run on
//!
//!   vCPUs run and guest time goes on  ⟺  wish = Run, not held, not ended
//! ```
//!
//! Guest time is `CLOCK_MONOTONIC` less all the time stood still; the guest's own clock (kvmclock) is taken when
//! the last vCPU has parked and put back before the first goes on.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kvm_bindings::kvm_clock_data;
use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::EventFd;

use super::report::{Report, Sink};
use super::signal::Kick;
use crate::clock;
use crate::devices::GuestTime;
use crate::storage::gate::{Grant, LeaseGate, Right};
use crate::time::{Mono, nanos};

/// How often a held machine looks at its gate.
const HELD_LOOK: Duration = Duration::from_millis(1);
const GOES_ON: u64 = u64::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Run,
    Pause,
    Stop,
}

#[derive(Debug)]
struct State {
    wish: Wish,
    held: bool,
    ended: bool,
    /// vCPUs that are not parked.
    running: usize,
    /// The guest's own clock when it came to stand still.
    clock: Option<kvm_clock_data>,
    vm: Option<Arc<VmFd>>,
}

impl State {
    fn may_run(&self) -> bool {
        self.wish == Wish::Run && !self.held && !self.ended
    }

    /// Takes the guest's clock as soon as it is to stand still and no vCPU runs.
    fn take_clock(&mut self) {
        let goes_on_later = !self.may_run() && !self.ended && self.wish != Wish::Stop;
        if goes_on_later && self.running == 0 && self.clock.is_none() {
            self.clock = self.vm.as_ref().and_then(|vm| vm.get_clock().ok());
        }
    }

    /// Puts it back.
    fn put_clock(&mut self) {
        let (Some(clock), Some(vm)) = (self.clock.take(), &self.vm) else { return };
        // Its time alone: the flags say how it was taken. A kernel that refuses lets the guest's clock jump.
        let clock = kvm_clock_data { clock: clock.clock, ..Default::default() };
        if let Err(error) = vm.set_clock(&clock) {
            log::warn!("The guest's clock jumps over the time it stood still: {error}");
        }
    }
}

/// What a vCPU may do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Run; after it stood still, if `again`.
    Run {
        /// True when it was parked.
        again: bool,
    },
    /// End.
    Stop,
}

/// The pace of one machine.
#[derive(Debug)]
pub struct Pace {
    state: Mutex<State>,
    changed: Condvar,
    kicks: Mutex<Vec<Kick>>,
    offset_ns: AtomicU64,
    frozen_ns: AtomicU64,
    nmis: AtomicU64,
    bell: EventFd,
    gate: Arc<LeaseGate>,
    grant: Grant,
    sink: Sink,
}

impl Pace {
    /// A machine that is paused at guest time zero, and runs under the present grant of the gate.
    pub fn new(gate: Arc<LeaseGate>, sink: Sink) -> io::Result<Pace> {
        let state = State { wish: Wish::Pause, held: false, ended: false, running: 0, clock: None, vm: None };
        Ok(Pace {
            state: Mutex::new(state),
            changed: Condvar::new(),
            kicks: Mutex::default(),
            offset_ns: AtomicU64::new(0),
            frozen_ns: AtomicU64::new(0),
            nmis: AtomicU64::new(0),
            bell: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
            grant: gate.grant(Right::Member),
            gate,
            sink,
        })
    }

    /// Guest time. It ends at the gate's deadline, whoever notices that first and however late: a process that was
    /// stopped past it does not find a watchdog expired.
    pub fn now(&self) -> GuestTime {
        match self.frozen_ns.load(Ordering::Acquire) {
            GOES_ON => {
                let since_start = clock::steady_ns().saturating_sub(self.offset_ns.load(Ordering::Acquire));
                let late = late_by(clock::mono(), self.gate_shuts_at());
                GuestTime::from_ns(since_start.saturating_sub(nanos(late)))
            }
            frozen => GuestTime::from_ns(frozen),
        }
    }

    /// The reading of `CLOCK_MONOTONIC`, in nanoseconds, at which guest time will be `at`; none while it stands still.
    pub fn steady_at(&self, at: GuestTime) -> Option<u64> {
        self.goes_on().then(|| at.ns().saturating_add(self.offset_ns.load(Ordering::Acquire)))
    }

    /// True while guest time goes on.
    pub fn goes_on(&self) -> bool {
        self.frozen_ns.load(Ordering::Acquire) == GOES_ON
    }

    /// The grant of its member's right that this machine runs under, and no other.
    pub fn grant(&self) -> Grant {
        self.grant
    }

    /// When the gate shuts for this machine.
    pub fn gate_shuts_at(&self) -> Mono {
        self.gate.shuts_at(Right::Member)
    }

    /// Stands still if the gate has passed; true if so.
    pub fn hold_if_passed(&self) -> bool {
        if self.gate.pass(Right::Member, self.grant, clock::mono()).is_ok() {
            return false;
        }
        let mut state = self.lock();
        if state.wish == Wish::Run && !state.held && !state.ended {
            state.held = true;
            state.take_clock();
            self.freeze();
            drop(state);
            self.kick();
            self.sink.report(Report::Held);
        }
        true
    }

    /// A vCPU asks whether to run, before its first `KVM_RUN` and after each kick. Returns when it may, or must end.
    pub fn turn(&self) -> Turn {
        let mut state = self.lock();
        if state.may_run() {
            return Turn::Run { again: false };
        }
        self.park(&mut state);
        loop {
            if state.wish == Wish::Stop {
                return Turn::Stop;
            }
            if state.held && self.gate.pass(Right::Member, self.grant, clock::mono()).is_ok() {
                state.held = false;
                self.thaw(&mut state);
                drop(state);
                self.sink.report(Report::Released);
                state = self.lock();
                continue;
            }
            if state.may_run() {
                state.running += 1;
                return Turn::Run { again: true };
            }
            state = if state.held {
                self.changed.wait_timeout(state, HELD_LOOK).unwrap_or_else(PoisonError::into_inner).0
            } else {
                self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
            };
        }
    }

    /// A vCPU's thread ends without having been told to.
    pub fn leave(&self) {
        let mut state = self.lock();
        self.park(&mut state);
    }

    /// `vcpus` threads of `vm` begin, as if they ran until they first ask. The machine is paused.
    pub fn begin(&self, vcpus: usize, vm: Arc<VmFd>) {
        let mut state = self.lock();
        *state = State { wish: Wish::Pause, held: false, ended: false, running: vcpus, clock: None, vm: Some(vm) };
        self.nmis.store(0, Ordering::Release);
    }

    /// The threads have ended: lets the virtual machine go.
    pub fn finish(&self) {
        self.lock().vm = None;
    }

    /// The kicks of the vCPUs, in order.
    pub fn set_kicks(&self, kicks: Vec<Kick>) {
        *self.kicks.lock().unwrap_or_else(PoisonError::into_inner) = kicks;
    }

    /// Lets the machine run.
    pub fn resume(&self) {
        let mut state = self.lock();
        if state.wish == Wish::Pause {
            state.wish = Wish::Run;
            self.thaw(&mut state);
        }
    }

    /// Stops the machine's time at once, and returns when no vCPU runs any more.
    pub fn pause(&self) {
        let mut state = self.lock();
        if state.wish == Wish::Run {
            state.wish = Wish::Pause;
            state.take_clock();
            self.freeze();
        }
        drop(state);
        self.kick();
        let mut state = self.lock();
        while state.running > 0 {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The guest has ended: no vCPU runs on. True for the first who says so.
    pub fn end(&self) -> bool {
        let mut state = self.lock();
        let first = !std::mem::replace(&mut state.ended, true);
        self.freeze();
        drop(state);
        self.kick();
        first
    }

    /// Every vCPU ends its thread.
    pub fn stop(&self) {
        let mut state = self.lock();
        state.wish = Wish::Stop;
        self.freeze();
        self.changed.notify_all();
        drop(state);
        self.ring();
        self.kick();
    }

    /// True when the threads have to end.
    pub fn is_stopping(&self) -> bool {
        self.lock().wish == Wish::Stop
    }

    /// What the ticker waits on beside its timer: readable when it has to look again.
    pub fn bell(&self) -> &EventFd {
        &self.bell
    }

    /// Makes the ticker look again.
    pub fn ring(&self) {
        // A counter that is full is readable: nothing to add.
        let _ = self.bell.write(1);
    }

    /// Asks for an NMI, injected by the vCPUs' own threads.
    pub fn ask_for_nmi(&self) {
        self.nmis.fetch_add(1, Ordering::AcqRel);
        self.kick();
    }

    /// How many NMIs were asked for since this start.
    pub fn nmis(&self) -> u64 {
        self.nmis.load(Ordering::Acquire)
    }

    /// Makes every vCPU leave `KVM_RUN` and look around.
    pub fn kick(&self) {
        for kick in self.kicks.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            // SAFETY: the machine sets kicks of threads that block the signal, and takes them back before it joins.
            unsafe { kick.send() };
        }
    }

    fn park(&self, state: &mut State) {
        state.running -= 1;
        state.take_clock();
        self.changed.notify_all();
    }

    fn freeze(&self) {
        let now = self.now().ns();
        if self.goes_on() {
            self.frozen_ns.store(now, Ordering::Release);
        }
    }

    fn thaw(&self, state: &mut State) {
        if !state.may_run() {
            return;
        }
        state.put_clock();
        let frozen = self.frozen_ns.load(Ordering::Acquire);
        self.offset_ns.store(clock::steady_ns().saturating_sub(frozen), Ordering::Release);
        self.frozen_ns.store(GOES_ON, Ordering::Release);
        self.changed.notify_all();
        self.ring();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long ago the first clock reached `until`; zero for a gate that was shut by hand, no time is known of that.
fn late_by(now: Mono, until: Mono) -> Duration {
    let by = |now: u64, until: u64| if until == 0 { 0 } else { now.saturating_sub(until) };
    Duration::from_nanos(by(now.boottime_ns, until.boottime_ns).max(by(now.raw_ns, until.raw_ns)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(gate: LeaseGate) -> (Arc<LeaseGate>, Pace) {
        let gate = Arc::new(gate);
        let pace = Pace::new(gate.clone(), Sink::new(|_, _| {})).unwrap();
        (gate, pace)
    }

    #[test]
    fn time_begins_with_the_first_start_and_stands_still_in_between() {
        let (_, pace) = pace(LeaseGate::always_open());
        assert_eq!(pace.now(), GuestTime::ZERO);
        assert_eq!(pace.steady_at(GuestTime::ZERO), None);
        pace.resume();
        let first = pace.now();
        assert!(pace.steady_at(first).is_some_and(|at| at <= clock::steady_ns()));
        pace.pause();
        let stood = pace.now();
        assert!(stood >= first);
        assert_eq!(pace.now(), stood);
        pace.resume();
        assert!(pace.now() >= stood && pace.goes_on());
        assert!(pace.end(), "the first to say so");
        assert!(!pace.end());
        assert_eq!(pace.now(), pace.now());
    }

    #[test]
    fn time_ends_at_the_gate_s_deadline_however_late_that_is_noticed() {
        let (gate, pace) = pace(LeaseGate::new());
        let opened = clock::mono();
        gate.open_until(Right::Member, 0, opened + Duration::from_secs(3600));
        pace.resume();
        let began = pace.now();
        // As if a whole second had gone by unnoticed since the gate shut.
        gate.open_until(Right::Member, 0, opened.before(Duration::from_secs(1)));
        assert!(pace.now() <= began, "not a moment later than the start");
        assert!(pace.hold_if_passed());
        let stood = pace.now();
        assert_eq!(pace.now(), stood);
        assert!(pace.hold_if_passed(), "still");
    }

    #[test]
    fn a_gate_of_another_grant_does_not_let_it_run() {
        let (gate, pace) = pace(LeaseGate::always_open());
        pace.resume();
        assert!(!pace.hold_if_passed());
        gate.open_until(Right::Member, 1, clock::mono() + Duration::from_secs(3600));
        assert!(pace.hold_if_passed());
    }
}
