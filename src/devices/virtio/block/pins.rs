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
//! is little, and only what takes a large part of the long transfers. A page cache that streams through 128 MiB or more
//! pins nothing.
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
/// A window is pinned when its count says so.
const OFTEN_BYTES: usize = 16 << 20;
/// When so much went unpinned, all counts are halved: with a 32nd of that a window is never pinned.
const FADE_BYTES: usize = 256 << 20;
/// Windows that have a count.
const MOST_COUNTED: usize = 64;
/// A pinned window that none of so many long transfers has used gives its place to another.
const IDLE: u64 = 256;

/// Where a transfer goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Its pages are not pinned.
    Unpinned,
    /// They are, as registered buffer number so, until [`Pins::ended`].
    Pinned(u16),
    /// They are when this memory has been registered as buffer number so, in place of what that was: else see
    /// [`Pins::refused`].
    Register(u16, Range<usize>),
}

/// One number of the kernel's table.
#[derive(Debug)]
struct Pinned {
    /// Empty: nothing is registered.
    window: Range<usize>,
    used_at: u64,
    /// Transfers under way that name it: the kernel may look it up as late as when it begins one.
    users: u32,
}

/// The windows of one ring.
#[derive(Debug)]
pub struct Pins {
    /// Guest RAM, in this process's addresses.
    ram: Vec<Range<usize>>,
    /// By number.
    pinned: Vec<Pinned>,
    /// Most of them that the host has let be registered.
    most: usize,
    /// How much has been transferred where: where most was (Misra and Gries, 1982), and lately.
    counted: Vec<(Range<usize>, usize)>,
    unpinned_bytes: usize,
    /// Long transfers so far.
    transfers: u64,
}

impl Pins {
    /// Nothing of `ram` is pinned.
    pub fn new(ram: Vec<Range<usize>>) -> Pins {
        Pins { ram, pinned: Vec::new(), most: MOST_PINNED, counted: Vec::new(), unpinned_bytes: 0, transfers: 0 }
    }

    /// Where the transfer of `bytes` at address `start` goes.
    pub fn place(&mut self, start: usize, bytes: usize) -> Place {
        if !(LEAST_BYTES..=STRIDE_BYTES).contains(&bytes) {
            return Place::Unpinned;
        }
        let transfer = start..start.saturating_add(bytes);
        self.transfers += 1;
        if let Some(number) = self.pinned.iter().position(|pinned| holds(&pinned.window, &transfer)) {
            self.pinned[number].used_at = self.transfers;
            self.pinned[number].users += 1;
            return Place::Pinned(number as u16);
        }
        let Some(window) = self.window(&transfer) else { return Place::Unpinned };
        if !self.count(&window, bytes) {
            return Place::Unpinned;
        }
        let Some(number) = self.free() else { return Place::Unpinned };
        self.counted.retain(|(counted, _)| *counted != window);
        self.pinned[number] = Pinned { window: window.clone(), used_at: self.transfers, users: 1 };
        Place::Register(number as u16, window)
    }

    /// A transfer that was to go by number `number` has ended, or will not begin.
    pub fn ended(&mut self, number: u16) {
        self.pinned[usize::from(number)].users -= 1;
    }

    /// What was to be number `number` could not be registered, and nothing is there now: the host allows no more than
    /// what is pinned. The transfer goes unpinned.
    pub fn refused(&mut self, number: u16) {
        self.pinned[usize::from(number)].window = 0..0;
        self.ended(number);
        self.most = self.count_pinned();
    }

    /// True when the memory at `address` is pinned.
    #[cfg(test)]
    pub fn pins(&self, address: usize) -> bool {
        self.pinned.iter().any(|pinned| pinned.window.contains(&address))
    }

    fn count_pinned(&self) -> usize {
        self.pinned.iter().filter(|pinned| !pinned.window.is_empty()).count()
    }

    /// The window in which `transfer` begins, if it lies in it; none outside RAM.
    fn window(&self, transfer: &Range<usize>) -> Option<Range<usize>> {
        let ram = self.ram.iter().find(|ram| holds(ram, transfer))?;
        let start = ram.start + (transfer.start - ram.start) / STRIDE_BYTES * STRIDE_BYTES;
        Some(start..ram.end.min(start + WINDOW_BYTES))
    }

