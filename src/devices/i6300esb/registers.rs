//! The watchdog's register file (Intel 300641-004US, chapter 16; QEMU's departures mended or kept).
//!
//! ```text
//!   config 0x60   bit 5 output off, bit 2 fast prescaler, bits 1:0 stage-1 interrupt (0 IRQ, 2 SMI)
//!   config 0x68   bit 2 free-run, bit 1 enable, bit 0 lock: no more writes until a reset
//!   memory 0x00   preload 1 *      0x04  preload 2 *      32 bits wide only
//!   memory 0x08   interrupt status: bit 0 stage 1 ran out, write 1 to clear
//!   memory 0x0c   reload *: bit 8 pet, bit 9 timeout flag, write 1 (there or in bit 12) to clear
//!
//!   * one write after this:     0x80 at 0x0c           0x86 at 0x0c
//!                      Locked ───────────────▶ Half ───────────────▶ Open
//!                        ▲     (from any state)  └─ other writes: stay │
//!                        └────────────── any other write ──────────────┘
//! ```

use super::countdown::{Countdown, PRELOAD_MASK, Prescaler, Stage};
use super::{Evidence, FREE_RUN_FLOOR, Verdict};
use crate::devices::GuestTime;
use crate::time::nanos;

/// Bytes of registers in BAR 0.
pub(super) const BAR_BYTES: usize = 16;
/// Widest access; wider and unaligned ones come as several.
const WIDEST: usize = 4;

const INTERRUPT_STATUS: usize = 0x08;
const RELOAD: usize = 0x0c;
const UNLOCK_FIRST: u32 = 0x80;
const UNLOCK_SECOND: u32 = 0x86;
const RELOAD_PET: u32 = 1 << 8;
/// Bit 9, and bit 12 for old drivers, which show and clear the flag there.
const RELOAD_CLEAR_FLAG: u32 = 1 << 9 | 1 << 12;

const CONFIG_MASK: u8 = CONFIG_OUTPUT_OFF | CONFIG_FAST | CONFIG_INTERRUPT;
const CONFIG_OUTPUT_OFF: u8 = 1 << 5;
const CONFIG_FAST: u8 = 1 << 2;
const CONFIG_INTERRUPT: u8 = 0b11;
const INTERRUPT_IRQ: u8 = 0b00;
const INTERRUPT_SMI: u8 = 0b10;

const LOCK_MASK: u8 = LOCK_FREE_RUN | LOCK_ENABLE | LOCK_LOCKED;
const LOCK_FREE_RUN: u8 = 1 << 2;
const LOCK_ENABLE: u8 = 1 << 1;
const LOCK_LOCKED: u8 = 1 << 0;

/// How far the guest has come in unlocking the next protected write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unlock {
    Locked,
    Half,
    Open,
}

/// Everything the chip knows but its PCI header.
#[derive(Debug, Clone)]
pub(super) struct Registers {
    config: u8,
    lock: u8,
    preloads: [u32; 2],
    stage_one_over: bool,
    timeout_flag: bool,
    unlock: Unlock,
    countdown: Countdown,
    /// When a pretimeout was last found, for the floor in free-run.
    reported_at: Option<GuestTime>,
    pets: u64,
    petted_at: GuestTime,
}

impl Registers {
    /// At power-on, with the timeout flag as given: it alone outlives resets.
    pub fn new(timeout_flag: bool) -> Registers {
        Registers {
            config: 0,
            lock: 0,
            preloads: [PRELOAD_MASK; 2],
            stage_one_over: false,
            timeout_flag,
            unlock: Unlock::Locked,
            countdown: Countdown::default(),
            reported_at: None,
            pets: 0,
            petted_at: GuestTime::ZERO,
        }
    }

