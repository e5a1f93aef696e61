//! Where things lie in low memory when a guest starts, and the map of memory that it is told.
//!
//! ```text
//!   0x0000_0500  descriptor table       0x0000_9000  page tables, six pages      0x000e_0000  ACPI tables
//!   0x0000_6000  start info (PVH)       0x0002_0000  command line                0x0010_0000  kernel, from here up
//!   0x0000_7000  zero page (Linux)      0x0009_fc00  end of low memory           as high as it goes: initrd
//!                                       0x000f_fff0  reset vector
//! ```

use std::ops::Range;

use crate::devices::board::{ECAM, ECAM_BUS_BYTES, HIGH_RAM, LOW_RAM_END};
use crate::vmm::prepared::KVM_PAGES;

/// Descriptor table of the 64-bit entry.
pub(super) const DESCRIPTORS: u64 = 0x500;
/// `hvm_start_info`; the module list and the memory map follow in the same page.
pub(super) const START_INFO: u64 = 0x6000;
/// `hvm_modlist_entry` of the initrd.
pub(super) const MODULES: u64 = START_INFO + 0x100;
/// `hvm_memmap_table_entry`, one a range.
pub(super) const MEMORY_MAP: u64 = START_INFO + 0x200;
/// `boot_params`.
pub(super) const ZERO_PAGE: u64 = 0x7000;
/// Page tables of the 64-bit entry: one of level 4, one of level 3, four of level 2.
pub(super) const PAGE_TABLES: u64 = 0x9000;
/// The command line, ended by a zero.
pub(super) const CMDLINE: u64 = 0x2_0000;
/// RAM below 1 MiB ends here, as on a PC.
const LOW_MEMORY_END: u64 = 0x9_fc00;
/// ACPI tables: where a guest that was not told of them looks (ACPI 6.5, 5.2.5.1).
pub const ACPI_TABLES: Range<u64> = 0xe_0000..0x10_0000;
/// Kernels load from here up.
pub const KERNEL_FROM: u64 = 0x10_0000;

/// What a range of guest-physical addresses is; the numbers are those of e820 and of PVH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RangeKind {
    /// RAM.
    Ram = 1,
    /// Neither RAM nor free for devices.
    Reserved = 2,
    /// ACPI tables.
    Acpi = 3,
}

/// The memory map of a machine with `bytes` of RAM, in order.
pub fn memory_map(bytes: u64) -> Vec<(Range<u64>, RangeKind)> {
    let low = bytes.min(LOW_RAM_END);
    let high = bytes - low;
    let all = [
        (0..LOW_MEMORY_END, RangeKind::Ram),
        (ACPI_TABLES, RangeKind::Acpi),
        (KERNEL_FROM..low, RangeKind::Ram),
        (ECAM.start..ECAM.start + ECAM_BUS_BYTES, RangeKind::Reserved),
        (KVM_PAGES, RangeKind::Reserved),
        (HIGH_RAM..HIGH_RAM + high, RangeKind::Ram),
    ];
    all.into_iter().filter(|(range, _)| !range.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_tells_of_all_ram_once_and_in_order() {
        for bytes in [8 << 20, 256 << 20, 3 << 30, (3 << 30) + 4096, 5 << 30, 100 << 30] {
            let map = memory_map(bytes);
            assert!(map.windows(2).all(|pair| pair[0].0.end <= pair[1].0.start), "{map:x?}");
            let ram: u64 = map.iter().filter(|(_, kind)| *kind == RangeKind::Ram).map(|(r, _)| r.end - r.start).sum();
            assert_eq!(ram, bytes - (KERNEL_FROM - LOW_MEMORY_END), "all but the old adapter and BIOS ranges");
        }
    }
}
