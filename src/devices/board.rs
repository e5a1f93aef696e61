//! Which address is which chip.
//!
//! ```text
//!   ports                                  memory
//!   0x0060, 0x0064   i8042, IRQ 1 and 12   0x0000_0000     RAM, at most 3 GiB
//!   0x0092           fast reset            0xc000_0000     PCI window: BARs
//!   0x02f8..0x02ff   COM2, IRQ 3           0xe000_0000     ECAM
//!   0x03f8..0x03ff   COM1, IRQ 4           0xfec0_0000     IOAPIC (in KVM)
//!   0x0600..0x0605   ACPI PM1a             0xfee0_0000     local APICs (in KVM)
//!   0x0610..0x0612   ACPI reset, sleep     0x1_0000_0000   RAM
//!   0x0cf8, 0x0cfc   PCI configuration     0x60_0000_0000  64-bit PCI window
//!   0x0cf9           reset control
//! ```
//!
//! One `Mutex<Board>` per machine. A vCPU thread locks it for one access, the ticker for one tick;
//! both let go before they act on the [`Outcome`]. Every call first lets fall due what is due by
//! `now`, so an access never sees a watchdog that should have fired already. What nobody answers
//! reads all ones; writes to it go nowhere.

#[cfg(test)]
mod tests;

use std::ops::Range;

use super::GuestTime;
use super::i6300esb::I6300esb;
use super::i8042::{self, I8042};
use super::pci::{BusFull, CONFIG_ADDRESS, CONFIG_DATA, Function, Pci};
use super::pvpanic::Pvpanic;
use super::reset::{PM1A_EVENT, PORT_92, PORT_CF9, RESET_REGISTER, ResetKind, ResetPorts, SLEEP_STATUS, Wish};
use super::serial::Serial;
use super::signal::{Com, Outcome, Signal};
use super::virtio::pci::Transport;

/// RAM below 4 GiB ends here at the latest; what is more goes on at [`HIGH_RAM`].
pub const LOW_RAM_END: u64 = 0xc000_0000;
/// 32-bit PCI window: the board places BARs here, and a guest may move them within it.
pub const PCI_WINDOW: Range<u64> = 0xc000_0000..0xe000_0000;
/// ECAM window, 256 buses of 1 MiB; only bus 0 has functions.
pub const ECAM: Range<u64> = 0xe000_0000..0xf000_0000;
/// How much of it one bus takes.
pub const ECAM_BUS_BYTES: u64 = 1 << 20;
/// IOAPIC registers, in KVM.
pub const IOAPIC: u64 = 0xfec0_0000;
/// Local APIC registers, in KVM.
pub const LAPIC: u64 = 0xfee0_0000;
/// RAM past the hole below 4 GiB.
pub const HIGH_RAM: u64 = 0x1_0000_0000;
/// 64-bit PCI window, below 2^39: guests may move 64-bit BARs here, RAM has to end below it.
pub const PCI64_WINDOW: Range<u64> = 0x60_0000_0000..0x70_0000_0000;

/// First port of COM1.
pub const COM1: u16 = 0x3f8;
/// First port of COM2.
pub const COM2: u16 = 0x2f8;
/// GSI of COM1.
pub const COM1_IRQ: u32 = 4;
/// GSI of COM2.
pub const COM2_IRQ: u32 = 3;

/// Slot of the watchdog.
pub const WATCHDOG_SLOT: u8 = 1;
/// Slot of the pvpanic device; virtio devices follow.
pub const PVPANIC_SLOT: u8 = 2;

/// GSI of the INTA line of a PCI slot: level-triggered, active high, shared by every fourth slot.
pub const fn intx_line(slot: u8) -> u32 {
    [10, 11, 5, 7][slot as usize % 4]
}

const COM1_LAST: u16 = COM1 + 7;
const COM2_LAST: u16 = COM2 + 7;
const CONFIG_DATA_LAST: u16 = CONFIG_DATA + 3;
const PM1A_LAST: u16 = PM1A_EVENT + 5;

/// The chips of one machine.
#[derive(Debug)]
pub struct Board {
    pci: Pci,
    com1: Serial,
    com2: Serial,
    i8042: I8042,
    reset_ports: ResetPorts,
    /// Levels of the interrupt lines as last told, by GSI.
    lines: u32,
    /// Until when the ticker sleeps, as far as the board has told it.
    asleep_until: Option<GuestTime>,
}

impl Default for Board {
    fn default() -> Board {
        Board::new()
    }
}

impl Board {
    /// A board at power-on with host bridge, watchdog and pvpanic.
    pub fn new() -> Board {
        let mut pci = Pci::default();
        for function in
            [Function::host_bridge(), Function::Watchdog(I6300esb::new()), Function::Pvpanic(Pvpanic::new())]
        {
            pci.plug(function).expect("an empty bus has three free slots");
        }
        let mut board = Board {
            pci,
            com1: Serial::with_handshake(),
            com2: Serial::default(),
            i8042: I8042::default(),
            reset_ports: ResetPorts::default(),
            lines: 0,
            asleep_until: None,
        };
        board.place();
        board
    }

