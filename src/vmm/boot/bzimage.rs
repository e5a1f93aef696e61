//! A bzImage: what its setup header says (Linux, Documentation/arch/x86/boot.rst), checked before it is believed.
//!
//! Only the 64-bit entry is used: 0x200 past the place where the protected-mode part is loaded, which is where the
//! kernel would like to run. Kernels before boot protocol 2.12 (Linux 3.8), and 32-bit ones, do not have it.

use linux_loader::loader::bootparam::setup_header;
use vm_memory::ByteValued;

use super::BootError;
use super::file::BootFile;
use super::layout::KERNEL_FROM;

const HEADER: usize = 0x1f1;
const HEADER_END: usize = 0x202;
/// How much of the file is looked at.
const START_BYTES: usize = 0x400;
const SECTOR_BYTES: u64 = 512;
const BOOT_FLAG: u16 = 0xaa55;
/// "HdrS".
pub(super) const MAGIC: u32 = 0x5372_6448;
const FIRST_VERSION: u16 = 0x020c;
const LOADED_HIGH: u8 = 1;
const KERNEL_64: u16 = 1;
/// The 64-bit entry, from where the protected-mode part is loaded.
const ENTRY_64: u64 = 0x200;

/// What a bzImage's header says.
#[derive(Debug, Clone, Copy)]
pub(super) struct BzImage {
    /// The header, cleared where the image's own is shorter than the one known here.
    pub header: setup_header,
    /// Where it is loaded.
    pub start: u64,
    /// One past the last byte of RAM that it needs before it knows where other RAM is.
    pub end: u64,
}

impl BzImage {
    /// Reads and checks the header.
    pub fn read(file: &BootFile) -> Result<BzImage, BootError> {
        let file_bytes = file.bytes()?;
        let first = file.read_start::<START_BYTES>(0)?;
        let header = header(&first);
        if header.boot_flag != BOOT_FLAG || header.header != MAGIC {
            return Err(file.damaged("its setup header is not that of a kernel"));
        }
        if header.version < FIRST_VERSION || header.xloadflags & KERNEL_64 == 0 || header.loadflags & LOADED_HIGH == 0 {
            let what = "a bzImage without a 64-bit entry (Linux 3.8 or later, built for x86-64, has one)";
            return Err(BootError::WrongKind { path: file.path.clone(), what: what.into() });
        }
        let setup_bytes = (u64::from(setup_sectors(&header)) + 1) * SECTOR_BYTES;
        let kernel_bytes = u64::from(header.syssize) * 16;
        let due = setup_bytes + kernel_bytes;
        // The last 16 bytes may be padding that is not there.
        if kernel_bytes <= ENTRY_64 || file_bytes + 16 <= due {
            return Err(file.damaged(format!("it has {file_bytes} bytes, and its header says {due}")));
        }
        let start = header.pref_address;
        if start < KERNEL_FROM {
            return Err(file.damaged(format!("it loads to {start:#x}, below 1 MiB")));
        }
        let loaded = (file_bytes - setup_bytes).max(u64::from(header.init_size));
        match start.checked_add(loaded) {
            Some(end) => Ok(BzImage { header, start, end }),
            None => Err(file.damaged("it loads past 2^64")),
        }
    }

    /// The 64-bit entry, guest-physical.
    pub fn entry(&self) -> u64 {
        self.start + ENTRY_64
    }
}

/// How many sectors of real-mode code follow the first; 0 stands for 4.
fn setup_sectors(header: &setup_header) -> u8 {
    if header.setup_sects == 0 { 4 } else { header.setup_sects }
}

/// The setup header: it ends where the byte at 0x201 says.
fn header(first: &[u8; START_BYTES]) -> setup_header {
    let mut header = setup_header::default();
    let end = (HEADER_END + usize::from(first[0x201])).min(HEADER + header.as_slice().len());
    let bytes = &first[HEADER..end];
    header.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
    header
}
