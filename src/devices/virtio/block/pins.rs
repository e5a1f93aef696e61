//! Which parts of guest RAM the kernel keeps pinned for a disk: those that most of its long transfers use.
//!
//! For a direct transfer the kernel looks up, pins and lets go each page: for 1 MiB an eighth of its whole time. Memory
//! that an io_uring has registered is pinned once (`io_uring_register`(2), `IORING_REGISTER_BUFFERS2`).
//!
//! ```text
//!   guest RAM    0         2         4         6 MiB
//!   a window     ├───────────────────┤
//!   the next               ├───────────────────┤         a transfer of up to 2 MiB lies in the window it begins in
//! ```
//!
//! What is pinned the host can neither swap out nor move, and it is resident whether the guest has touched it or not: so it
//! is little, and only what long transfers come back to. A page cache that streams does not.
//!
//! Pure: says what is to be registered, and where a transfer then goes.

use std::ops::Range;

/// From one window to the next.
const STRIDE_BYTES: usize = 2 << 20;
const WINDOW_BYTES: usize = 2 * STRIDE_BYTES;
/// Most windows pinned for one disk: 32 MiB.
pub const MOST_PINNED: usize = 8;
/// A shorter transfer gains too little.
const LEAST_BYTES: usize = 64 << 10;
/// A window is pinned when so much has been transferred from or to it.
const OFTEN_BYTES: usize = 16 << 20;
/// Windows of which that is counted.
const MOST_COUNTED: usize = 64;
/// A pinned window that none of so many long transfers has used gives its place to another.
const IDLE: u64 = 1024;

/// Where a transfer goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Its pages are not pinned.
    Unpinned,
    /// They are, as registered buffer number so.
    Pinned(u16),
    /// They are when this memory has been registered as buffer number so; else see [`Pins::refused`].
    Register(u16, Range<usize>),
}

#[derive(Debug)]
struct Pinned {
    window: Range<usize>,
    used_at: u64,
}

/// The windows of one ring.
#[derive(Debug)]
pub struct Pins {
    /// Guest RAM, in this process's addresses.
    ram: Vec<Range<usize>>,
    /// By number of the registered buffer.
    pinned: Vec<Pinned>,
    /// How much has been transferred where.
    counted: Vec<(Range<usize>, usize)>,
    /// Long transfers so far.
    transfers: u64,
    refused: bool,
}

impl Pins {
    /// Nothing of `ram` is pinned.
    pub fn new(ram: Vec<Range<usize>>) -> Pins {
        Pins { ram, pinned: Vec::new(), counted: Vec::new(), transfers: 0, refused: false }
    }

    /// Where the transfer of `bytes` at address `start` goes. Without `may_register` nothing is to be registered now.
    pub fn place(&mut self, start: usize, bytes: usize, may_register: bool) -> Place {
        if !(LEAST_BYTES..=STRIDE_BYTES).contains(&bytes) {
            return Place::Unpinned;
        }
        let transfer = start..start.saturating_add(bytes);
        self.transfers += 1;
        if let Some(number) = self.pinned.iter().position(|pinned| holds(&pinned.window, &transfer)) {
            self.pinned[number].used_at = self.transfers;
            return Place::Pinned(number as u16);
        }
        if self.refused {
            return Place::Unpinned;
        }
        let Some(window) = self.window(&transfer) else { return Place::Unpinned };
        if !self.count(&window, bytes) || !may_register {
            return Place::Unpinned;
        }
        let Some(number) = self.free() else { return Place::Unpinned };
        self.counted.retain(|(counted, _)| *counted != window);
        let pinned = Pinned { window: window.clone(), used_at: self.transfers };
        match self.pinned.get_mut(number) {
            Some(before) => *before = pinned,
            None => self.pinned.push(pinned),
        }
        Place::Register(number as u16, window)
    }

    /// Buffer `number` could not be registered, and is empty now: nothing more is tried.
    pub fn refused(&mut self, number: u16) {
        self.refused = true;
        self.pinned[usize::from(number)].window = 0..0;
    }

    /// How many windows are pinned.
    #[cfg(test)]
    pub fn count_pinned(&self) -> usize {
        self.pinned.iter().filter(|pinned| !pinned.window.is_empty()).count()
    }

    /// The window in which `transfer` begins, if it lies in it; none outside RAM.
    fn window(&self, transfer: &Range<usize>) -> Option<Range<usize>> {
        let ram = self.ram.iter().find(|ram| holds(ram, transfer))?;
        let start = ram.start + (transfer.start - ram.start) / STRIDE_BYTES * STRIDE_BYTES;
        Some(start..ram.end.min(start + WINDOW_BYTES))
    }

    /// Counts; true when that makes it often. Where there are too many to count, what has the least is forgotten.
    fn count(&mut self, window: &Range<usize>, bytes: usize) -> bool {
        if let Some((_, so_far)) = self.counted.iter_mut().find(|(counted, _)| counted == window) {
            *so_far += bytes;
            return *so_far >= OFTEN_BYTES;
        }
        if self.counted.len() == MOST_COUNTED
            && let Some(least) = (0..MOST_COUNTED).min_by_key(|&n| self.counted[n].1)
        {
            self.counted.swap_remove(least);
        }
        self.counted.push((window.clone(), bytes));
        false
    }

