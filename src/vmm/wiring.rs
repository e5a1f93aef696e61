//! Where the board's signals go: KVM's interrupt controllers, the virtio workers, the ticker, the sink.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_ioctls::VmFd;

use super::pace::Pace;
use super::report::{Report, Sink};
use super::sockets::Sockets;
use super::ticker::Ticker;
use super::witness::Witness;
use crate::devices::GuestTime;
use crate::devices::board::Board;
use crate::devices::signal::{Com, Outcome, Signal};

/// Most bytes that may wait for the guest to read them from a serial port.
pub const COM_WAITING_BYTES: usize = 64 << 10;

/// The guest does not read a serial port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("The guest does not read {0:?}: as much as may wait for it does")]
pub struct ComFull(pub Com);

/// The wires of one start of a machine.
#[derive(Debug)]
pub struct Wiring {
    board: Arc<Mutex<Board>>,
    sockets: Sockets,
    vm: Arc<VmFd>,
    pace: Arc<Pace>,
    ticker: Arc<Ticker>,
    witness: Witness,
    sink: Sink,
    /// What waits for the guest: by COM1, by COM2.
    to_com: [Mutex<VecDeque<u8>>; 2],
    ran: AtomicBool,
    petted: AtomicBool,
}

impl Wiring {
    /// Connects `board` and its virtio `sockets` with the virtual machine `vm`.
    pub fn new(
        board: Arc<Mutex<Board>>,
        sockets: Sockets,
        vm: Arc<VmFd>,
        pace: Arc<Pace>,
        ticker: Arc<Ticker>,
        witness: Witness,
        sink: Sink,
    ) -> Wiring {
        Wiring {
            board,
            sockets,
            vm,
            pace,
            ticker,
            witness,
            sink,
            to_com: Default::default(),
            ran: AtomicBool::new(false),
            petted: AtomicBool::new(false),
        }
    }

    /// The machine's pace.
    pub fn pace(&self) -> &Arc<Pace> {
        &self.pace
    }

    /// The timer of the board's deadlines.
    pub fn ticker(&self) -> &Ticker {
        &self.ticker
    }

    /// Who tells what the watchdog found.
    pub fn witness(&self) -> &Witness {
        &self.witness
    }

    /// Where reports go.
    pub fn sink(&self) -> &Sink {
        &self.sink
    }

    /// Does one thing to the board, and carries out what comes of it.
    ///
    /// Interrupt lines, what virtio devices are wired to, and the ticker's timer are moved under the board's lock, in its order: two threads
    /// that let go of it first could tell an old level last. None of them waits. Reports follow when it is free again.
    pub fn access(&self, access: impl FnOnce(&mut Board, GuestTime) -> Outcome) {
        let mut later = Vec::new();
        let mut room = Vec::new();
        let seen_at;
        {
            let mut board = self.board();
            seen_at = self.pace.now();
            for signal in access(&mut board, seen_at) {
                match signal {
                    Signal::IrqLine { line, level } => self.set_line(line, level),
                    Signal::Virtio { slot, event } => self.sockets.carry_out(slot, event),
                    Signal::WakeSooner | Signal::WakeLater => self.arm(&board),
                    Signal::InputRoom { com } => room.push(com),
                    signal => later.push(signal),
                }
            }
        }
        if !later.is_empty() {
            self.carry_out(later, seen_at);
        }
        room.into_iter().for_each(|com| self.feed(com));
    }

    /// Arms the ticker's timer for the board's next deadline; none while time stands still.
    pub fn arm_ticker(&self) {
        self.arm(&self.board());
    }

    /// The guest's first instruction has been run, if it had not before.
    pub fn has_run(&self) {
        if !self.ran.swap(true, Ordering::AcqRel) {
            self.sink.report(Report::FirstInstruction);
        }
    }

    /// Sends bytes to the guest by a serial port; what it does not take now waits until it reads. All of them, or none.
    pub fn send(&self, com: Com, bytes: &[u8]) -> Result<(), ComFull> {
        {
            let mut waiting = self.waiting(com);
            if waiting.len() + bytes.len() > COM_WAITING_BYTES {
                return Err(ComFull(com));
            }
            waiting.extend(bytes);
        }
        self.feed(com);
        Ok(())
    }

    /// Offers a serial port what waits for it.
    fn feed(&self, com: Com) {
        self.access(|board, _| {
            let mut waiting = self.waiting(com);
            if waiting.is_empty() {
                return Outcome::default();
            }
            let (taken, outcome) = board.com_input(com, waiting.make_contiguous());
            waiting.drain(..taken);
            outcome
        });
    }

    fn carry_out(&self, signals: Vec<Signal>, seen_at: GuestTime) {
        let mut output: Option<(Com, Vec<u8>)> = None;
        for signal in signals {
            if let Signal::Output { com, byte } = signal {
                match &mut output {
                    Some((of, bytes)) if *of == com => bytes.push(byte),
                    _ => self.print(output.replace((com, vec![byte]))),
                }
                continue;
            }
            self.print(output.take());
            match signal {
                Signal::WatchdogPetted => {
                    if !self.petted.swap(true, Ordering::AcqRel) {
                        self.sink.report(Report::FirstPet);
                    }
                }
                verdict @ (Signal::WatchdogPretimeout { .. } | Signal::WatchdogExpired { .. }) => {
                    self.witness.note(verdict, seen_at);
                    self.pace.ring();
                }
                Signal::Panicked { events } => self.sink.report(Report::Panicked { events }),
                Signal::Reset(kind) => self.end(Report::Reset { kind }),
                Signal::PowerOff => self.end(Report::PowerOff),
                // Carried out already, under the board's lock or above.
                Signal::Output { .. }
                | Signal::IrqLine { .. }
                | Signal::Virtio { .. }
                | Signal::WakeSooner
                | Signal::WakeLater
                | Signal::InputRoom { .. } => {}
            }
        }
        self.print(output);
    }

    /// The guest stands still from now on; the first reason is the one reported.
    pub fn end(&self, why: Report) {
        if self.pace.end() {
            self.sink.report(why);
        }
    }

    fn print(&self, output: Option<(Com, Vec<u8>)>) {
        match output {
            Some((Com::Com1, bytes)) => self.sink.report(Report::Console(bytes)),
            Some((Com::Com2, bytes)) => self.sink.report(Report::Com2(bytes)),
            None => {}
        }
    }

    fn set_line(&self, line: u32, level: bool) {
        if let Err(error) = self.vm.set_irq_line(line, level) {
            log::error!("Interrupt line {line} cannot be set: {error}");
        }
    }

    fn arm(&self, board: &Board) {
        if let Err(error) = self.ticker.arm(board.wake_at().and_then(|at| self.pace.steady_at(at))) {
            log::error!("The ticker's timer cannot be set: {error}");
        }
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self, com: Com) -> MutexGuard<'_, VecDeque<u8>> {
        let waiting = match com {
            Com::Com1 => &self.to_com[0],
            Com::Com2 => &self.to_com[1],
        };
        waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
