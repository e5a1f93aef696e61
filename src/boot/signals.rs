//! What the operator says by signals.
//!
//! ```text
//!   SIGTERM, SIGINT, SIGHUP   the guest is stopped, its requests end, then the process ends by that signal;
//!                             once more: it ends at once
//!   SIGUSR1                   disks have changed          SIGCONT   the terminal may have to be taken again
//! ```

use std::io;
use std::thread;

use crossbeam_channel::{Receiver, bounded};
use nix::sys::signal::{SigSet, Signal, raise};

use super::keyboard;

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Look how large the disks are.
    MeasureDisks,
    /// Take the terminal again.
    GoOn,
    /// End, by this signal.
    End(Signal),
}

/// Begins to wait for signals. To be called before any other thread is there: all of them leave these to the one that
/// waits.
pub fn start() -> io::Result<Receiver<Asked>> {
    let ends = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];
    // One that whoever started us wants ignored (nohup, a shell's background job) stays so.
    let heeded = ends.into_iter().filter(|signal| !is_ignored(*signal)).chain([Signal::SIGUSR1, Signal::SIGCONT]);
    let signals: SigSet = heeded.collect();
    signals.thread_block()?;
    // In the background the terminal answers with an error instead of stopping the guest.
    [Signal::SIGTTIN, Signal::SIGTTOU].into_iter().collect::<SigSet>().thread_block()?;
    let (sender, receiver) = bounded(16);
    thread::Builder::new().name("signals".into()).spawn(move || {
        let mut ending = false;
        while let Ok(signal) = signals.wait() {
            let asked = match signal {
                Signal::SIGUSR1 => Asked::MeasureDisks,
                Signal::SIGCONT => Asked::GoOn,
                signal if std::mem::replace(&mut ending, true) => die(signal),
                signal => Asked::End(signal),
            };
            // Many that wait say it already.
            let _ = sender.try_send(asked);
        }
    })?;
    Ok(receiver)
}

/// Ends the process by `signal`, as whoever waits for it expects.
pub fn die(signal: Signal) -> ! {
    keyboard::give_back();
    let _ = SigSet::from(signal).thread_unblock();
    let _ = raise(signal);
    // Nobody catches it: that was the end.
    std::process::exit(128 + signal as i32)
}

/// True when this process ignores `signal`, as the kernel tells.
fn is_ignored(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal as i32 - 1) & 1 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_known() {
        // Rust's own start does that.
        assert!(is_ignored(Signal::SIGPIPE) && !is_ignored(Signal::SIGTERM));
    }
}
