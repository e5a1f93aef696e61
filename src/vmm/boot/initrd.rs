//! The initial RAM disk: as high as it goes below 3 GiB, out of the kernel's way.

use std::ops::Range;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::BootError;
use super::file::BootFile;
use crate::devices::board::LOW_RAM_END;

const PAGE_BYTES: u64 = 4096;
/// Where an initrd ends at the latest for kernels that do not say: what Linux says on x86-64.
pub(super) const LAST_ADDRESS: u64 = 0x7fff_ffff;

/// Where an initrd of `bytes` goes in a machine with `ram_bytes`, above `kernel_end` and not past `last_address`.
pub(super) fn place(
    file: &BootFile,
    bytes: u64,
    kernel_end: u64,
    last_address: u64,
    ram_bytes: u64,
) -> Result<Range<u64>, BootError> {
    if bytes == 0 {
        return Err(file.damaged("it is empty"));
    }
    let most = LOW_RAM_END.min(last_address.saturating_add(1)) / PAGE_BYTES * PAGE_BYTES;
    let needed = kernel_end.next_multiple_of(PAGE_BYTES).saturating_add(bytes.next_multiple_of(PAGE_BYTES));
    if needed > most {
        return Err(BootError::TooLarge { path: file.path.clone(), bytes, most: most.saturating_sub(kernel_end) });
    }
    if needed > ram_bytes {
        return Err(file.no_room(needed, ram_bytes));
    }
    let start = (most.min(ram_bytes) - bytes) / PAGE_BYTES * PAGE_BYTES;
    Ok(start..start + bytes)
}

/// Reads it into RAM.
pub(super) fn load(file: &BootFile, to: &Range<u64>, ram: &GuestMemoryMmap) -> Result<(), BootError> {
    let mut reader = file.reader(Vec::new(), true)?;
    let count = (to.end - to.start) as usize;
    ram.read_exact_volatile_from(GuestAddress(to.start), &mut reader, count)
        .map_err(|error| file.damaged(format!("it cannot be read to its end ({error})")))
}
