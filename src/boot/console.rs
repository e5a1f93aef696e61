//! Where the guest's console goes: stdout, stderr or a file.
//!
//! ```text
//!   vCPU ── say ──▶ nothing waits, the reader has room ──▶ written at once
//!            └────▶ else: waiting, at most 1 MiB ──▶ [console] ──▶ the reader, when it reads
//!                          └── what finds no room is lost, and the console says how much, where it is missing
//! ```
//!
//! The guest never waits for its console's reader: a terminal that was stopped, or a pager, does not stop a guest, nor
//! what its watchdog's expiry leads to.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Most bytes that wait for the reader.
const WAITING_BYTES: usize = 1 << 20;
/// Most bytes of one write: a pipe that is ready has room for so many.
const PIECE_BYTES: usize = 4096;
/// How long a reader may read nothing at the end before the rest is lost.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A console; clones are the same one.
#[derive(Debug, Clone)]
pub struct Console(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    file: File,
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<u8>,
    /// The thread is there.
    threaded: bool,
    /// It has taken something that it has not written yet.
    writing: bool,
    /// Bytes lost and not told of yet.
    lost: u64,
}

impl Console {
    /// A console on this process's stdout.
    pub fn stdout() -> io::Result<Console> {
        Ok(Console::on(io::stdout().as_fd().try_clone_to_owned()?.into()))
    }

    /// A console on its stderr.
    pub fn stderr() -> io::Result<Console> {
        Ok(Console::on(io::stderr().as_fd().try_clone_to_owned()?.into()))
    }

    /// A console in a new file at `path`, or by the pipe or device that is there.
    pub fn file(path: &Path) -> io::Result<Console> {
        let pipe = std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo());
        let mut options = OpenOptions::new();
        // A pipe that is opened for reading too does not wait for its reader.
        options.write(true).read(pipe).create(!pipe).truncate(!pipe);
        Ok(Console::on(options.custom_flags(nix::libc::O_NOCTTY).open(path)?))
    }

    fn on(file: File) -> Console {
        Console(Arc::new(Shared { file, state: Mutex::default(), moved: Condvar::new() }))
    }

    /// Takes what the guest said. Never waits for the reader.
    pub fn say(&self, mut bytes: &[u8]) {
        let mut state = self.0.lock();
        // What was lost is told of first, in its place.
        while state.is_idle() && state.lost == 0 && !bytes.is_empty() && self.0.is_ready(PollTimeout::ZERO) {
            let (now, rest) = bytes.split_at(bytes.len().min(PIECE_BYTES));
            match (&self.0.file).write(now) {
                Ok(written) => bytes = &bytes[written.min(now.len())..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // A reader that has gone away does not end the guest.
                Err(_) => bytes = rest,
            }
        }
        if !bytes.is_empty() {
            state.add(bytes);
            self.wake(&mut state);
        }
    }

    /// Waits until all is written, as long as the reader reads; says how many bytes were lost at the end.
    pub fn finish(&self) -> u64 {
        let mut state = self.0.lock();
        while !state.is_idle() {
            let left = state.waiting.len();
            let stuck = |state: &mut State| !state.is_idle() && state.waiting.len() == left;
            let waited = self.0.moved.wait_timeout_while(state, LAST_WORDS, stuck);
            let (now, waited) = waited.unwrap_or_else(PoisonError::into_inner);
            state = now;
            if waited.timed_out() {
                return state.lost + state.waiting.len() as u64;
            }
        }
        state.lost
    }

    fn wake(&self, state: &mut State) {
        if !state.threaded {
            let shared = self.0.clone();
            let thread = std::thread::Builder::new().name("console".into()).spawn(move || shared.write_on());
            state.threaded = thread.is_ok();
        }
        self.0.moved.notify_all();
    }
}

