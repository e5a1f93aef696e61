//! A 16550A serial port (National Semiconductor PC16550D) whose line is infinitely fast.
//!
//! ```text
//!   host ── input ──▶ queue ─▶ RBR ─▶ guest        guest ─▶ THR ── at once ──▶ host
//!            ▲ takes what fits         ▲                      └─ in loopback ──▶ queue
//!            └ wanted again: Signal::InputRoom
//! ```
//!
//! A port with a handshake takes input while the guest asks for it (RTS): what comes before somebody has opened the port
//! waits outside, where a driver that looks what chip this is cannot throw it away. Such a driver tries the interrupts
//! too: they are no sign that somebody listens.
//!
//! The transmitter is always empty, so a polled guest never waits and no byte is lost. The receive
//! queue is longer than the chip's FIFO: what lies past its 16 bytes is still on the line, and
//! clearing the FIFO leaves it alone. Interrupts are a level, a function of the registers; OUT2 does
//! not gate it.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

/// Most input that waits for the guest.
pub const INPUT_BYTES: usize = 4096;

/// Bytes of the receive FIFO.
const FIFO_BYTES: usize = 16;

const IER_MASK: u8 = 0x0f;
const IER_RECEIVED: u8 = 1 << 0;
const IER_SENT: u8 = 1 << 1;
const IER_LINE: u8 = 1 << 2;
const IER_MODEM: u8 = 1 << 3;
const IIR_NONE: u8 = 0x01;
const IIR_MODEM: u8 = 0x00;
const IIR_SENT: u8 = 0x02;
const IIR_RECEIVED: u8 = 0x04;
const IIR_LINE: u8 = 0x06;
const IIR_FIFO: u8 = 0xc0;
const FCR_ENABLE: u8 = 1 << 0;
const FCR_CLEAR_RECEIVER: u8 = 1 << 1;
const LCR_DIVISOR: u8 = 1 << 7;
const MCR_MASK: u8 = 0x1f;
const MCR_REQUEST_TO_SEND: u8 = 1 << 1;
const MCR_LOOP: u8 = 1 << 4;
const LSR_DATA_READY: u8 = 1 << 0;
const LSR_OVERRUN: u8 = 1 << 1;
const LSR_SENT: u8 = 0x60;
/// Clear to send, data set ready, carrier: somebody is at the other end.
const MSR_CONNECTED: u8 = 0xb0;
/// Trailing edge of the ring indicator: the one change bit that only falls.
const MSR_RING: u8 = 1 << 6;
const MSR_CHANGES: u8 = 0x0f;
/// 9600 baud: what nobody has set yet.
const DIVISOR: [u8; 2] = [12, 0];

/// One serial port.
#[derive(Debug, Clone)]
pub struct Serial {
    handshake: bool,
    divisor: [u8; 2],
    ier: u8,
    lcr: u8,
    mcr: u8,
    scratch: u8,
    fifo: bool,
    overrun: bool,
    /// Change bits of the modem status, cleared as it is read.
    modem_changes: u8,
    /// The transmitter has become empty, and nobody has been told since.
    sent: bool,
    queue: VecDeque<u8>,
    /// The host was turned away, and has not been told of room since.
    refused: bool,
}

impl Default for Serial {
    fn default() -> Serial {
        Serial {
            handshake: false,
            divisor: DIVISOR,
            ier: 0,
            lcr: 0,
            mcr: 0,
            scratch: 0,
            fifo: false,
            overrun: false,
            modem_changes: 0,
            sent: false,
            queue: VecDeque::new(),
            refused: false,
        }
    }
}

impl Serial {
    /// A port whose other end heeds RTS.
    pub fn with_handshake() -> Serial {
        Serial { handshake: true, ..Serial::default() }
    }

    /// Reads the register at `offset` (0 to 7; none is past it, that reads all ones).
    pub fn read(&mut self, offset: u16) -> u8 {
        match offset {
            0 | 1 if self.divisor_selected() => self.divisor[usize::from(offset)],
            0 => self.queue.pop_front().unwrap_or(0),
            1 => self.ier,
            2 => self.read_identification(),
            3 => self.lcr,
            4 => self.mcr,
            5 => self.read_line_status(),
            6 => self.modem_lines() | std::mem::take(&mut self.modem_changes),
            7 => self.scratch,
            _ => 0xff,
        }
    }

