//! Guest RAM: where it lies, how it is mapped, how it goes away.
//!
//! ```text
//!   guest-physical                                  host
//!   0 ......... LOW_RAM_END   low RAM  ◀── slot 0 ── anonymous mapping, 2 MiB aligned
//!   LOW_RAM_END .. 4 GiB      PCI window, ECAM, APICs: the board and KVM
//!   4 GiB ..... HIGH_RAM+n    high RAM ◀── slot 1 ── anonymous mapping, 2 MiB aligned
//! ```
//!
//! Huge pages (`MADV_HUGEPAGE`) save nearly all nested page faults of a boot. Nothing is touched
//! before the guest touches it: mapping much costs as little as mapping little.

use std::io;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::mmap::MmapRegionError;
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use crate::devices::board::{HIGH_RAM, LOW_RAM_END, PCI64_WINDOW};

/// The least RAM a machine may have.
pub const LEAST_BYTES: u64 = 4 << 20;
/// The most: it has to end below the 64-bit PCI window.
pub const MOST_BYTES: u64 = PCI64_WINDOW.start - HIGH_RAM + LOW_RAM_END;

const PAGE_BYTES: u64 = 4096;
const HUGE_PAGE_BYTES: usize = 2 << 20;
/// Before and behind each mapping nobody can read or write: a stray access ends the process and harms nothing.
const GUARD_BYTES: usize = PAGE_BYTES as usize;

