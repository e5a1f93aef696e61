//! `duplexvm boot` as its operator meets it: keyboard, signals, a console that nobody reads, files and devices that are not
//! what they should be. On the real `/dev/kvm`.

mod boot {
    pub mod kernels;
}

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use nix::unistd::Pid;
use tempfile::TempDir;

use boot::kernels;

/// How long anything may take on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);

/// A `duplexvm boot`, ended with the test.
struct Boot(Child);

fn start(arguments: &[&str], stdin: impl Into<Stdio>, stdout: impl Into<Stdio>) -> Boot {
    let mut command = Command::new(env!("CARGO_BIN_EXE_duplexvm"));
    command.arg("boot").args(arguments).stdin(stdin).stdout(stdout).stderr(Stdio::piped());
    Boot(command.spawn().expect("the program that is tested runs"))
}

/// How it ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    signal: Option<i32>,
    stderr: String,
}

impl Boot {
    fn stdout(&mut self) -> ChildStdout {
        self.0.stdout.take().expect("piped")
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id() as i32), signal).expect("it is there");
    }

    fn runs(&mut self) -> bool {
        self.0.try_wait().expect("our own child").is_none()
    }

    /// Waits for its end.
    fn ends(mut self) -> Ended {
        let deadline = Instant::now() + PATIENCE;
        while self.runs() {
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::yield_now();
        }
        let status = self.0.wait().expect("our own child");
        let mut stderr = String::new();
        self.0.stderr.take().expect("piped").read_to_string(&mut stderr).expect("text");
        Ended { code: status.code(), signal: status.signal(), stderr }
    }
}

impl Drop for Boot {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs it to its end, with nothing on stdin.
fn run(arguments: &[&str]) -> Ended {
    start(arguments, Stdio::null(), Stdio::null()).ends()
}

/// Reads until `last` has come.
fn read_until(from: &mut impl Read, last: &[u8]) -> Vec<u8> {
    let (mut text, mut bytes) = (Vec::new(), [0; 4096]);
    while !text.windows(last.len()).any(|window| window == last) {
        let count = from.read(&mut bytes).expect("it can be read");
        assert!(count > 0, "it ends: {:?}", String::from_utf8_lossy(&text));
        text.extend(&bytes[..count]);
    }
    text
}

fn text(path: &Path) -> &str {
    path.to_str().expect("plain")
}

// ---- the console ----

#[test]
fn what_comes_by_a_pipe_is_typed_for_the_guest() {
    let dir = TempDir::new().expect("a directory");
    let kernel = kernels::echo(dir.path());
    let mut boot = start(&["--kernel", text(&kernel)], Stdio::piped(), Stdio::piped());
    // More than waits anywhere: none of it is lost.
    let line = b"x\x01\x03".repeat(30_000);
    let mut stdin = boot.0.stdin.take().expect("piped");
    let writes = std::thread::spawn({
        let line = line.clone();
        move || stdin.write_all(&[&line[..], b"q"].concat())
    });
    let mut said = Vec::new();
    boot.stdout().read_to_end(&mut said).expect("it can be read");
    assert!(said == [b">", &line[..], b"q"].concat(), "{} bytes", said.len());
    writes.join().expect("no panic").expect("written");
    let ended = boot.ends();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
}

#[test]
fn a_guest_runs_on_after_the_end_of_its_input() {
    let dir = TempDir::new().expect("a directory");
    let kernel = kernels::echo(dir.path());
    fs::write(dir.path().join("typed"), "ab").expect("a file");
    let file = File::open(dir.path().join("typed")).expect("it is there");
    let mut boot = start(&["--kernel", text(&kernel)], file, Stdio::piped());
    assert_eq!(read_until(&mut boot.stdout(), b"b"), b">ab");
    assert!(boot.runs());
}

/// A terminal: the operator's side, and what it is like.
struct Terminal {
    operator: File,
    guest: OwnedFd,
}

impl Terminal {
    fn new() -> Terminal {
        let pty = openpty(None, None).expect("this host has terminals");
        Terminal { operator: pty.master.into(), guest: pty.slave }
    }

    fn end(&self) -> OwnedFd {
        self.guest.try_clone().expect("a descriptor")
    }