    /// Writes the register at `offset` (0 to 7); says which byte went out on the line, if one did.
    pub fn write(&mut self, offset: u16, value: u8) -> Option<u8> {
        match offset {
            0 | 1 if self.divisor_selected() => self.divisor[usize::from(offset)] = value,
            0 => return self.send(value),
            1 => self.enable_interrupts(value & IER_MASK),
            2 => self.control_fifo(value),
            3 => self.lcr = value,
            4 => self.control_modem(value & MCR_MASK),
            7 => self.scratch = value,
            // Line and modem status are read-only in service.
            _ => {}
        }
        None
    }

    /// Offers bytes from the line; says how many were taken. In loopback the line is cut off.
    pub fn input(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.room());
        self.queue.extend(&bytes[..taken]);
        self.refused |= taken < bytes.len();
        taken
    }

    /// True once after input was turned away and half the queue has become free.
    pub fn has_room_again(&mut self) -> bool {
        let again = self.refused && self.room() >= INPUT_BYTES / 2;
        self.refused &= !again;
        again
    }

    /// Level of the interrupt line.
    pub fn interrupt(&self) -> bool {
        self.identification() != IIR_NONE
    }

    /// System reset: registers as at power-on, what waited on the line is gone, and a host that was
    /// turned away is told of the room.
    pub fn reset(&mut self) {
        *self = Serial { refused: self.refused, handshake: self.handshake, ..Serial::default() };
    }

    fn divisor_selected(&self) -> bool {
        self.lcr & LCR_DIVISOR != 0
    }

    fn looped(&self) -> bool {
        self.mcr & MCR_LOOP != 0
    }

    fn listens(&self) -> bool {
        !self.handshake || self.mcr & MCR_REQUEST_TO_SEND != 0
    }

    fn room(&self) -> usize {
        if self.looped() || !self.listens() { 0 } else { INPUT_BYTES.saturating_sub(self.queue.len()) }
    }

    fn send(&mut self, value: u8) -> Option<u8> {
        self.sent = true;
        if !self.looped() {
            return Some(value);
        }
        if self.queue.len() < INPUT_BYTES {
            self.queue.push_back(value);
        } else {
            self.overrun = true;
        }
        None
    }

    fn enable_interrupts(&mut self, ier: u8) {
        // Switched on with the transmitter empty it interrupts at once: Linux tests for that.
        self.sent |= ier & !self.ier & IER_SENT != 0;
        self.ier = ier;
    }

    fn control_fifo(&mut self, value: u8) {
        let enable = value & FCR_ENABLE != 0;
        if enable != self.fifo || value & FCR_CLEAR_RECEIVER != 0 {
            let depth = if self.fifo { FIFO_BYTES } else { 1 };
            self.queue.drain(..depth.min(self.queue.len()));
        }
        self.fifo = enable;
    }

    fn control_modem(&mut self, mcr: u8) {
        let before = self.modem_lines();
        self.mcr = mcr;
        let after = self.modem_lines();
        let changed = (before ^ after) & !(MSR_RING & after);
        self.modem_changes |= changed >> 4 & MSR_CHANGES;
    }

    /// In loopback the outputs come back as inputs: RTS as CTS, DTR as DSR, OUT1 as RI, OUT2 as DCD.
    fn modem_lines(&self) -> u8 {
        if !self.looped() {
            return MSR_CONNECTED;
        }
        (self.mcr & 0b0010) << 3 | (self.mcr & 0b0001) << 5 | (self.mcr & 0b0100) << 4 | (self.mcr & 0b1000) << 4
    }

    fn read_line_status(&mut self) -> u8 {
        let ready = if self.queue.is_empty() { 0 } else { LSR_DATA_READY };
        let overrun = if std::mem::take(&mut self.overrun) { LSR_OVERRUN } else { 0 };
        LSR_SENT | ready | overrun
    }

    fn read_identification(&mut self) -> u8 {
        let identification = self.identification();
        // Being told that the transmitter is empty is what clears that.
        self.sent &= identification != IIR_SENT;
        identification | if self.fifo { IIR_FIFO } else { 0 }
    }

    /// The most urgent interrupt that is due and enabled.
    fn identification(&self) -> u8 {
        let enabled = |source| self.ier & source != 0;
        if enabled(IER_LINE) && self.overrun {
            IIR_LINE
        } else if enabled(IER_RECEIVED) && !self.queue.is_empty() {
            IIR_RECEIVED
        } else if enabled(IER_SENT) && self.sent {
            IIR_SENT
        } else if enabled(IER_MODEM) && self.modem_changes != 0 {
            IIR_MODEM
        } else {
            IIR_NONE
        }
    }
}
