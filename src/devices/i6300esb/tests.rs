//! The chip as a driver sees it: boundaries, lock, unlocking, pause, and millions of random accesses.

use std::time::Duration;

use proptest::prelude::*;

use super::{FREE_RUN_FLOOR, I6300esb, Verdict};
use crate::devices::GuestTime;

const SLOW_NS: u64 = 983_040;
const FAST_NS: u64 = 960;
const ENABLE: u8 = 2;
const FREE_RUN: u8 = 4;
const OUTPUT_OFF: u8 = 0x20;
const NO_INTERRUPT: u8 = 3;

fn at(ns: u64) -> GuestTime {
    GuestTime::from_ns(ns)
}

/// A chip and the few things drivers do to it.
struct Driver {
    chip: I6300esb,
    now: GuestTime,
}

impl Driver {
    fn new() -> Driver {
        Driver { chip: I6300esb::new(), now: GuestTime::ZERO }
    }

    fn started(config: u8, preloads: [u32; 2], lock: u8) -> Driver {
        let mut driver = Driver::new();
        driver.config(config);
        driver.preload(0, preloads[0]);
        driver.preload(4, preloads[1]);
        driver.lock(lock);
        driver
    }

    fn unlock(&mut self) {
        for value in [0x80u16, 0x86] {
            self.chip.write(self.now, 0x0c, &value.to_le_bytes());
        }
    }

    fn preload(&mut self, offset: u64, value: u32) {
        self.unlock();
        self.chip.write(self.now, offset, &value.to_le_bytes());
    }

    fn pet(&mut self) -> bool {
        self.unlock();
        self.chip.write(self.now, 0x0c, &0x100u16.to_le_bytes())
    }

    fn config(&mut self, value: u8) {
        self.chip.config_write(self.now, 0x60, &[value]);
    }

    fn lock(&mut self, value: u8) {
        self.chip.config_write(self.now, 0x68, &[value]);
    }

    /// Time goes on to `ns`; what was said on the way, in short.
    fn till(&mut self, ns: u64) -> Vec<(&'static str, u64)> {
        self.now = at(ns);
        self.chip
            .tick(self.now)
            .into_iter()
            .map(|verdict| match verdict {
                Verdict::Pretimeout { due_at, .. } => ("pretimeout", due_at.ns()),
                Verdict::Expired { due_at, .. } => ("expired", due_at.ns()),
            })
            .collect()
    }

    fn dword(&self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.chip.read(offset, &mut data);
        u32::from_le_bytes(data)
    }
}

#[test]
fn a_stage_lasts_preload_times_count_and_one_count_at_least() {
    for (config, count) in [(0, SLOW_NS), (4, FAST_NS)] {
        for (preload, counts) in [(0, 1), (1, 1), (2, 2), (0xf_ffff, 0xf_ffff), (0xfff0_0003, 3)] {
            let mut driver = Driver::started(config, [preload; 2], ENABLE);
            let stage = counts * count;
            assert_eq!(driver.till(stage - 1), []);
            assert_eq!(driver.till(stage), [("pretimeout", stage)]);
            assert_eq!(driver.till(2 * stage - 1), []);
            assert_eq!(driver.till(2 * stage), [("expired", 2 * stage)]);
            assert_eq!(driver.chip.wake_at(), None);
        }
    }
}

#[test]
fn both_stages_that_end_in_one_tick_keep_their_own_times() {
    let mut driver = Driver::started(0, [3, 5], ENABLE);
    assert_eq!(driver.till(1_000 * SLOW_NS), [("pretimeout", 3 * SLOW_NS), ("expired", 8 * SLOW_NS)]);
}

#[test]
fn preload_and_prescaler_count_from_the_next_load_on() {
    let mut driver = Driver::started(0, [4, 4], ENABLE);
    driver.config(4);
    driver.preload(0, 1000);
    assert_eq!(driver.till(4 * SLOW_NS), [("pretimeout", 4 * SLOW_NS)], "stage 1 runs on as it began");
    assert_eq!(driver.till(4 * SLOW_NS + 4 * FAST_NS), [("expired", 4 * SLOW_NS + 4 * FAST_NS)]);
}

#[test]
fn a_paused_machine_never_fires() {
    let mut driver = Driver::started(0, [4, 4], ENABLE);
    assert_eq!(driver.till(8 * SLOW_NS - 1).len(), 1);
    for _ in 0..1000 {
        assert_eq!(driver.till(8 * SLOW_NS - 1), []);
    }
    assert_eq!(driver.till(8 * SLOW_NS), [("expired", 8 * SLOW_NS)]);
}

#[test]
fn pets_move_the_wake_later_and_are_told() {
    let mut driver = Driver::started(NO_INTERRUPT, [10, 10], ENABLE);
    for pets in 1..100 {
        let before = driver.chip.wake_at();
        assert_eq!(driver.till(pets * 9 * SLOW_NS), []);
        assert!(driver.pet());
        assert!(driver.chip.wake_at() > before);
        assert_eq!(driver.chip.evidence().pets, pets);
    }
    driver.lock(0);
    assert!(!driver.pet(), "a stopped watchdog is not petted");
    assert_eq!(driver.chip.wake_at(), None);
}