    /// Counts; true when that makes it often.
    fn count(&mut self, window: &Range<usize>, bytes: usize) -> bool {
        self.unpinned_bytes += bytes;
        if self.unpinned_bytes >= FADE_BYTES {
            self.unpinned_bytes = 0;
            self.counted.iter_mut().for_each(|(_, count)| *count /= 2);
        }
        if let Some((_, count)) = self.counted.iter_mut().find(|(counted, _)| counted == window) {
            *count += bytes;
            return *count >= OFTEN_BYTES;
        }
        if self.counted.len() < MOST_COUNTED {
            self.counted.push((window.clone(), bytes));
        } else {
            // What comes only now and then takes from all others, and they from it.
            self.counted.iter_mut().for_each(|(_, count)| *count = count.saturating_sub(bytes));
            self.counted.retain(|(_, count)| *count > 0);
        }
        false
    }

    /// A number for another window: an empty one, or that of the window that has been idle for longest.
    fn free(&mut self) -> Option<usize> {
        if self.count_pinned() < self.most {
            let empty = self.pinned.iter().position(|pinned| pinned.window.is_empty() && pinned.users == 0);
            return empty.or_else(|| {
                (self.pinned.len() < MOST_PINNED).then(|| {
                    self.pinned.push(Pinned { window: 0..0, used_at: 0, users: 0 });
                    self.pinned.len() - 1
                })
            });
        }
        let idle =
            |pinned: &Pinned| !pinned.window.is_empty() && pinned.users == 0 && self.transfers - pinned.used_at > IDLE;
        let idle = (0..self.pinned.len()).filter(|&n| idle(&self.pinned[n]));
        idle.min_by_key(|&n| self.pinned[n].used_at)
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
        Pins::new(vec![10 * MIB..1034 * MIB, 2000 * MIB..2001 * MIB])
    }

    /// Transfers of 1 MiB at `start`, each ended at once, until something is registered.
    fn until_registered(pins: &mut Pins, start: usize, most: usize) -> Option<(u16, Range<usize>)> {
        (0..most).find_map(|_| match pins.place(start, MIB) {
            Place::Register(number, window) => {
                pins.ended(number);
                Some((number, window))
            }
            Place::Pinned(number) => {
                pins.ended(number);
                None
            }
            Place::Unpinned => None,
        })
    }

    #[test]
    fn what_long_transfers_come_back_to_is_pinned() {
        let mut pins = pins();
        assert_eq!(until_registered(&mut pins, 13 * MIB, 15), None);
        assert_eq!(pins.place(13 * MIB, MIB), Place::Register(0, 12 * MIB..16 * MIB));
        assert_eq!(pins.place(13 * MIB + 5, 2 * MIB), Place::Pinned(0));
        assert_eq!(pins.place(15 * MIB, MIB), Place::Pinned(0));
        assert_eq!(pins.place(15 * MIB + 1, MIB), Place::Unpinned, "it goes past the window");
        assert_eq!(pins.place(13 * MIB, 4096), Place::Unpinned, "short");
        assert_eq!(pins.place(13 * MIB, 2 * MIB + 1), Place::Unpinned, "longer than a window is sure to hold");
        assert_eq!(until_registered(&mut pins, 1999 * MIB, 100), None, "not RAM");
        assert_eq!(
            until_registered(&mut pins, 2000 * MIB, 16),
            Some((1, 2000 * MIB..2001 * MIB)),
            "as far as RAM goes"
        );
    }

    #[test]
    fn a_stream_pins_nothing_and_hides_nothing() {
        let mut pins = pins();
        let stream = |pins: &mut Pins, bytes| {
            (10 * MIB..138 * MIB).step_by(bytes).for_each(|at| assert_eq!(pins.place(at, bytes), Place::Unpinned));
        };
        for _ in 0..20 {
            stream(&mut pins, MIB);
            stream(&mut pins, 64 << 10);
        }
        // Two buffers in turn, while the stream goes on.
        let registered = (0..200).filter(|n| {
            let streamed = 10 * MIB + n * MIB % (128 * MIB);
            assert!(!matches!(pins.place(streamed, MIB), Place::Pinned(_)));
            until_registered(&mut pins, (500 + n % 2 * 10) * MIB, 1).is_some()
        });
        assert_eq!(registered.count(), 2);
    }

