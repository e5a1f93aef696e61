//! Measures one start of a guest by any VMM: from exec to the line that the guest prints, and what the VMM took for it.
//!
//! ```text
//!     bench_boot files DIRECTORY             writes init.cpio and tiny.elf
//!     bench_boot run MARKER MIB COMMAND...   runs COMMAND until it prints MARKER, says what that took, and ends it
//!     bench_boot steps MARKER COMMAND...     the same, traced: what the time went to
//! ```
//!
//! `init.cpio` is an initial RAM disk of 0.8 MB whose init prints `GUEST-INIT`; `tiny.elf` a guest of a few instructions,
//! entered by PVH, that prints `TINY-GUEST`. Both then stand still. MIB is the guest's memory: the VMM's own is what it has
//! private outside of mappings that large. KVM's counters are of all guests of the host: run one at a time.

use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

mod files;
mod steps;

use steps::{Steps, Trace};

const PATIENCE: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["files", directory] => files::write(Path::new(directory)),
        ["steps", marker, command @ ..] if !command.is_empty() => steps(marker, command),
        ["run", marker, mib, command @ ..] if !command.is_empty() && mib.parse::<u64>().is_ok() => {
            run(marker, mib.parse().unwrap_or_default(), command)
        }
        _ => {
            eprintln!(
                "bench_boot: usage: bench_boot files DIRECTORY | run MARKER MIB COMMAND... | steps MARKER COMMAND..."
            );
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench_boot: {error}");
            ExitCode::FAILURE
        }
    }
}

// ---- one run ----

fn run(marker: &str, guest_mib: u64, command: &[&str]) -> io::Result<()> {
    let begun = Instant::now();
    let mut child = start(command)?;
    let seen = wait_for(&mut child, marker.as_bytes());
    let took = begun.elapsed();
    let figures = Figures::read(&child, guest_mib);
    child.kill()?;
    child.wait()?;
    let output = seen?;
    let figures = figures?;
    println!(
        "ms {:.2} exits {} pio {} mmio {} page_faults {} private_kib {} threads {}",
        took.as_secs_f64() * 1e3,
        figures.exits,
        figures.pio,
        figures.mmio,
        figures.page_faults,
        figures.private_kib,
        figures.threads
    );
    if std::env::var_os("BENCH_BOOT_OUTPUT").is_some() {
        io::stdout().write_all(&output)?;
    }
    Ok(())
}

fn start(command: &[&str]) -> io::Result<Child> {
    Command::new(command[0]).args(&command[1..]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()
}

fn steps(marker: &str, command: &[&str]) -> io::Result<()> {
    let trace = Trace::start()?;
    let mut child = start(command)?;
    let seen = wait_for(&mut child, marker.as_bytes());
    let text = trace.stop()?;
    child.kill()?;
    child.wait()?;
    seen?;
    Steps::read(&text).print();
    Ok(())
}

/// Reads what the child prints until the marker is in it.
fn wait_for(child: &mut Child, marker: &[u8]) -> io::Result<Vec<u8>> {
    let mut stdout = child.stdout.take().expect("it is a pipe");
    let until = Instant::now() + PATIENCE;
    let mut seen = Vec::new();
    let mut part = [0; 4096];
    loop {
        let count = stdout.read(&mut part)?;
        let from = seen.len().saturating_sub(marker.len());
        seen.extend_from_slice(&part[..count]);
        if seen[from..].windows(marker.len()).any(|window| window == marker) {
            return Ok(seen);
        }
        if count == 0 || Instant::now() > until {
            let said = String::from_utf8_lossy(&seen).into_owned();
            return Err(io::Error::other(format!("It never prints {:?}: {said}", String::from_utf8_lossy(marker))));
        }
    }
}

struct Figures {
    exits: u64,
    pio: u64,
    mmio: u64,
    page_faults: u64,
    private_kib: u64,
    threads: usize,
}

impl Figures {
    fn read(child: &Child, guest_mib: u64) -> io::Result<Figures> {
        let counter = |name: &str| -> u64 {
            let text = fs::read_to_string(format!("/sys/kernel/debug/kvm/{name}")).unwrap_or_default();
            text.trim().parse().unwrap_or_default()
        };
        let process = format!("/proc/{}", child.id());
        Ok(Figures {
            exits: counter("exits"),
            pio: counter("io_exits"),
            mmio: counter("mmio_exits"),
            page_faults: counter("pf_taken"),
            private_kib: private_kib(&fs::read_to_string(format!("{process}/smaps"))?, guest_mib * 1024),
            threads: fs::read_dir(format!("{process}/task"))?.count(),
        })
    }
}

/// What is private in the mappings of an smaps text that are smaller than guest memory.
fn private_kib(smaps: &str, guest_kib: u64) -> u64 {
    let mut size = 0;
    let mut sum = 0;
    for line in smaps.lines() {
        let kib = || line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok()).unwrap_or_default();
        if line.starts_with("Size:") {
            size = kib();
        } else if (line.starts_with("Private_Clean:") || line.starts_with("Private_Dirty:")) && size < guest_kib {
            sum += kib();
        }
    }
    sum
}