    /// Reads the registers from `offset` on; what lies past them is left as it was.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        let mut image = [0; BAR_BYTES];
        image[0..4].copy_from_slice(&self.preloads[0].to_le_bytes());
        image[4..8].copy_from_slice(&self.preloads[1].to_le_bytes());
        image[INTERRUPT_STATUS] = u8::from(self.stage_one_over);
        image[RELOAD + 1] = u8::from(self.timeout_flag) << 1;
        for (byte, at) in data.iter_mut().zip(offset..BAR_BYTES) {
            *byte = image[at];
        }
    }

    /// Writes from `offset` on, in naturally aligned pieces of at most 4 bytes; true when one of them
    /// petted the running watchdog.
    pub fn write(&mut self, now: GuestTime, mut offset: usize, mut data: &[u8]) -> bool {
        let mut petted = false;
        while !data.is_empty() && offset < BAR_BYTES {
            let (piece, rest) = data.split_at(piece_bytes(offset, data.len()));
            petted |= self.write_piece(now, offset, piece);
            offset += piece.len();
            data = rest;
        }
        petted
    }

    /// The config register.
    pub fn config(&self) -> u8 {
        self.config
    }

    /// Writes the config register: at once but for the prescaler, and under a lock too.
    pub fn write_config(&mut self, value: u8) {
        self.config = value & CONFIG_MASK;
    }

    /// The lock register.
    pub fn lock(&self) -> u8 {
        self.lock
    }

    /// Writes the lock register: starts and stops the countdown, unless locked.
    pub fn write_lock(&mut self, now: GuestTime, value: u8) {
        if self.has(LOCK_LOCKED) {
            return;
        }
        let was_enabled = self.has(LOCK_ENABLE);
        self.lock = value & LOCK_MASK;
        if !self.has(LOCK_ENABLE) {
            self.countdown.stop();
        } else if !was_enabled {
            self.restart(now);
        }
    }

    /// Lets every stage run out that is over by `now`, each at its own time.
    ///
    /// In free-run with the output off stages follow each other for ever, without any use but the
    /// stage-1 interrupt. Whole rounds that lie behind `now` are passed over there, so that the work
    /// is bounded whatever the preloads; calls at each [`Registers::verdict_at`] miss none.
    pub fn tick(&mut self, now: GuestTime) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        while let Some((stage, over_at)) = self.countdown.over_by(now) {
            match stage {
                Stage::One => verdicts.extend(self.stage_one_is_over(over_at, now)),
                Stage::Two => verdicts.extend(self.stage_two_is_over(over_at, now)),
            }
        }
        verdicts
    }

    /// When the next verdict falls due as the registers stand. A stage that ends without a verdict
    /// needs nobody to watch it: the next access or tick lets it end.
    pub fn verdict_at(&self) -> Option<GuestTime> {
        let (stage, over_at) = self.countdown.running()?;
        match stage {
            Stage::One if self.interrupts() || self.output_on() => Some(over_at),
            Stage::Two if self.output_on() => Some(over_at),
            Stage::Two if self.has(LOCK_FREE_RUN) && self.interrupts() => over_at.checked_add(self.length(Stage::One)),
            Stage::One | Stage::Two => None,
        }
    }

    /// When somebody has to tick: for the next verdict, but in free-run with the output off not
    /// sooner than the floor allows.
    pub fn wake_at(&self) -> Option<GuestTime> {
        let verdict_at = self.verdict_at()?;
        if self.output_on() || !self.has(LOCK_FREE_RUN) {
            return Some(verdict_at);
        }
        let floor = self.reported_at.map_or(GuestTime::ZERO, |reported_at| reported_at + FREE_RUN_FLOOR);
        Some(verdict_at.max(floor))
    }

    /// The registers as evidence.
    pub fn evidence(&self) -> Evidence {
        Evidence {
            config: u16::from(self.config),
            lock: self.lock,
            preloads: self.preloads,
            interrupt_status: u8::from(self.stage_one_over),
            timeout_flag: self.timeout_flag,
            pets: self.pets,
            petted_at: self.petted_at,
        }
    }

    /// System reset, and what firing does: all but the timeout flag goes.
    pub fn reset(&mut self) {
        *self = Registers::new(self.timeout_flag);
    }

    fn write_piece(&mut self, now: GuestTime, offset: usize, piece: &[u8]) -> bool {
        let value = little_endian(piece);
        if offset == INTERRUPT_STATUS && value & 1 != 0 {
            self.stage_one_over = false;
        }
        match self.unlock {
            _ if offset == RELOAD && value == UNLOCK_FIRST => self.unlock = Unlock::Half,
            Unlock::Half if offset == RELOAD && value == UNLOCK_SECOND => self.unlock = Unlock::Open,
            Unlock::Locked | Unlock::Half => {}
            Unlock::Open => {
                self.unlock = Unlock::Locked;
                return self.write_protected(now, offset, piece.len(), value);
            }
        }
        false
    }

    /// The write that the unlocking was for. A narrow write of a preload is dropped.
    fn write_protected(&mut self, now: GuestTime, offset: usize, width: usize, value: u32) -> bool {
        match (offset, width) {
            (0x00, 4) => self.preloads[0] = value & PRELOAD_MASK,
            (0x04, 4) => self.preloads[1] = value & PRELOAD_MASK,
            (0x0c, 2 | 4) => return self.reload(now, value),
            (0x0d, 1) => return self.reload(now, value << 8),
            _ => {}
        }
        false
    }

    fn reload(&mut self, now: GuestTime, value: u32) -> bool {
        if value & RELOAD_CLEAR_FLAG != 0 {
            self.timeout_flag = false;
        }
        let petted = value & RELOAD_PET != 0 && self.has(LOCK_ENABLE);
        if petted {
            self.pets = self.pets.saturating_add(1);
            self.restart(now);
        }
        petted
    }

    fn restart(&mut self, now: GuestTime) {
        self.petted_at = now;
        self.countdown.start(Stage::One, now, self.length(Stage::One));
    }

    fn stage_one_is_over(&mut self, over_at: GuestTime, now: GuestTime) -> Option<Verdict> {
        self.stage_one_over = true;
        self.countdown.start(Stage::Two, over_at, self.length(Stage::Two));
        if !self.interrupts() && !self.output_on() {
            return None;
        }
        self.reported_at = Some(now);
        Some(Verdict::Pretimeout { due_at: over_at, evidence: self.evidence() })
    }

    fn stage_two_is_over(&mut self, over_at: GuestTime, now: GuestTime) -> Option<Verdict> {
        if self.output_on() {
            self.timeout_flag = true;
            let evidence = self.evidence();
            self.reset();
            return Some(Verdict::Expired { due_at: over_at, evidence });
        }
        if self.has(LOCK_FREE_RUN) {
            // Of the whole rounds that lie behind, only the last is gone through.
            let round_ns = nanos(self.length(Stage::One) + self.length(Stage::Two));
            let passed_over = (nanos(now.since(over_at)) / round_ns).saturating_sub(1);
            let from = GuestTime::from_ns(over_at.ns() + passed_over * round_ns);
            self.countdown.start(Stage::One, from, self.length(Stage::One));
        } else {
            self.countdown.stop();
        }
        None
    }

    fn length(&self, stage: Stage) -> std::time::Duration {
        let prescaler = if self.config & CONFIG_FAST != 0 { Prescaler::Fast } else { Prescaler::Slow };
        prescaler.length(self.preloads[stage as usize])
    }

    fn has(&self, lock_bit: u8) -> bool {
        self.lock & lock_bit != 0
    }

    fn output_on(&self) -> bool {
        self.config & CONFIG_OUTPUT_OFF == 0
    }

    fn interrupts(&self) -> bool {
        interrupts(u16::from(self.config))
    }
}

/// True when this content of the config register makes stage 1's end an interrupt.
pub(super) fn interrupts(config: u16) -> bool {
    matches!(config as u8 & CONFIG_INTERRUPT, INTERRUPT_IRQ | INTERRUPT_SMI)
}

/// The longest aligned piece at `offset` of at most `left` (not 0) bytes.
fn piece_bytes(offset: usize, left: usize) -> usize {
    let aligned = if offset == 0 { WIDEST } else { 1 << offset.trailing_zeros().min(2) };
    let mut piece = aligned;
    while piece > left {
        piece /= 2;
    }
    piece
}

fn little_endian(piece: &[u8]) -> u32 {
    piece.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
}