#[test]
fn firing_leaves_defaults_and_the_flag_which_only_an_unlocked_write_clears() {
    let mut driver = Driver::started(4, [1, 1], ENABLE | 1);
    driver.lock(0);
    assert_eq!(driver.till(2 * FAST_NS).len(), 2, "a locked watchdog is not stopped");
    assert_eq!([driver.dword(0), driver.dword(4), driver.dword(8), driver.dword(12)], [0xf_ffff, 0xf_ffff, 0, 0x200]);
    driver.chip.reset();
    assert_eq!(driver.dword(12), 0x200, "the flag outlives a system reset");
    driver.chip.write(driver.now, 0x0c, &0x200u16.to_le_bytes());
    assert_eq!(driver.dword(12), 0x200);
    driver.unlock();
    driver.chip.write(driver.now, 0x0d, &[2]);
    assert_eq!(driver.dword(12), 0);
}

#[test]
fn output_off_stops_silently_and_a_pet_starts_again() {
    let mut driver = Driver::started(OUTPUT_OFF | NO_INTERRUPT, [3, 4], ENABLE);
    assert_eq!(driver.chip.wake_at(), None, "nothing will be said");
    assert_eq!(driver.till(1_000 * SLOW_NS), []);
    assert_eq!(driver.dword(8), 1);
    assert_eq!(driver.dword(12), 0);
    assert!(driver.pet());
    driver.config(NO_INTERRUPT);
    let (first, second) = (1_003 * SLOW_NS, 1_007 * SLOW_NS);
    assert_eq!(driver.chip.wake_at(), Some(at(first)), "with the output on stage 1's end is evidence");
    assert!(!driver.chip.evidence().interrupts());
    assert_eq!(driver.till(second), [("pretimeout", first), ("expired", second)]);
}

#[test]
fn free_run_with_the_output_off_costs_nothing_however_short_and_however_late() {
    let mut silent = Driver::started(OUTPUT_OFF | NO_INTERRUPT | 4, [0, 0], ENABLE | FREE_RUN);
    assert_eq!(silent.chip.wake_at(), None);
    assert_eq!(silent.till(u64::MAX), []);

    let mut telling = Driver::started(OUTPUT_OFF | 4, [0, 0], ENABLE | FREE_RUN);
    let mut woken = 0;
    while let Some(wake_at) = telling.chip.wake_at().filter(|wake_at| *wake_at <= at(10_000_000_000)) {
        assert!((1..=3).contains(&telling.till(wake_at.ns()).len()));
        woken += 1;
    }
    assert!(woken <= 10_000_000_000 / FREE_RUN_FLOOR.as_nanos() + 1, "{woken} wake-ups in 10 s");
    // Rounds passed over do not shift those that follow.
    assert_eq!((telling.chip.verdict_at().expect("it runs on").ns() + FAST_NS) % (2 * FAST_NS), 0);
}

#[test]
fn free_run_looked_at_exactly_misses_no_round() {
    let mut driver = Driver::started(OUTPUT_OFF, [3, 4], ENABLE | FREE_RUN);
    for round in 0..50 {
        let due = (round * 7 + 3) * SLOW_NS;
        assert_eq!(driver.chip.verdict_at(), Some(at(due)));
        assert_eq!(driver.till(due), [("pretimeout", due)]);
    }
}

#[test]
fn a_stage_that_would_end_after_time_itself_never_ends() {
    let mut driver = Driver::new();
    driver.now = at(u64::MAX - 5);
    driver.lock(ENABLE | FREE_RUN);
    assert_eq!(driver.till(u64::MAX), []);
    assert_eq!(driver.chip.wake_at(), None);
}

/// A write of the memory registers, aligned.
fn writes() -> impl Strategy<Value = (usize, usize, u32)> {
    let values =
        prop_oneof![4 => Just(0x80u32), 4 => Just(0x86), 1 => Just(0x180), 1 => Just(0x1_0080), 2 => any::<u32>()];
    (0usize..4, 0usize..16, values).prop_map(|(width, offset, value)| {
        let width = [1, 2, 2, 4][width];
        let offset = if offset < 10 { 0x0c } else { offset - 10 };
        (offset / width * width, width, value & (u32::MAX >> (32 - 8 * width)))
    })
}