/// Why there is no RAM.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// Not a size RAM can have.
    #[error("Guest memory of {bytes} bytes cannot be; make it a multiple of 4 KiB from {LEAST_BYTES} to {MOST_BYTES}")]
    Size {
        /// What was asked for.
        bytes: u64,
    },
    /// The host does not give it.
    #[error("Guest memory of {bytes} bytes cannot be mapped; free memory on this host or make the guest smaller")]
    Map {
        /// What was asked for.
        bytes: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The mapping cannot be described: only a bug does that.
    #[error("Guest memory does not fit its own layout")]
    Layout(#[from] MmapRegionError),
    /// KVM does not take it.
    #[error("KVM does not take the guest's memory")]
    Slot(#[source] kvm_ioctls::Error),
}

/// The RAM of one machine.
#[derive(Debug)]
pub struct Ram {
    guest: GuestMemoryMmap,
    // After `guest`, which points into them.
    mappings: Vec<Mapping>,
}

impl Ram {
    /// Maps `bytes` of zeroed RAM; none of it is resident yet.
    pub fn new(bytes: u64) -> Result<Ram, MemoryError> {
        if !(LEAST_BYTES..=MOST_BYTES).contains(&bytes) || !bytes.is_multiple_of(PAGE_BYTES) {
            return Err(MemoryError::Size { bytes });
        }
        let mut mappings = Vec::new();
        let mut regions = Vec::new();
        for (base, length) in ranges(bytes) {
            let mapping = Mapping::new(length).map_err(|source| MemoryError::Map { bytes, source })?;
            // SAFETY: the mapping is there for `length` bytes, and `Ram` drops it after `guest`.
            let region = unsafe { MmapRegion::build_raw(mapping.start, mapping.bytes, PROTECTION, FLAGS) }?;
            regions
                .push(GuestRegionMmap::new(region, GuestAddress(base)).expect("the base addresses end far below 2^64"));
            mappings.push(mapping);
        }
        let guest = GuestMemoryMmap::from_regions(regions).expect("the ranges are in order and apart");
        Ok(Ram { guest, mappings })
    }

    /// The RAM by guest-physical address. A clone of it must not outlive this [`Ram`].
    pub fn guest(&self) -> &GuestMemoryMmap {
        &self.guest
    }

    /// Bytes of RAM.
    pub fn bytes(&self) -> u64 {
        self.mappings.iter().map(|mapping| mapping.bytes as u64).sum()
    }

    /// Gives the RAM to `vm`, as its slots 0 and 1.
    pub fn plug_into(&self, vm: &VmFd) -> Result<(), MemoryError> {
        for (slot, (mapping, (base, _))) in (0..).zip(self.mappings.iter().zip(ranges(self.bytes()))) {
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: base,
                memory_size: mapping.bytes as u64,
                userspace_addr: mapping.start as u64,
            };
            // SAFETY: the mapping is anonymous memory kept for the guest alone; when it goes away under the
            // slot, KVM's page tables lose it too, and no vCPU runs any more.
            unsafe { vm.set_user_memory_region(region) }.map_err(MemoryError::Slot)?;
        }
        Ok(())
    }

    /// Keeps the first 2 MiB small pages, for a guest that touches a few of them: to clear all of them takes longer than
    /// its whole start. Only while nobody has touched them.
    pub fn begin_with_small_pages(&self) {
        if let Some(first) = self.mappings.first() {
            first.begin_with_small_pages();
        }
    }

    /// Unmaps it at once and says how many bytes that were.
    pub fn release(self) -> u64 {
        self.bytes()
    }
}

/// Which guest-physical ranges make up `bytes` of RAM.
fn ranges(bytes: u64) -> impl Iterator<Item = (u64, usize)> {
    let low = bytes.min(LOW_RAM_END);
    [(0, low as usize), (HIGH_RAM, (bytes - low) as usize)].into_iter().filter(|(_, length)| *length > 0)
}

const PROTECTION: i32 = libc::PROT_READ | libc::PROT_WRITE;
/// Not reserved: a guest may be given more than the host has free, and takes what it touches.
const FLAGS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;

/// One anonymous mapping that begins at a multiple of 2 MiB.
#[derive(Debug)]
struct Mapping {
    start: *mut u8,
    bytes: usize,
}

// SAFETY: a mapping is a range of the process's address space, not of a thread's; who accesses it goes
// through `vm-memory`, which does so with volatile accesses.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(bytes: usize) -> io::Result<Mapping> {
        let slack = bytes.checked_add(HUGE_PAGE_BYTES + 2 * GUARD_BYTES).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: a new anonymous mapping wherever the kernel likes.
        let raw = unsafe { libc::mmap(std::ptr::null_mut(), slack, PROTECTION, FLAGS, -1, 0) };
        if raw == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let raw: *mut u8 = raw.cast();
        let before = raw.wrapping_add(GUARD_BYTES).align_offset(HUGE_PAGE_BYTES);
        // SAFETY: `before` is at most the slack; what is cut off or guarded at both ends was mapped just now and holds
        // nothing. Failures are harmless: unused address space stays mapped or open, there are small
        // pages, or dumps and children have it, too.
        unsafe {
            let first_guard = raw.add(before);
            let start = first_guard.add(GUARD_BYTES);
            let last_guard = start.add(bytes);
            if before > 0 {
                libc::munmap(raw.cast(), before);
            }
            if slack > before + bytes + 2 * GUARD_BYTES {
                libc::munmap(last_guard.add(GUARD_BYTES).cast(), slack - before - bytes - 2 * GUARD_BYTES);
            }
            libc::mprotect(first_guard.cast(), GUARD_BYTES, libc::PROT_NONE);
            libc::mprotect(last_guard.cast(), GUARD_BYTES, libc::PROT_NONE);
            libc::madvise(start.cast(), bytes, libc::MADV_HUGEPAGE);
            libc::madvise(start.cast(), bytes, libc::MADV_DONTDUMP);
            // No child needs it, and for a child the kernel would copy whatever is pinned.
            libc::madvise(start.cast(), bytes, libc::MADV_DONTFORK);
            Ok(Mapping { start, bytes })
        }
    }

    /// Touches the first page while this process gets no huge ones: the page table that is then there stays.
    fn begin_with_small_pages(&self) {
        // SAFETY: asking and setting what the process's faults give; the byte lies in the mapping, which nobody else
        // knows yet, and is zero already. What the host refuses costs time, nothing else.
        unsafe {
            let before = libc::prctl(libc::PR_GET_THP_DISABLE, 0, 0, 0, 0);
            libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0);
            self.start.write_volatile(0);
            libc::prctl(libc::PR_SET_THP_DISABLE, libc::c_ulong::from(before == 1), 0, 0, 0);
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length and its guards; `Ram` hands out no pointer that outlives it.
        unsafe { libc::munmap(self.start.sub(GUARD_BYTES).cast(), self.bytes + 2 * GUARD_BYTES) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{Bytes, GuestMemoryBackend};

    #[test]
    fn ram_goes_around_the_hole() {
        let ranges = |bytes| super::ranges(bytes).collect::<Vec<_>>();
        assert_eq!(ranges(8 << 20), [(0, 8 << 20)]);
        assert_eq!(ranges(3 << 30), [(0, 3 << 30)]);
        assert_eq!(ranges((3 << 30) + 4096), [(0, 3 << 30), (4 << 30, 4096)]);
        let ram = Ram::new(5 << 30).expect("address space costs nothing");
        assert!(!ram.guest().address_in_range(GuestAddress(0xc000_0000)));
        assert!(!ram.guest().address_in_range(GuestAddress(0xffff_ffff)));
        assert!(ram.guest().address_in_range(GuestAddress(0x1_7fff_ffff)));
        assert_eq!(ram.release(), 5 << 30);
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        for bytes in [0, 4096, LEAST_BYTES - 4096, LEAST_BYTES + 1, MOST_BYTES + 4096, u64::MAX] {
            assert!(matches!(Ram::new(bytes), Err(MemoryError::Size { .. })), "{bytes}");
        }
    }

    #[test]
    fn beside_it_nothing_can_be_accessed() {
        let ram = Ram::new((3 << 30) + 4096).expect("address space costs nothing");
        let maps = std::fs::read_to_string("/proc/self/maps").expect("a process can read its own");
        for mapping in &ram.mappings {
            let (start, end) = (mapping.start as usize, mapping.start as usize + mapping.bytes);
            let closed = |line: &str| line.split_whitespace().nth(1) == Some("---p");
            let begins =
                |at: usize| maps.lines().find(|line| line.starts_with(&format!("{at:x}-"))).is_some_and(closed);
            let ends = |at: usize| maps.lines().find(|line| line.contains(&format!("-{at:x} "))).is_some_and(closed);
            assert!(ends(start) && begins(end), "{start:x}-{end:x} in\n{maps}");
        }
    }

    #[test]
    fn mappings_are_huge_page_aligned_and_zero() {
        let ram = Ram::new(LEAST_BYTES + 4096).expect("small");
        assert_eq!(ram.mappings[0].start.align_offset(HUGE_PAGE_BYTES), 0);
        assert_eq!(ram.guest().read_obj::<u8>(GuestAddress(LEAST_BYTES + 4095)).expect("inside"), 0);
    }
}