    #[test]
    fn a_place_is_given_away_when_nobody_uses_it() {
        let mut pins = pins();
        let at = |n: usize| (10 + 4 * n) * MIB;
        for n in 0..MOST_PINNED {
            assert_eq!(until_registered(&mut pins, at(n), 16).unwrap().0, n as u16);
        }
        assert_eq!(until_registered(&mut pins, at(10), 16), None, "all are in use");
        // One under way for long, all others often.
        assert_eq!(pins.place(at(0), MIB), Place::Pinned(0));
        for _ in 0..IDLE {
            (1..MOST_PINNED).for_each(|n| assert_eq!(until_registered(&mut pins, at(n), 1), None));
        }
        assert_eq!(until_registered(&mut pins, at(10), 16), None, "its transfer may not have begun");
        pins.ended(0);
        assert_eq!(until_registered(&mut pins, at(10), 16), Some((0, at(10)..at(11))));
        assert_eq!(pins.count_pinned(), MOST_PINNED);
    }

    #[test]
    fn no_more_is_pinned_than_the_host_allows() {
        let mut pins = pins();
        for n in 0..2 {
            until_registered(&mut pins, (10 + 4 * n) * MIB, 16).unwrap();
        }
        let refuse = |pins: &mut Pins| {
            let number = (0..1000).find_map(|_| match pins.place(50 * MIB, MIB) {
                Place::Register(number, _) => Some(number),
                _ => None,
            })?;
            pins.refused(number);
            Some(number)
        };
        assert_eq!(refuse(&mut pins), Some(2));
        assert_eq!(pins.place(50 * MIB, MIB), Place::Unpinned);
        // Two it allows: one of them gives way when it is idle, and if even that is refused, one is left.
        assert_eq!(until_registered(&mut pins, 60 * MIB, 1000), Some((0, 60 * MIB..64 * MIB)));
        assert_eq!(refuse(&mut pins), Some(1));
        assert_eq!(pins.count_pinned(), 1);
        assert_eq!(refuse(&mut pins), Some(0));
        assert_eq!(refuse(&mut pins), None, "nothing is allowed, nothing is tried");
    }

    proptest! {
        /// Against a table as the kernel has it: a transfer's number is that of its memory when it begins, however late.
        #[test]
        fn a_pinned_transfer_lies_in_what_is_registered(
            bursts in prop::collection::vec((0usize..24, 1usize..40, LEAST_BYTES..2 * MIB, 0usize..20, any::<bool>()), 0..150),
        ) {
            let mut pins = pins();
            let mut table: [Range<usize>; MOST_PINNED] = Default::default();
            let mut under_way: Vec<(u16, Range<usize>)> = Vec::new();
            for (place, count, bytes, luck, lingers) in bursts {
                for _ in 0..count {
                    let start = (10 + 4 * place) * MIB + bytes % 7;
                    let transfer = start..start + bytes;
                    match pins.place(start, bytes) {
                        Place::Unpinned => continue,
                        Place::Pinned(number) => under_way.push((number, transfer)),
                        Place::Register(number, window) => {
                            prop_assert!(pins.ram.iter().any(|ram| holds(ram, &window)));
                            prop_assert!(under_way.iter().all(|(other, _)| *other != number));
                            if luck == 0 {
                                table[usize::from(number)] = 0..0;
                                pins.refused(number);
                            } else {
                                table[usize::from(number)] = window;
                                under_way.push((number, transfer));
                            }
                        }
                    }
                    let still = usize::from(lingers);
                    while under_way.len() > still {
                        let (number, transfer) = under_way.remove(0);
                        prop_assert!(holds(&table[usize::from(number)], &transfer));
                        pins.ended(number);
                    }
                }
            }
        }
    }
}