    /// Plugs a virtio device in and says which slot it got. Only before the guest runs.
    pub fn add_virtio(&mut self, device: Transport) -> Result<u8, BusFull> {
        let slot = self.pci.plug(Function::Virtio(device))?;
        self.place();
        Ok(slot)
    }

    /// The virtio device in `slot`, for its back end.
    pub fn virtio_mut(&mut self, slot: u8) -> Option<&mut Transport> {
        match self.pci.function_mut(slot) {
            Some(Function::Virtio(device)) => Some(device),
            _ => None,
        }
    }

    /// Leaves the PCI bus as Linux is quickest with ([`Pci::begin_bare`]); only before the guest runs.
    pub fn begin_bare(&mut self) {
        self.pci.begin_bare();
    }

    /// How many PCI slots are occupied: the first ones.
    pub fn slots(&self) -> u8 {
        self.pci.slots()
    }

    /// The watchdog, to look at.
    pub fn watchdog(&self) -> &I6300esb {
        match self.pci.function(WATCHDOG_SLOT) {
            Some(Function::Watchdog(chip)) => chip,
            _ => unreachable!("every board has its watchdog in this slot"),
        }
    }

    /// The guest reads `data.len()` bytes at `port`: one access of 1, 2 or 4 bytes; string I/O comes
    /// here element by element. Another length reads all ones.
    pub fn pio_read(&mut self, now: GuestTime, port: u16, data: &mut [u8]) -> Outcome {
        let mut out = self.due(now);
        data.fill(0xff);
        match (port, data.len()) {
            (CONFIG_ADDRESS, 4) | (CONFIG_DATA..=CONFIG_DATA_LAST, 1 | 2 | 4) => self.pci.io_read(port, data),
            (CONFIG_ADDRESS, _) => {}
            (_, 1 | 2 | 4) => {
                for (byte, port) in data.iter_mut().zip(port..=u16::MAX) {
                    *byte = self.read_port(port);
                }
            }
            _ => {}
        }
        self.tell_state(&mut out);
        out
    }

    /// The guest writes `data` at `port`: one access, as above. Another length goes nowhere.
    pub fn pio_write(&mut self, now: GuestTime, port: u16, data: &[u8]) -> Outcome {
        let mut out = self.due(now);
        let before = self.wake_at();
        match (port, data.len()) {
            (CONFIG_ADDRESS, 4) | (CONFIG_DATA..=CONFIG_DATA_LAST, 1 | 2 | 4) => {
                self.pci.io_write(now, port, data, &mut out);
            }
            (CONFIG_ADDRESS, _) => {}
            (_, 1 | 2 | 4) => {
                for (byte, port) in data.iter().zip(port..=u16::MAX) {
                    self.write_port(port, *byte, &mut out);
                }
            }
            _ => {}
        }
        self.tell_ticker(now, before, &mut out);
        self.tell_state(&mut out);
        out
    }

    /// The guest reads `data.len()` bytes at `address`, outside RAM.
    pub fn mmio_read(&mut self, now: GuestTime, address: u64, data: &mut [u8]) -> Outcome {
        let mut out = self.due(now);
        data.fill(0xff);
        if ECAM.contains(&address) {
            self.pci.ecam_read(address - ECAM.start, data);
        } else {
            self.pci.mmio_read(address, data);
        }
        self.tell_state(&mut out);
        out
    }

    /// The guest writes `data` at `address`, outside RAM.
    pub fn mmio_write(&mut self, now: GuestTime, address: u64, data: &[u8]) -> Outcome {
        let mut out = self.due(now);
        let before = self.wake_at();
        if ECAM.contains(&address) {
            self.pci.ecam_write(now, address - ECAM.start, data, &mut out);
        } else {
            self.pci.mmio_write(now, address, data, &mut out);
        }
        self.tell_ticker(now, before, &mut out);
        self.tell_state(&mut out);
        out
    }

    /// Lets everything fall due that is due by `now`: the ticker's call, after which it sleeps until
    /// [`Board::wake_at`].
    pub fn tick(&mut self, now: GuestTime) -> Outcome {
        let mut out = self.due(now);
        self.asleep_until = self.wake_at();
        self.tell_state(&mut out);
        out
    }

    /// When [`Board::tick`] next has something to do; none: not before somebody starts the watchdog.
    ///
    /// The ticker sleeps on through pets: at the old time it wakes, finds nothing due, and sleeps
    /// until the new one. Who sleeps on a timer that others can move (a timerfd) moves it on
    /// [`Signal::WakeSooner`] and [`Signal::WakeLater`], holding the board's lock so that two vCPUs
    /// cannot cross; a petting guest then wakes it at most once in a stage. Who waits on a channel
    /// needs [`Signal::WakeSooner`] only.
    pub fn wake_at(&self) -> Option<GuestTime> {
        self.pci.wake_at()
    }