proptest! {
    /// Which writes act, said without an automaton: those that come straight after `A x* B`, where A
    /// is 0x80 and B 0x86 at 0x0c and x neither, and are no A themselves.
    #[test]
    fn unlocking_agrees_with_its_definition(writes in prop::collection::vec(writes(), 0..60)) {
        let mut driver = Driver::new();
        let mut letters = String::new();
        let mut preload = 0xf_ffff;
        for (offset, width, value) in writes {
            let letter = match (offset, value) { (0x0c, 0x80) => 'A', (0x0c, 0x86) => 'B', _ => 'x' };
            let open = letters.strip_suffix('B').is_some_and(|rest| rest.trim_end_matches('x').ends_with('A'));
            if open && letter != 'A' && (offset, width) == (0, 4) {
                preload = value & 0xf_ffff;
            }
            letters.push(letter);
            driver.chip.write(driver.now, offset as u64, &value.to_le_bytes()[..width]);
            prop_assert_eq!(driver.dword(0), preload, "after {}", letters);
        }
    }

    /// An unaligned or wide write is the aligned pieces it is cut into.
    #[test]
    fn a_wide_write_is_its_pieces(offset in 0usize..16, data in prop::collection::vec(any::<u8>(), 1..9)) {
        let (mut whole, mut pieces) = (Driver::new(), Driver::new());
        whole.unlock();
        pieces.unlock();
        whole.chip.write(at(0), offset as u64, &data);
        let (mut from, mut rest) = (offset, &data[..]);
        while !rest.is_empty() {
            let width = [4, 2, 1].into_iter().find(|w| from % w == 0 && *w <= rest.len()).expect("1 always fits");
            pieces.chip.write(at(0), from as u64, &rest[..width]);
            (from, rest) = (from + width, &rest[width..]);
        }
        prop_assert_eq!(whole.chip.evidence(), pieces.chip.evidence());
    }

    /// What a read shows does not depend on how wide it is, and reads change nothing.
    #[test]
    fn reads_of_any_width_agree(preload in any::<u32>(), offset in 0u64..20, len in 0usize..12) {
        let driver = Driver::started(0, [preload, !preload], 0);
        let mut image = [0xee; 32];
        driver.chip.read(0, &mut image[..16]);
        let mut data = vec![0xee; len];
        driver.chip.read(offset, &mut data);
        prop_assert_eq!(&data[..], &image[offset as usize..offset as usize + len]);
    }

    /// Whatever a guest programs: verdicts come in order, none late, none before its time, and
    /// whoever ticks only at `wake_at` hears of every expiry at its very time.
    #[test]
    fn waking_at_wake_at_misses_no_expiry(config in any::<u8>(), lock in any::<u8>(), preloads in any::<[u8; 2]>(), pets in prop::collection::vec(1u64..300, 0..20)) {
        let preloads = preloads.map(u32::from);
        let mut sleeper = Driver::started(config, preloads, lock);
        let mut watcher = Driver::started(config, preloads, lock);
        let mut now = 0;
        for pet_after in pets {
            let until = now + pet_after * SLOW_NS;
            let mut heard = Vec::new();
            while let Some(wake_at) = sleeper.chip.wake_at().filter(|wake_at| wake_at.ns() <= until) {
                heard.extend(sleeper.till(wake_at.ns()));
            }
            let mut seen = Vec::new();
            while let Some(verdict_at) = watcher.chip.verdict_at().filter(|at| at.ns() <= until) {
                let said = watcher.till(verdict_at.ns());
                prop_assert_eq!(said.last().map(|(_, due_at)| *due_at), Some(verdict_at.ns()));
                seen.extend(said);
            }
            let expiries = |said: &[(&str, u64)]| said.iter().filter(|(what, _)| *what == "expired").map(|(_, due)| *due).collect::<Vec<_>>();
            prop_assert_eq!(expiries(&heard), expiries(&seen));
            prop_assert!(seen.is_sorted_by_key(|(_, due)| *due));
            now = until;
            for driver in [&mut sleeper, &mut watcher] {
                driver.till(now);
                driver.pet();
            }
        }
    }
}

/// SplitMix64: random enough, and the same on every run.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[test]
fn millions_of_random_accesses_neither_panic_nor_spin() {
    // Under miri each takes a thousand times as long.
    const ACCESSES: u64 = if cfg!(miri) { 2_000 } else { 10_000_000 };
    let mut chip = I6300esb::new();
    let (mut state, mut now, mut verdicts) = (1, GuestTime::ZERO, 0u64);
    for _ in 0..ACCESSES {
        let dice = random(&mut state);
        let data = [0x80, 0x86, 0, 1].get((dice >> 8 & 7) as usize).copied().unwrap_or(dice >> 16).to_le_bytes();
        let len = (dice >> 3 & 0xf) as usize % 9;
        match dice & 7 {
            0 => now = now + Duration::from_nanos(dice >> (16 + (dice >> 32 & 31))),
            1 => chip.config_write(now, [0x60, 0x68, 0x67, 0x04][(dice >> 4 & 3) as usize], &data[..len]),
            2 => chip.config_read((dice >> 5 & 0x1ff) as usize, &mut { data }[..len]),
            3 => chip.read(dice >> 60, &mut { data }[..len]),
            4 => {
                chip.write(now, 0x0c, &[0x80]);
                chip.write(now, 0x0c, &[0x86, 0]);
            }
            _ => _ = chip.write(now, dice >> 57, &data[..len]),
        }
        let said = chip.tick(now);
        assert!(said.len() <= 3, "one tick says little: {said:?}");
        verdicts += said.len() as u64;
        assert!(chip.wake_at().is_none_or(|wake_at| wake_at > now), "nothing due is left behind");
        if dice >> 40 & 0xff == 0 {
            chip.reset();
            now = GuestTime::ZERO;
        }
    }
    assert!(verdicts > ACCESSES / 1000, "the accesses reach what matters: {verdicts} verdicts");
}
