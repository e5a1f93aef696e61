//! What a guest finds that is entered as PVH guests are (Xen, docs/misc/pvh.pandoc): `hvm_start_info`, version 1, with
//! the memory map, the tables' root, the command line and the initrd as its one module.

use std::ops::Range;

use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams, Error as ConfiguratorError};
use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::layout::{CMDLINE, MEMORY_MAP, MODULES, START_INFO, memory_map};

const MAGIC: u32 = 0x336e_c578;
const VERSION: u32 = 1;

/// Writes the start information.
pub(super) fn write(
    ram: &GuestMemoryMmap,
    ram_bytes: u64,
    initrd: Option<&Range<u64>>,
    rsdp: u64,
) -> Result<(), ConfiguratorError> {
    let map: Vec<_> = memory_map(ram_bytes).into_iter().map(memory_map_entry).collect();
    let info = hvm_start_info {
        magic: MAGIC,
        version: VERSION,
        cmdline_paddr: CMDLINE,
        rsdp_paddr: rsdp,
        memmap_paddr: MEMORY_MAP,
        memmap_entries: map.len() as u32,
        modlist_paddr: initrd.map_or(0, |_| MODULES),
        nr_modules: u32::from(initrd.is_some()),
        ..Default::default()
    };
    let mut parameters = BootParams::new(&info, GuestAddress(START_INFO));
    parameters.set_sections(&map, GuestAddress(MEMORY_MAP));
    if let Some(initrd) = initrd {
        let module = hvm_modlist_entry { paddr: initrd.start, size: initrd.end - initrd.start, ..Default::default() };
        parameters.set_modules(&[module], GuestAddress(MODULES));
    }
    PvhBootConfigurator::write_bootparams(&parameters, ram)
}

fn memory_map_entry((range, kind): (Range<u64>, super::layout::RangeKind)) -> hvm_memmap_table_entry {
    hvm_memmap_table_entry { addr: range.start, size: range.end - range.start, type_: kind as u32, reserved: 0 }
}