impl State {
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && !self.writing
    }

    fn add(&mut self, bytes: &[u8]) {
        let note = format!("\r\n[duplexvm: {} bytes of the console are lost here]\r\n", self.lost);
        let mut room = WAITING_BYTES.saturating_sub(self.waiting.len());
        if self.lost > 0 && room > note.len() {
            self.lost = 0;
            self.waiting.extend(note.as_bytes());
            room -= note.len();
        }
        let taken = if self.lost > 0 { 0 } else { bytes.len().min(room) };
        self.waiting.extend(&bytes[..taken]);
        self.lost += (bytes.len() - taken) as u64;
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True when a write of a piece does not wait; `patience` is how long that may take to come.
    fn is_ready(&self, patience: PollTimeout) -> bool {
        let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
        poll(&mut fds, patience).is_ok_and(|ready| ready > 0)
    }

    /// The thread's body: it is there from the first time that the reader did not keep up, to the process's end.
    fn write_on(&self) {
        let mut state = self.lock();
        loop {
            while state.waiting.is_empty() {
                state.writing = false;
                self.moved.notify_all();
                state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let count = state.waiting.len().min(PIECE_BYTES);
            let piece: Vec<u8> = state.waiting.drain(..count).collect();
            state.writing = true;
            drop(state);
            self.write(&piece);
            state = self.lock();
            self.moved.notify_all();
        }
    }

    fn write(&self, mut piece: &[u8]) {
        while !piece.is_empty() {
            match (&self.file).write(piece) {
                Ok(written) => piece = &piece[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // Whatever it ends with, it is tried again.
                    let _ = self.is_ready(PollTimeout::NONE);
                }
                Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn pipe() -> (File, Console) {
        let (reader, writer) = nix::unistd::pipe().expect("a pipe");
        (reader.into(), Console::on(writer.into()))
    }

    #[test]
    fn a_reader_that_keeps_up_costs_no_thread() {
        let (mut reader, console) = pipe();
        for word in ["one ", "two ", "three"] {
            console.say(word.as_bytes());
            let mut bytes = vec![0; word.len()];
            reader.read_exact(&mut bytes).expect("it is there");
            assert_eq!(bytes, word.as_bytes());
        }
        assert!(!console.0.lock().threaded && console.finish() == 0);
    }

    #[test]
    fn a_reader_that_does_not_read_stops_nobody_and_finds_what_there_was_room_for() {
        // It then reads half of what waits, or all of it, before the guest goes on.
        for most_waiting in [WAITING_BYTES / 2, 0] {
            let (mut reader, console) = pipe();
            for _ in 0..3000 {
                console.say(&[b'x'; 1000]);
            }
            assert!(console.finish() > 1_000_000, "nobody reads");
            let reads = std::thread::spawn(move || {
                let (mut text, mut bytes) = (Vec::new(), [0; 65536]);
                while !text.ends_with(b"and on") {
                    let count = reader.read(&mut bytes).expect("a pipe");
                    text.extend(&bytes[..count]);
                }
                String::from_utf8(text).expect("text")
            });
            let down_to = |most_waiting: usize| {
                let (shared, patience) = (&console.0, Duration::from_secs(30));
                let stays =
                    |state: &mut State| state.waiting.len() > most_waiting || (most_waiting == 0 && !state.is_idle());
                let waited = shared.moved.wait_timeout_while(shared.lock(), patience, stays);
                assert!(!waited.expect("no panic").1.timed_out(), "it is read");
            };
            down_to(most_waiting);
            console.say(b"and on");
            down_to(0);
            assert_eq!(console.finish(), 0);
            let text = reads.join().expect("no panic");
            // Whatever is missing is told of where it is missing: the last of it before the last words.
            let (note, end) = ("\r\n[duplexvm: ", " bytes of the console are lost here]\r\n");
            let mut parts = text.split(note);
            let mut told = parts.next().map_or(0, str::len);
            for part in parts {
                let (lost, rest) = part.split_once(end).expect("a note");
                told += lost.parse::<usize>().expect("a number") + rest.trim_end_matches("and on").len();
            }
            assert_eq!(told, 3_000_000);
            assert!(text.ends_with(&format!("{end}and on")));
        }
    }
}