    /// System reset: every chip as at power-on, BARs placed anew; the watchdog keeps its timeout flag.
    pub fn reset(&mut self) -> Outcome {
        self.pci.reset();
        self.com1.reset();
        self.com2.reset();
        self.i8042 = I8042::default();
        self.reset_ports = ResetPorts::default();
        self.place();
        self.state()
    }

    /// Offers bytes to the guest by a serial port; says how many it took. The rest is to be offered
    /// again after [`Signal::InputRoom`].
    pub fn com_input(&mut self, com: Com, bytes: &[u8]) -> (usize, Outcome) {
        let taken = match com {
            Com::Com1 => self.com1.input(bytes),
            Com::Com2 => self.com2.input(bytes),
        };
        (taken, self.state())
    }

    /// Tells of interrupt lines that a back end has moved since the last call.
    pub fn state(&mut self) -> Outcome {
        let mut out = Outcome::default();
        self.tell_state(&mut out);
        out
    }

    /// One byte-wide port. Chips with such registers see a wider access as several side by side, as
    /// on the ISA bus.
    fn read_port(&mut self, port: u16) -> u8 {
        match port {
            COM1..=COM1_LAST => self.com1.read(port - COM1),
            COM2..=COM2_LAST => self.com2.read(port - COM2),
            i8042::DATA | i8042::COMMAND => self.i8042.read(port),
            PORT_92 | PORT_CF9 | PM1A_EVENT..=PM1A_LAST | RESET_REGISTER..=SLEEP_STATUS => self.reset_ports.read(port),
            _ => 0xff,
        }
    }

    fn write_port(&mut self, port: u16, value: u8, out: &mut Outcome) {
        let send = |com, byte: Option<u8>| byte.map(|byte| Signal::Output { com, byte });
        let said = match port {
            COM1..=COM1_LAST => send(Com::Com1, self.com1.write(port - COM1, value)),
            COM2..=COM2_LAST => send(Com::Com2, self.com2.write(port - COM2, value)),
            i8042::DATA | i8042::COMMAND => self.i8042.write(port, value).then_some(Signal::Reset(ResetKind::I8042)),
            PORT_92 | PORT_CF9 | PM1A_EVENT..=PM1A_LAST | RESET_REGISTER..=SLEEP_STATUS => {
                self.reset_ports.write(port, value).map(|wish| match wish {
                    Wish::Reset(kind) => Signal::Reset(kind),
                    Wish::PowerOff => Signal::PowerOff,
                })
            }
            _ => None,
        };
        if let Some(signal) = said {
            out.push(signal);
        }
    }

    fn due(&mut self, now: GuestTime) -> Outcome {
        let mut out = Outcome::default();
        self.pci.tick(now, &mut out);
        out
    }

    fn place(&mut self) {
        self.pci.place(PCI_WINDOW.start, PCI_WINDOW.end, intx_line);
    }

    /// Tells the ticker of a deadline that an access has moved: always when it is sooner; when it is
    /// later, only in the second half of the ticker's sleep. So a guest that pets at least once a
    /// stage wakes it at most once a stage.
    fn tell_ticker(&mut self, now: GuestTime, before: Option<GuestTime>, out: &mut Outcome) {
        let Some(wake_at) = self.wake_at().filter(|wake_at| before != Some(*wake_at)) else { return };
        match self.asleep_until {
            Some(until) if until <= wake_at && until.since(now) > wake_at.since(now) / 2 => return,
            Some(until) if until <= wake_at => out.push(Signal::WakeLater),
            _ => out.push(Signal::WakeSooner),
        }
        self.asleep_until = Some(wake_at);
    }

    /// Tells of changed interrupt lines, and of room for input.
    fn tell_state(&mut self, out: &mut Outcome) {
        let levels = self.levels();
        let mut changed = levels ^ self.lines;
        self.lines = levels;
        while changed != 0 {
            let line = changed.trailing_zeros();
            out.push(Signal::IrqLine { line, level: levels >> line & 1 != 0 });
            changed &= changed - 1;
        }
        for (com, chip) in [(Com::Com1, &mut self.com1), (Com::Com2, &mut self.com2)] {
            if chip.has_room_again() {
                out.push(Signal::InputRoom { com });
            }
        }
    }

    fn levels(&self) -> u32 {
        let (keyboard, aux) = self.i8042.interrupts();
        let isa = [
            (COM1_IRQ, self.com1.interrupt()),
            (COM2_IRQ, self.com2.interrupt()),
            (i8042::KEYBOARD_IRQ, keyboard),
            (i8042::AUX_IRQ, aux),
        ];
        let isa = isa.iter().fold(0, |levels, (line, level)| levels | u32::from(*level) << line);
        self.pci.interrupts().fold(isa, |levels, slot| levels | 1 << intx_line(slot))
    }
}
