//! The `ticker` thread: sleeps until the board's next deadline, then ticks it; tells what the watchdog found.
//!
//! A pet moves the deadline away, and the ticker need not wake for that: the board says when moving its timer saves
//! a wake-up (`WakeLater`), and the vCPU that petted moves it. So a guest that pets wakes it at most once a stage
//! length, however often it pets.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use vmm_sys_util::eventfd::EventFd;

use super::wiring::Wiring;

/// The timer of one machine.
#[derive(Debug)]
pub struct Ticker {
    timer: TimerFd,
    wakeups: AtomicU64,
}

impl Ticker {
    /// A timer, unarmed.
    pub fn new() -> io::Result<Ticker> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        Ok(Ticker { timer: TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?, wakeups: AtomicU64::new(0) })
    }

    /// How often the timer has woken the thread.
    pub fn wakeups(&self) -> u64 {
        self.wakeups.load(Ordering::Relaxed)
    }

    /// Arms the timer for a reading of `CLOCK_MONOTONIC`, in nanoseconds; none disarms it. Any thread may.
    pub fn arm(&self, at_ns: Option<u64>) -> io::Result<()> {
        match at_ns {
            Some(at_ns) => {
                // Zero would disarm it; the far end of the range is never.
                let at = TimeSpec::from_duration(Duration::from_nanos(at_ns.clamp(1, i64::MAX as u64)));
                self.timer.set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
            }
            None => self.timer.unset()?,
        }
        Ok(())
    }

    /// Returns when the timer is due or `bell` rings.
    fn sleep(&self, bell: &EventFd) -> io::Result<()> {
        // SAFETY: borrowed for the time of this call, in which the bell lives.
        let bell_fd = unsafe { BorrowedFd::borrow_raw(bell.as_raw_fd()) };
        let mut fds = [PollFd::new(self.timer.as_fd(), PollFlags::POLLIN), PollFd::new(bell_fd, PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        if fds[0].any().unwrap_or(false) {
            self.wakeups.fetch_add(1, Ordering::Relaxed);
        }
        if fds[1].any().unwrap_or(false) {
            let _ = bell.read();
        }
        Ok(())
    }
}

/// Puts this thread before all ordinary ones, where the host allows it: on a busy host a guest's watchdog would else
/// wait for a processor longer than its stage lasts. The thread sleeps nearly always.
fn be_urgent() {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: a valid structure; 0 is this thread.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &parameters) };
    if result != 0 {
        log::debug!("The ticker runs as an ordinary thread: {}", io::Error::last_os_error());
    }
}

/// The thread's body: ends when the machine stops.
pub fn run(wiring: &Wiring) -> io::Result<()> {
    be_urgent();
    let pace = wiring.pace();
    while !pace.is_stopping() {
        // Past the gate nothing falls due: time has stopped at the gate's deadline.
        if pace.goes_on() && !pace.hold_if_passed() {
            wiring.access(|board, now| board.tick(now));
        }
        wiring.witness().tell(pace, wiring.sink());
        wiring.arm_ticker();
        wiring.ticker().sleep(pace.bell())?;
    }
    Ok(())
}