    fn is(&self) -> Termios {
        tcgetattr(&self.guest).expect("a terminal")
    }
}

/// A guest at a terminal that has said its first word.
fn at_terminal(dir: &Path, terminal: &mut Terminal) -> Boot {
    let kernel = kernels::echo(dir);
    let boot = start(&["--kernel", text(&kernel)], terminal.end(), terminal.end());
    assert_eq!(read_until(&mut terminal.operator, b">"), b">");
    boot
}

#[test]
fn a_terminal_is_the_guest_s_and_given_back_as_it_was() {
    let dir = TempDir::new().expect("a directory");
    let mut terminal = Terminal::new();
    let before = terminal.is();
    assert!(before.local_flags.contains(LocalFlags::ICANON));
    /// What is typed, the signal sent, the exit code if no signal is its end, words of stderr.
    type Ending = (&'static [u8], Option<Signal>, Option<i32>, &'static str);
    let endings: [Ending; 4] = [
        (b"q", None, Some(0), "powered off"),
        (b"\x01x", None, Some(0), "at its console"),
        (b"", Some(Signal::SIGTERM), None, "SIGTERM"),
        (b"", Some(Signal::SIGHUP), None, "SIGHUP"),
    ];
    for (keys, signal, code, words) in endings {
        let boot = at_terminal(dir.path(), &mut terminal);
        let raw = LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG;
        assert!(!terminal.is().local_flags.intersects(raw));
        terminal.operator.write_all(b"a\x03\x1a\x01\x01\r").expect("typed");
        assert_eq!(read_until(&mut terminal.operator, b"\r"), b"a\x03\x1a\x01\r", "Ctrl-C is the guest's");
        terminal.operator.write_all(keys).expect("typed");
        if let Some(signal) = signal {
            boot.signal(signal);
        }
        let ended = boot.ends();
        assert_eq!((ended.code, ended.signal), (code, signal.map(|signal| signal as i32)), "{ended:?}");
        assert!(ended.stderr.contains(words), "{ended:?}");
        assert_eq!(terminal.is(), before);
        if keys == b"q" {
            read_until(&mut terminal.operator, b"q");
        }
    }
}

#[test]
fn a_console_that_nobody_reads_stops_nothing() {
    let dir = TempDir::new().expect("a directory");
    let kernel = kernels::echo(dir.path());
    let mut boot = start(&["--kernel", text(&kernel)], Stdio::piped(), Stdio::piped());
    let unread = boot.stdout();
    let mut stdin = boot.0.stdin.take().expect("piped");
    // The guest says all of it back, into a pipe of 64 KiB.
    stdin.write_all(&[b'x'; 300_000]).expect("the guest reads it");
    boot.signal(Signal::SIGTERM);
    let ended = boot.ends();
    assert_eq!(ended.signal, Some(Signal::SIGTERM as i32), "{ended:?}");
    assert!(ended.stderr.contains("nobody read the last"), "{ended:?}");
    drop(unread);
    // The same of a pipe that nobody has opened.
    let pipe = dir.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o600)).expect("a pipe");
    let ended = run(&["--kernel", "builtin:hang", "--serial", text(&pipe)]);
    assert_eq!(ended.code, Some(10), "{ended:?}");
}

// ---- signals ----

#[test]
fn a_signal_stops_the_guest_and_then_the_process() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let mut boot = start(&["--kernel", "builtin:pet", "--json"], Stdio::null(), Stdio::piped());
        let mut stdout = boot.stdout();
        let mut said = read_until(&mut stdout, b"guest_ready");
        boot.signal(signal);
        stdout.read_to_end(&mut said).expect("it can be read");
        let events: Vec<serde_json::Value> = said
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).expect("whole lines of JSON"))
            .collect();
        assert_eq!(events.last().expect("some")["event"], "memory_released");
        let ended = boot.ends();
        assert_eq!((ended.code, ended.signal), (None, Some(signal as i32)), "{ended:?}");
        assert!(ended.stderr.contains(signal.as_str()), "{ended:?}");
    }
}

