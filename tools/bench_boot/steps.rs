//! What a start's time goes to, from the host kernel's own trace (tracefs) of the VMM.
//!
//! ```text
//!   exec ── program ──▶ first word to KVM ── set-up, less long reads ──▶ first entry ── guest ⇄ host, by exit ──▶ marker
//! ```
//!
//! Tracing itself takes a per cent or two. One VMM at a time.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const KVM_GET_API_VERSION: &str = "ae00";
/// Number of `read`, and the least bytes of one that fills guest memory.
const READ: &str = "0";
const LONG_READ_BYTES: u64 = 64 << 10;
const SYSCALL_IOCTL: &str = "16";
const EVENTS: [&str; 5] =
    ["raw_syscalls", "sched/sched_process_exec", "kvm/kvm_entry", "kvm/kvm_exit", "sched/sched_process_exit"];

/// A trace that is being taken, of this process's children from now on.
pub struct Trace(PathBuf);

impl Trace {
    pub fn start() -> io::Result<Trace> {
        let trace = Trace(PathBuf::from("/sys/kernel/tracing"));
        trace.set("tracing_on", "0")?;
        trace.set("trace", "")?;
        trace.set("trace_clock", "mono")?;
        trace.set("buffer_size_kb", "16384")?;
        trace.set("options/event-fork", "1")?;
        trace.set("set_event_pid", &std::process::id().to_string())?;
        for event in EVENTS {
            trace.set(format!("events/{event}/enable"), "1")?;
        }
        trace.set("tracing_on", "1")?;
        Ok(trace)
    }

    pub fn stop(self) -> io::Result<String> {
        self.set("tracing_on", "0")?;
        for event in EVENTS {
            self.set(format!("events/{event}/enable"), "0")?;
        }
        fs::read(self.0.join("trace")).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    fn set(&self, file: impl AsRef<Path>, value: &str) -> io::Result<()> {
        let file = self.0.join(file);
        fs::write(&file, value).map_err(|error| io::Error::other(format!("{}: {error}", file.display())))
    }
}

/// Times in milliseconds.
#[derive(Debug, Default)]
pub struct Steps {
    program: f64,
    set_up: f64,
    load: f64,
    guest: f64,
    /// By the reason of the exit: how many, and how long the host took.
    exits: BTreeMap<String, (u64, f64)>,
    total: f64,
}

impl Steps {
    /// Adds up a trace's text.
    pub fn read(trace: &str) -> Steps {
        let mut steps = Steps::default();
        let mut exec: Option<f64> = None;
        let (mut kvm, mut first_entry, mut entered) = (None, None, None);
        let mut left: Option<(f64, String)> = None;
        let mut reading: BTreeMap<String, f64> = BTreeMap::new();
        for (thread, at, event, rest) in trace.lines().filter_map(line) {
            match event {
                // The last one: a shell or loader may come before.
                "sched_process_exec" if kvm.is_none() => exec = Some(at),
                "sys_enter" if first_entry.is_none() => {
                    let (number, arguments) = syscall(rest);
                    if number == SYSCALL_IOCTL && arguments.get(1) == Some(&KVM_GET_API_VERSION) {
                        kvm.get_or_insert(at);
                    }
                    let bytes = arguments.get(2).and_then(|bytes| u64::from_str_radix(bytes, 16).ok()).unwrap_or(0);
                    if number == READ && bytes >= LONG_READ_BYTES {
                        reading.insert(thread.into(), at);
                    }
                }
                "sys_exit" => steps.load += reading.remove(thread).map_or(0.0, |since| at - since),
                "kvm_entry" => {
                    first_entry.get_or_insert(at);
                    entered = Some(at);
                    if let Some((since, reason)) = left.take() {
                        let (count, time) = steps.exits.entry(reason).or_default();
                        (*count, *time) = (*count + 1, *time + at - since);
                    }
                }
                "kvm_exit" => {
                    steps.guest += entered.take().map_or(0.0, |since| at - since);
                    let reason = rest.split_whitespace().skip_while(|word| *word != "reason").nth(1);
                    left = Some((at, reason.unwrap_or("?").to_lowercase()));
                }
                _ => {}
            }
            steps.total = exec.map_or(0.0, |exec| at - exec);
        }
        if let (Some(exec), Some(kvm), Some(first_entry)) = (exec, kvm, first_entry) {
            steps.program = kvm - exec;
            steps.set_up = first_entry - kvm - steps.load;
        }
        steps
    }

    /// One line a step.
    pub fn print(&self) {
        let line = |what: &str, ms: f64| println!("step {ms:9.2} ms  {what}");
        line("the program starts and reads its arguments", self.program);
        line("KVM, processors, tables", self.set_up);
        line("kernel and initrd are read into guest memory", self.load);
        line("the guest runs", self.guest);
        for (reason, (count, ms)) in &self.exits {
            line(&format!("the host answers {count} exits: {reason}"), *ms);
        }
        line("in all, traced", self.total);
    }
}

/// Thread, time in ms, event and the rest of a trace's line.
fn line(text: &str) -> Option<(&str, f64, &str, &str)> {
    let (head, rest) = text.split_once(": ")?;
    let mut words = head.split_whitespace();
    let thread = words.next().filter(|word| !word.starts_with('#'))?;
    let seconds: f64 = words.next_back()?.parse().ok()?;
    let (event, rest) = rest.split_once(':').unwrap_or((rest, ""));
    Some((thread, seconds * 1e3, event.trim(), rest))
}

/// Number and arguments of a system call, as the trace writes them.
fn syscall(text: &str) -> (&str, Vec<&str>) {
    let text = text.trim().trim_start_matches("NR ");
    let (number, arguments) = text.split_once(" (").unwrap_or((text, ""));
    (number, arguments.trim_end_matches(')').split(", ").collect())
}
