//! A device's configuration space (virtio 1.2, 2.5): what it tells its driver beside its queues.
//!
//! The host may change it while the driver looks: each change is one step, and counts the generation, by which a
//! driver that reads it piece by piece sees that it has to read again.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Debug)]
struct State {
    bytes: Vec<u8>,
    generation: u8,
}

/// The bytes, little endian.
#[derive(Debug)]
pub struct Settings {
    state: Mutex<State>,
    writable: Range<usize>,
}

impl Settings {
    /// Settings with these bytes; the driver may write those in `writable`.
    pub fn new(bytes: Vec<u8>, writable: Range<usize>) -> Settings {
        Settings { state: Mutex::new(State { bytes, generation: 0 }), writable }
    }

    /// Changes bytes from `offset` on, from the host's side; true when they were others. The driver has then to be
    /// told ([`super::interrupts::Interrupts::config`]).
    pub fn set(&self, offset: usize, bytes: &[u8]) -> bool {
        let mut state = self.lock();
        let Some(place) = state.bytes.get_mut(offset..offset.saturating_add(bytes.len())) else { return false };
        if place == bytes {
            return false;
        }
        place.copy_from_slice(bytes);
        state.generation = state.generation.wrapping_add(1);
        true
    }

    /// The byte at `offset`; 0 past the end.
    pub fn byte(&self, offset: usize) -> u8 {
        self.lock().bytes.get(offset).copied().unwrap_or(0)
    }

    /// The driver reads from `offset` on; what lies past the end is left as it was.
    pub(super) fn read(&self, offset: u64, data: &mut [u8]) {
        super::copy(&self.lock().bytes, offset, data);
    }

    /// The driver writes from `offset` on; true when a byte that it may write has changed.
    pub(super) fn write(&self, offset: u64, data: &[u8]) -> bool {
        let mut state = self.lock();
        let mut changed = false;
        for (byte, at) in data.iter().zip(usize::try_from(offset).unwrap_or(usize::MAX)..usize::MAX) {
            if self.writable.contains(&at)
                && let Some(place) = state.bytes.get_mut(at)
            {
                changed |= std::mem::replace(place, *byte) != *byte;
            }
        }
        changed
    }

    /// Counts the host's changes.
    pub(super) fn generation(&self) -> u8 {
        self.lock().generation
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_s_changes_count_and_the_driver_s_do_not() {
        let settings = Settings::new(vec![1, 2, 3, 4], 2..3);
        assert!(!settings.set(0, &[1, 2]), "nothing new");
        assert!(settings.set(1, &[7, 8]) && settings.generation() == 1);
        assert!(!settings.set(3, &[0, 0]) && !settings.set(usize::MAX, &[0]), "past the end");
        assert!(settings.write(0, &[9, 9, 9, 9]));
        assert!(!settings.write(u64::MAX, &[9]));
        let mut data = [0xee; 4];
        settings.read(1, &mut data);
        assert_eq!((data, settings.generation()), ([7, 9, 4, 0xee], 1));
        settings.read(u64::MAX, &mut data);
        assert_eq!((settings.byte(2), settings.byte(4)), (9, 0));
    }
}