#[test]
fn a_signal_that_is_ignored_stays_so() {
    let program = env!("CARGO_BIN_EXE_duplexvm");
    let script = format!("trap '' HUP; exec {program} boot --kernel builtin:pet --json");
    let mut command = Command::new("sh");
    command.args(["-c", &script]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut boot = Boot(command.spawn().expect("a shell"));
    let mut stdout = boot.stdout();
    read_until(&mut stdout, b"guest_ready");
    boot.signal(Signal::SIGHUP);
    boot.signal(Signal::SIGTERM);
    let ended = boot.ends();
    assert_eq!(ended.signal, Some(Signal::SIGTERM as i32), "{ended:?}");
}

// ---- files, devices, sizes that are wrong ----

#[test]
fn an_image_has_one_writer() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory on a disk");
    let image = dir.path().join("image");
    File::create(&image).and_then(|file| file.set_len(1 << 20)).expect("an image");
    let (writes, reads) = (text(&image).to_owned(), format!("{},ro", text(&image)));
    let mut boot = start(&["--kernel", "builtin:pet", "--json", "--disk", &writes], Stdio::null(), Stdio::piped());
    read_until(&mut boot.stdout(), b"guest_ready");
    for disk in [&writes, &reads] {
        let ended = run(&["--kernel", "builtin:off", "--disk", disk]);
        assert!(ended.code == Some(1) && ended.stderr.contains("in use"), "{ended:?}");
    }
    drop(boot);
    let ended = run(&["--kernel", "builtin:off", "--disk", &reads, "--disk", &reads]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let ended = run(&["--kernel", "builtin:off", "--disk", &reads, "--disk", &writes]);
    assert!(ended.code == Some(2) && ended.stderr.contains("given twice"), "{ended:?}");
}

#[test]
fn whatever_is_named_there_is_one_clear_answer() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory on a disk");
    let at = |name: &str| dir.path().join(name).to_str().expect("plain").to_owned();
    nix::unistd::mkfifo(Path::new(&at("pipe")), nix::sys::stat::Mode::from_bits_truncate(0o600)).expect("a pipe");
    fs::create_dir(at("folder")).expect("a directory");
    fs::write(at("empty"), "").expect("a file");
    fs::write(at("odd"), [0; 1000]).expect("a file");
    let kernel = kernels::elf(&[0xf4]);
    fs::write(at("kernel"), &kernel).expect("a file");
    fs::write(at("cut"), &kernel[..0x800]).expect("a file");
    let mut large = kernel.clone();
    // It wants 200 MiB.
    large[64 + 40..64 + 48].copy_from_slice(&(200u64 << 20).to_le_bytes());
    fs::write(at("large"), large).expect("a file");
    File::create(at("huge")).and_then(|file| file.set_len(1 << 40)).expect("a sparse file");
    let (pipe, folder, empty, odd) = (at("pipe"), at("folder"), at("empty"), at("odd"));
    let (good, cut, large, huge) = (at("kernel"), at("cut"), at("large"), at("huge"));
    let long = "x".repeat(2048);
    let cases: &[(&[&str], i32, &str)] = &[
        (&["--kernel", &pipe], 2, "not a regular file"),
        (&["--kernel", &folder], 2, "not a regular file"),
        (&["--kernel", "/dev/zero"], 2, "not a regular file"),
        (&["--kernel", &empty], 2, "neither an ELF"),
        (&["--kernel", &odd], 2, "neither an ELF"),
        (&["--kernel", &huge], 2, "neither an ELF"),
        (&["--kernel", &cut], 2, "damaged"),
        (&["--kernel", &large], 2, "give it at least 201 MiB"),
        (&["--kernel", &good, "--memory", "4MiB", "--initrd", &empty], 2, "empty"),
        (&["--kernel", &good, "--initrd", &pipe], 2, "not a regular file"),
        (&["--kernel", &good, "--initrd", "/dev/zero"], 2, "not a regular file"),
        (&["--kernel", &good, "--initrd", &folder], 2, "not a regular file"),
        (&["--kernel", &good, "--initrd", &huge], 2, "make it smaller"),
        (&["--kernel", &good, "--initrd", "/nonexistent"], 1, "cannot be read"),
        (&["--kernel", &good, "--cmdline", &long], 2, "shorten"),
        (&["--kernel", &good, "--entry", "bios"], 2, "bios"),
        (&["--kernel", "builtin:off", "--initrd", &odd], 2, "built-in"),
        (&["--kernel", "builtin:off", "--memory", "3MiB"], 2, "multiple of 4 KiB"),
        (&["--kernel", "builtin:off", "--memory", "0"], 2, "multiple of 4 KiB"),
        (&["--kernel", "builtin:off", "--memory", "10000000GiB"], 2, "multiple of 4 KiB"),
        (&["--kernel", "builtin:off", "--vcpus", "0"], 2, "processors"),
        (&["--kernel", "builtin:off", "--vcpus", "255"], 2, "processors"),
        (&["--kernel", "builtin:off", "--vcpus", "300"], 2, "processors"),
        (&["--kernel", "builtin:off", "--vcpus", "-1"], 2, "-1"),
        (&["--kernel", "builtin:off", "--disk", &pipe], 2, "neither a file nor a block device"),
        (&["--kernel", "builtin:off", "--disk", &folder], 2, "neither a file nor a block device"),
        (&["--kernel", "builtin:off", "--disk", "/dev/zero"], 2, "neither a file nor a block device"),
        (&["--kernel", "builtin:off", "--disk", &empty], 2, "less than one block"),
        (&["--kernel", "builtin:off", "--disk", "/nonexistent"], 1, "cannot be opened"),
        (&["--kernel", "builtin:off", "--serial", &folder], 1, "cannot be opened"),
        (&["--kernel", "builtin:off", "--serial", "/nonexistent/file"], 1, "cannot be opened"),
        (&["--kernel", "builtin:off", "--tap", "sixteen-letters-"], 2, "no name of a network interface"),
        (&["--kernel", "builtin:off", "--tap", ""], 2, "no name of a network interface"),
        (&["--kernel", "builtin:off", "--tap", "lo"], 1, "no tap"),
    ];
    File::create(at("disk")).and_then(|file| file.set_len(1 << 20)).expect("a sparse file");
    let disk = format!("{},ro", at("disk"));
    let many: Vec<&str> = ["--kernel", "builtin:off"].into_iter().chain(["--disk", &disk].repeat(40)).collect();
    let many: (&[&str], i32, &str) = (&many, 2, "fewer disks");
    for (arguments, code, words) in cases.iter().chain([&many]) {
        let ended = run(arguments);
        assert_eq!(ended.code, Some(*code), "{arguments:?}: {ended:?}");
        assert!(ended.stderr.contains(words), "{arguments:?}: {ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "one line: {arguments:?}: {ended:?}");
    }
}
