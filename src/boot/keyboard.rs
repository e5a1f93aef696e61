//! What the operator types goes to the guest's console; a pipe or a file on stdin does too, as it is.
//!
//! ```text
//!   a terminal    raw while the guest runs: each key goes to the guest, Ctrl-C too       [keyboard] ──▶ main loop
//!                 Ctrl-A x ends duplexvm boot     Ctrl-A Ctrl-A types a Ctrl-A
//!   pipe, file    to its end                               /dev/null, closed: nothing
//! ```
//!
//! A terminal is taken while this process is its foreground job, and given back as it was, whichever way it ends.

use std::io::{self, IsTerminal, Read, Stdin};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, never};
use nix::sys::stat::{SFlag, fstat};
use nix::sys::termios::{
    InputFlags, LocalFlags, OutputFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr,
};
use nix::unistd::{getpgrp, tcgetpgrp};

/// Most bytes handed over at once.
const PIECE_BYTES: usize = 1024;
/// How many pieces may wait; then stdin waits.
const WAITING: usize = 4;
/// How often a job in the background looks whether it may read its terminal again.
const BACKGROUND_LOOK: Duration = Duration::from_millis(200);
/// Ctrl-A.
const PREFIX: u8 = 0x01;

/// What the terminal was like before it was taken.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Something that came by stdin.
#[derive(Debug, PartialEq, Eq)]
pub enum Typed {
    /// For the guest.
    Bytes(Vec<u8>),
    /// Ctrl-A and a key that means nothing.
    Lost,
    /// Ctrl-A x.
    End,
}

/// Stdin, as far as there is anything to be had from it. Dropped, it gives the terminal back.
#[derive(Debug)]
pub struct Keyboard {
    typed: Receiver<Typed>,
    terminal: bool,
}

impl Keyboard {
    /// Takes the terminal if there is one, and `with_terminal`, and begins to read.
    pub fn start(with_terminal: bool) -> io::Result<Keyboard> {
        let stdin = io::stdin();
        let terminal = stdin.is_terminal();
        if terminal && !with_terminal || !terminal && !is_readable(&stdin) {
            return Ok(Keyboard { typed: never(), terminal: false });
        }
        let (sender, typed) = bounded(WAITING);
        let keyboard = Keyboard { typed, terminal };
        keyboard.take();
        thread::Builder::new().name("keyboard".into()).spawn(move || read(stdin, terminal, &sender))?;
        Ok(keyboard)
    }

    /// True when somebody types.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// What was typed. Its end is stdin's end.
    pub fn typed(&self) -> &Receiver<Typed> {
        &self.typed
    }

    /// Takes the terminal, if this process is its foreground job: at the start, and when it goes on after a stop.
    pub fn take(&self) {
        let stdin = io::stdin();
        if !self.terminal || !is_foreground(&stdin) {
            return;
        }
        let Ok(now) = tcgetattr(&stdin) else { return };
        let mut before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut raw = before.get_or_insert(now).clone();
        raw.input_flags &= !(InputFlags::IGNBRK
            | InputFlags::BRKINT
            | InputFlags::PARMRK
            | InputFlags::ISTRIP
            | InputFlags::INLCR
            | InputFlags::IGNCR
            | InputFlags::ICRNL
            | InputFlags::IXON);
        // Words of ours come between the guest's: their newlines stay what they are.
        raw.output_flags |= OutputFlags::OPOST;
        raw.local_flags &=
            !(LocalFlags::ECHO | LocalFlags::ECHONL | LocalFlags::ICANON | LocalFlags::IEXTEN | LocalFlags::ISIG);
        raw.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
        raw.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
        // A terminal that refuses is one that is gone.
        let _ = tcsetattr(&stdin, SetArg::TCSANOW, &raw);
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        give_back();
    }
}

/// Gives the terminal back as it was, if it was taken.
pub fn give_back() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    let stdin = io::stdin();
    if let Some(before) = before.filter(|_| is_foreground(&stdin)) {
        // A terminal that refuses is one that is gone.
        let _ = tcsetattr(&stdin, SetArg::TCSANOW, &before);
    }
}

/// True unless the terminal is another job's: changing that one's would be wrong, and stop this process.
fn is_foreground(stdin: &Stdin) -> bool {
    tcgetpgrp(stdin).map_or(true, |job| job == getpgrp())
}

/// A pipe, a socket or a file: somebody has put something there for the guest.
fn is_readable(stdin: &Stdin) -> bool {
    let kind = fstat(stdin).map_or(SFlag::empty(), |stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT);
    [SFlag::S_IFIFO, SFlag::S_IFSOCK, SFlag::S_IFREG].contains(&kind)
}

fn read(mut stdin: Stdin, terminal: bool, to: &Sender<Typed>) {
    let mut prefix = Prefix::default();
    let mut bytes = [0; PIECE_BYTES];
    loop {
        let typed = match stdin.read(&mut bytes) {
            Ok(0) => return,
            Ok(count) if terminal => prefix.look_at(&bytes[..count]),
            Ok(count) => vec![Typed::Bytes(bytes[..count].to_vec())],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // In the background, with the signal that would stop this process blocked.
            Err(_) if terminal && !is_foreground(&stdin) => {
                thread::sleep(BACKGROUND_LOOK);
                continue;
            }
            Err(_) => return,
        };
        if typed.into_iter().any(|typed| to.send(typed).is_err()) {
            return;
        }
    }
}

/// Finds what is for us among the keys.
#[derive(Debug, Default)]
struct Prefix {
    seen: bool,
}

impl Prefix {
    fn look_at(&mut self, keys: &[u8]) -> Vec<Typed> {
        let (mut found, mut bytes) = (Vec::new(), Vec::new());
        for key in keys {
            match (std::mem::take(&mut self.seen), *key) {
                (false, PREFIX) => self.seen = true,
                (false, key) | (true, key @ PREFIX) => bytes.push(key),
                (true, b'x' | b'X') => {
                    found.extend((!bytes.is_empty()).then(|| Typed::Bytes(std::mem::take(&mut bytes))));
                    found.push(Typed::End);
                }
                (true, _) => found.push(Typed::Lost),
            }
        }
        found.extend((!bytes.is_empty()).then_some(Typed::Bytes(bytes)));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_keys_but_ctrl_a_x_are_the_guest_s() {
        let mut prefix = Prefix::default();
        let bytes = |bytes: &[u8]| Typed::Bytes(bytes.to_vec());
        assert_eq!(prefix.look_at(b"ls\r\x03x"), [bytes(b"ls\r\x03x")]);
        assert_eq!(prefix.look_at(b"a\x01"), [bytes(b"a")]);
        assert_eq!(prefix.look_at(b"\x01b"), [bytes(b"\x01b")], "twice is once");
        assert_eq!(prefix.look_at(b"\x01h"), [Typed::Lost]);
        assert_eq!(prefix.look_at(b"\x01"), []);
        assert_eq!(prefix.look_at(b"x"), [Typed::End], "however they come");
        assert_eq!(prefix.look_at(b"q\x01xr"), [bytes(b"q"), Typed::End, bytes(b"r")]);
    }
}