    /// A number for another window.
    fn free(&self) -> Option<usize> {
        if self.pinned.len() < MOST_PINNED {
            return Some(self.pinned.len());
        }
        let oldest = (0..MOST_PINNED).min_by_key(|&n| self.pinned[n].used_at)?;
        (self.transfers - self.pinned[oldest].used_at > IDLE).then_some(oldest)
    }
}

fn holds(outer: &Range<usize>, inner: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: usize = 1 << 20;

    fn pins() -> Pins {
        Pins::new(vec![10 * MIB..74 * MIB, 100 * MIB..101 * MIB])
    }

    /// Transfers of 1 MiB at `start`, until something is registered.
    fn until_registered(pins: &mut Pins, start: usize, most: usize) -> Option<(u16, Range<usize>)> {
        (0..most).find_map(|_| match pins.place(start, MIB, true) {
            Place::Register(number, window) => Some((number, window)),
            _ => None,
        })
    }

    #[test]
    fn what_long_transfers_come_back_to_is_pinned() {
        let mut pins = pins();
        let window = 12 * MIB..16 * MIB;
        assert_eq!(until_registered(&mut pins, 13 * MIB, 15), None);
        assert_eq!(pins.place(13 * MIB, MIB, false), Place::Unpinned, "not now");
        assert_eq!(pins.place(13 * MIB, MIB, true), Place::Register(0, window));
        assert_eq!(pins.place(13 * MIB + 5, 2 * MIB, true), Place::Pinned(0));
        assert_eq!(pins.place(15 * MIB, MIB, true), Place::Pinned(0));
        assert_eq!(pins.place(15 * MIB + 1, MIB, true), Place::Unpinned, "it goes past the window");
        assert_eq!(pins.place(13 * MIB, 4096, true), Place::Unpinned, "short");
        assert_eq!(pins.place(13 * MIB, 2 * MIB + 1, true), Place::Unpinned, "longer than a window is sure to hold");
    }

    #[test]
    fn a_stream_pins_nothing() {
        let mut pins = pins();
        for at in (10 * MIB..74 * MIB).step_by(64 << 10).chain((10 * MIB..74 * MIB).step_by(MIB)) {
            assert_eq!(pins.place(at, 64 << 10, true), Place::Unpinned);
        }
    }

    #[test]
    fn a_place_is_given_away_when_nobody_uses_it() {
        let mut pins = pins();
        for n in 0..MOST_PINNED {
            let number = until_registered(&mut pins, (10 + 4 * n) * MIB, 16).unwrap().0;
            assert_eq!(usize::from(number), n);
        }
        assert_eq!(until_registered(&mut pins, 60 * MIB, 16), None, "all are in use");
        for _ in 0..IDLE {
            (1..MOST_PINNED)
                .for_each(|n| assert_eq!(pins.place((10 + 4 * n) * MIB, MIB, true), Place::Pinned(n as u16)));
        }
        assert_eq!(until_registered(&mut pins, 60 * MIB, 16), Some((0, 60 * MIB..64 * MIB)));
        assert_eq!(pins.count_pinned(), MOST_PINNED);
    }

    #[test]
    fn a_host_that_refuses_is_not_asked_again() {
        let mut pins = pins();
        until_registered(&mut pins, 10 * MIB, 16).unwrap();
        let (number, _) = until_registered(&mut pins, 20 * MIB, 16).unwrap();
        pins.refused(number);
        assert_eq!(until_registered(&mut pins, 20 * MIB, 100), None);
        assert_eq!(pins.place(20 * MIB, MIB, true), Place::Unpinned);
        assert_eq!(pins.place(10 * MIB, MIB, true), Place::Pinned(0), "what is pinned stays so");
    }

    proptest! {
        #[test]
        fn a_pinned_transfer_lies_in_what_was_registered(
            transfers in prop::collection::vec((0usize..120, 0usize..3 * MIB, any::<bool>(), any::<bool>()), 0..600),
        ) {
            let mut pins = pins();
            let mut registered: [Range<usize>; MOST_PINNED] = Default::default();
            for (at, bytes, may, works) in transfers {
                // Few places, so that some of them are used often.
                let start = at / 10 * 10 * MIB + bytes % 7;
                match pins.place(start, bytes, may) {
                    Place::Unpinned => {}
                    Place::Pinned(number) => prop_assert!(holds(&registered[usize::from(number)], &(start..start + bytes))),
                    Place::Register(number, window) => {
                        prop_assert!(may && holds(&window, &(start..start + bytes)));
                        prop_assert!(pins.ram.iter().any(|ram| holds(ram, &window)));
                        registered[usize::from(number)] = if works { window } else { 0..0 };
                        if !works {
                            pins.refused(number);
                        }
                    }
                }
            }
        }
    }
}
