//! What a kernel finds that is entered by Linux's 64-bit protocol (Linux, Documentation/arch/x86/boot.rst, 1.14): the
//! zero page, and page tables that map the first 4 GiB to themselves.

use std::ops::Range;

use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams, Error as ConfiguratorError};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::bzimage;
use super::layout::{CMDLINE, DESCRIPTORS, PAGE_TABLES, ZERO_PAGE, memory_map};

/// A loader without a number of its own.
const LOADER_OTHER: u8 = 0xff;
const BOOT_FLAG: u16 = 0xaa55;
/// The protocol that a vmlinux, which has no setup header, is taken to speak.
const VERSION: u16 = 0x020f;
const LOADED_HIGH: u8 = 1;
const KERNEL_ALIGNMENT: u32 = 0x100_0000;

const PAGE_BYTES: u64 = 4096;
const ENTRIES: u64 = 512;
const LEVEL_2_TABLES: u64 = 4;
const LARGE_PAGE_SHIFT: u32 = 21;
const PRESENT_WRITABLE: u64 = 0b11;
const LARGE: u64 = 1 << 7;
/// Null, null, code at 0x10, data at 0x18: flat, 64-bit.
const DESCRIPTOR_TABLE: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
/// Limit of the descriptor table.
pub(super) const DESCRIPTORS_LIMIT: u16 = 31;

/// Writes the zero page; `header` is that of a bzImage.
pub(super) fn write_zero_page(
    ram: &GuestMemoryMmap,
    ram_bytes: u64,
    header: Option<setup_header>,
    initrd: Option<&Range<u64>>,
    rsdp: u64,
) -> Result<(), ConfiguratorError> {
    let mut page = boot_params { hdr: header.unwrap_or_else(vmlinux_header), ..Default::default() };
    page.hdr.type_of_loader = LOADER_OTHER;
    page.hdr.cmd_line_ptr = CMDLINE as u32;
    if let Some(initrd) = initrd {
        // Below 3 GiB, and so is its length.
        page.hdr.ramdisk_image = initrd.start as u32;
        page.hdr.ramdisk_size = (initrd.end - initrd.start) as u32;
    }
    page.acpi_rsdp_addr = rsdp;
    let map = memory_map(ram_bytes);
    page.e820_entries = map.len() as u8;
    for (entry, (range, kind)) in page.e820_table.iter_mut().zip(map) {
        *entry = boot_e820_entry { addr: range.start, size: range.end - range.start, r#type: kind as u32 };
    }
    LinuxBootConfigurator::write_bootparams(&BootParams::new(&page, GuestAddress(ZERO_PAGE)), ram)
}

fn vmlinux_header() -> setup_header {
    setup_header {
        boot_flag: BOOT_FLAG,
        header: bzimage::MAGIC,
        version: VERSION,
        loadflags: LOADED_HIGH,
        kernel_alignment: KERNEL_ALIGNMENT,
        ..Default::default()
    }
}

/// Writes page tables and descriptors.
pub(super) fn write_tables(ram: &GuestMemoryMmap) -> Result<(), GuestMemoryError> {
    let level_3 = PAGE_TABLES + PAGE_BYTES;
    let level_2 = level_3 + PAGE_BYTES;
    let mut tables = vec![0u8; ((2 + LEVEL_2_TABLES) * PAGE_BYTES) as usize];
    let mut set = |at: u64, entry: u64| {
        let at = (at - PAGE_TABLES) as usize;
        tables[at..at + 8].copy_from_slice(&entry.to_le_bytes());
    };
    set(PAGE_TABLES, level_3 | PRESENT_WRITABLE);
    for table in 0..LEVEL_2_TABLES {
        set(level_3 + table * 8, (level_2 + table * PAGE_BYTES) | PRESENT_WRITABLE);
    }
    for page in 0..LEVEL_2_TABLES * ENTRIES {
        set(level_2 + page * 8, page << LARGE_PAGE_SHIFT | PRESENT_WRITABLE | LARGE);
    }
    ram.write_slice(&tables, GuestAddress(PAGE_TABLES))?;
    let descriptors: Vec<u8> = DESCRIPTOR_TABLE.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    ram.write_slice(&descriptors, GuestAddress(DESCRIPTORS))
}
