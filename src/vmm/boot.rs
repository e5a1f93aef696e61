//! What is in RAM when the guest starts, and what is in its registers.
//!
//! ```text
//!   Kernel ──open──▶ Loader ──load──▶ Start ──set_registers──▶ boot processor
//!            files     │ again at each reset
//!                      ├─ Flat      a tiny guest ─────────────────────────▶ PVH
//!                      ├─ ELF       has a PVH entry and is not Linux ─────▶ PVH      start info
//!                      │            else, or as told ─────────────────────▶ Linux    zero page, page tables
//!                      └─ bzImage ────────────────────────────────────────▶ Linux
//! ```
//!
//! Nothing that a file says is believed before it is checked; whatever is wrong with one is one [`BootError`].

mod bzimage;
mod elf;
mod file;
mod initrd;
pub mod layout;
mod linux;
mod pvh;
mod registers;
mod reset_vector;
#[cfg(test)]
mod tests;

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use linux_loader::configurator::Error as ConfiguratorError;
use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::{self, KernelLoader};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

pub use registers::Start;

use self::bzimage::BzImage;
use self::elf::Elf;
use self::file::{BootFile, ZEROS};
use self::layout::{ACPI_TABLES, CMDLINE};
use self::reset_vector::{RESET_VECTOR, reset_vector};
use super::acpi;
use super::memory::Ram;
use crate::devices::board::LOW_RAM_END;

/// Most bytes of a command line, the final zero not counted: what Linux takes on x86.
pub const CMDLINE_BYTES: usize = 2047;
const MIB: u64 = 1 << 20;
/// A kernel that ends here takes a few pages, for which no huge one needs to be cleared.
const SMALL_KERNEL_END: u64 = 2 * MIB;

/// How a kernel file is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Entry {
    /// As is best for it: what says that it is Linux by Linux's 64-bit protocol, which it is quicker through; else by PVH
    /// if it has the entry for it.
    #[default]
    Auto,
    /// By PVH.
    Pvh,
    /// By Linux's 64-bit protocol.
    Linux,
}

/// Something that a machine can start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kernel {
    /// Bytes that are copied to an address and entered at another, by PVH.
    Flat {
        /// The bytes.
        image: &'static [u8],
        /// Guest-physical address of the first.
        load_address: u64,
        /// Guest-physical address of the first instruction.
        entry: u64,
    },
    /// An ELF vmlinux or a bzImage.
    File {
        /// The kernel.
        path: PathBuf,
        /// Its initial RAM disk.
        initrd: Option<PathBuf>,
        /// How it is entered.
        entry: Entry,
    },
}

/// Why there is nothing to start.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The command line does not fit.
    #[error("The guest's command line has {bytes} bytes, more than the {CMDLINE_BYTES} a kernel takes; shorten it")]
    LongCmdline {
        /// Its length.
        bytes: usize,
    },
    /// It cannot be told to a kernel.
    #[error("The guest's command line holds a zero byte; take it out")]
    ZeroInCmdline,
    /// The host does not give the file.
    #[error("{path:?} cannot be read")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A directory, a device or a pipe.
    #[error("{path:?} is not a regular file; name a kernel or an initial RAM disk")]
    NoFile {
        /// What was named.
        path: PathBuf,
    },
    /// Not a kernel that can be started.
    #[error("{path:?} cannot be started: it is {what}; give an x86-64 vmlinux (ELF) or a bzImage")]
    WrongKind {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: String,
    },
    /// Cut off, or nonsense.
    #[error("{path:?} is damaged: {what}; copy it anew")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// `--entry pvh`, and the kernel does not have it.
    #[error("{path:?} has no PVH entry; take another --entry, or build it with CONFIG_PVH")]
    NoPvhEntry {
        /// The kernel.
        path: PathBuf,
    },
    /// `--entry pvh` on a bzImage.
    #[error("{path:?} is a bzImage, which PVH cannot enter; take --entry linux, or its vmlinux")]
    PvhBzImage {
        /// The kernel.
        path: PathBuf,
    },
    /// More memory would do.
    #[error("{path:?} does not fit into {has_mib} MiB of guest memory; give it at least {needed_mib} MiB")]
    NoRoom {
        /// The kernel or the initrd.
        path: PathBuf,
        /// What would do, MiB.
        needed_mib: u64,
        /// What there is, MiB.
        has_mib: u64,
    },
    /// More memory would not do.
    #[error("{path:?} needs {bytes} bytes of memory below 3 GiB, and {most} are the most it can have; make it smaller")]
    TooLarge {
        /// The kernel or the initrd.
        path: PathBuf,
        /// What it takes.
        bytes: u64,
        /// The most.
        most: u64,
    },
    /// The built-in guest does not fit.
    #[error("The guest does not fit into its memory; give it more")]
    NoRoomForFlat(#[source] vm_memory::GuestMemoryError),
    /// What the guest is told cannot be written: only a bug does that.
    #[error("The guest's start information does not fit into its memory")]
    StartInfo(#[source] ConfiguratorError),
    /// KVM does not take the registers.
    #[error("KVM does not take the guest's first registers")]
    Registers(#[from] kvm_ioctls::Error),
}

impl BootError {
    /// The exit code that goes with it: 2 when something else has to be given, 1 when this host fails.
    pub fn exit_code(&self) -> u8 {
        match self {
            BootError::Unreadable { .. } | BootError::StartInfo(_) | BootError::Registers(_) => 1,
            _ => 2,
        }
    }
}

/// What else a guest is told.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// The kernel's command line.
    pub cmdline: &'a str,
    /// Processors.
    pub vcpus: usize,
    /// Occupied PCI slots.
    pub pci_slots: u8,
    /// True when nothing but zeros is in RAM.
    pub ram_is_zero: bool,
}

/// A kernel with its files open.
///
/// They stay open as long as the machine is there: a reset starts the kernel that the machine was built with, even when
/// another file has taken its name. A file that is overwritten in place is read, and checked, as it is then.
#[derive(Debug)]
pub struct Loader {
    image: Source,
    initrd: Option<BootFile>,
}

#[derive(Debug)]
enum Source {
    Flat { image: &'static [u8], load_address: u64, entry: u64 },
    Elf { file: BootFile, entry: Entry },
    BzImage { file: BootFile },
}

/// What has to be known of a kernel file before it is loaded.
struct Plan {
    /// The kernel takes RAM up to here.
    end: u64,
    initrd: Option<Range<u64>>,
    start: Start,
    kind: PlanKind,
}

enum PlanKind {
    Elf(Elf),
    BzImage(BzImage),
}

impl Loader {
    /// Opens the files.
    pub fn open(kernel: &Kernel) -> Result<Loader, BootError> {
        match kernel {
            Kernel::Flat { image, load_address, entry } => {
                let image = Source::Flat { image, load_address: *load_address, entry: *entry };
                Ok(Loader { image, initrd: None })
            }
            Kernel::File { path, initrd, entry } => {
                let image = Source::open(path, *entry)?;
                let initrd = initrd.as_deref().map(BootFile::open).transpose()?;
                Ok(Loader { image, initrd })
            }
        }
    }

    /// Looks whether a machine with `ram_bytes` could start it, as far as the files' headers tell.
    pub fn check(&self, ram_bytes: u64) -> Result<(), BootError> {
        self.plan(ram_bytes).map(drop)
    }

    /// Puts kernel, initrd, command line and tables into RAM.
    pub fn load(&self, around: Surroundings<'_>, ram: &Ram) -> Result<Start, BootError> {
        if around.cmdline.len() > CMDLINE_BYTES {
            return Err(BootError::LongCmdline { bytes: around.cmdline.len() });
        }
        if around.cmdline.contains('\0') {
            return Err(BootError::ZeroInCmdline);
        }
        let ram_bytes = ram.bytes();
        let plan = self.plan(ram_bytes)?;
        if around.ram_is_zero && plan.as_ref().is_none_or(|plan| plan.end <= SMALL_KERNEL_END) {
            ram.begin_with_small_pages();
        }
        let ram = ram.guest();
        let start = match (&plan, &self.image) {
            (Some(plan), Source::Elf { file, .. } | Source::BzImage { file }) => {
                plan.load_kernel(file, ram, around.ram_is_zero)?;
                plan.start
            }
            (_, Source::Flat { image, load_address, entry }) => {
                ram.write_slice(image, GuestAddress(*load_address)).map_err(BootError::NoRoomForFlat)?;
                Start::Pvh { entry: *entry }
            }
            (None, _) => unreachable!("every kernel file has a plan"),
        };
        let initrd = plan.as_ref().and_then(|plan| plan.initrd.as_ref());
        if let (Some(file), Some(range)) = (&self.initrd, initrd) {
            initrd::load(file, range, ram)?;
        }
        let header = plan.as_ref().and_then(Plan::setup_header);
        tell(start, header, initrd, around, ram, ram_bytes)?;
        Ok(start)
    }

    /// Reads and checks the headers; nothing for a tiny guest.
    fn plan(&self, ram_bytes: u64) -> Result<Option<Plan>, BootError> {
        let (file, end, last_initrd_address, start, kind) = match &self.image {
            Source::Flat { .. } => return Ok(None),
            Source::Elf { file, entry } => {
                let elf = Elf::read(file)?;
                let start = elf_start(file, &elf, *entry)?;
                (file, elf.end(), initrd::LAST_ADDRESS, start, PlanKind::Elf(elf))
            }
            Source::BzImage { file } => {
                let image = BzImage::read(file)?;
                let last = u64::from(image.header.initrd_addr_max);
                (file, image.end, last, Start::Linux { entry: image.entry() }, PlanKind::BzImage(image))
            }
        };
        if end > LOW_RAM_END {
            return Err(BootError::TooLarge { path: file.path.clone(), bytes: end, most: LOW_RAM_END });
        }
        if end > ram_bytes {
            return Err(file.no_room(end, ram_bytes));
        }
        let place = |file: &BootFile| initrd::place(file, file.bytes()?, end, last_initrd_address, ram_bytes);
        let initrd = self.initrd.as_ref().map(place).transpose()?;
        Ok(Some(Plan { end, initrd, start, kind }))
    }
}

impl Source {
    fn open(path: &Path, entry: Entry) -> Result<Source, BootError> {
        let file = BootFile::open(path)?;
        let first = file.read_start::<4>(0)?;
        let setup = file.read_start::<4>(0x202)?;
        match (&first, &setup) {
            (b"\x7fELF", _) => Ok(Source::Elf { file, entry }),
            (_, b"HdrS") if entry == Entry::Pvh => Err(BootError::PvhBzImage { path: path.into() }),
            (_, b"HdrS") => Ok(Source::BzImage { file }),
            _ => Err(BootError::WrongKind { path: path.into(), what: "neither an ELF file nor a bzImage".into() }),
        }
    }
}

impl Plan {
    fn setup_header(&self) -> Option<setup_header> {
        match &self.kind {
            PlanKind::Elf(_) => None,
            PlanKind::BzImage(image) => Some(image.header),
        }
    }

    fn load_kernel(&self, file: &BootFile, ram: &GuestMemoryMmap, ram_is_zero: bool) -> Result<(), BootError> {
        let broken = |error: loader::Error| file.damaged(format!("it cannot be loaded ({error})"));
        match &self.kind {
            PlanKind::Elf(elf) => {
                if !ram_is_zero {
                    elf.segments.iter().try_for_each(|segment| {
                        clear(ram, segment.ram.start + (segment.file.end - segment.file.start)..segment.ram.end)
                    })?;
                }
                let mut reader = file.reader(elf.zeros.clone(), ram_is_zero)?;
                loader::Elf::load(ram, None, &mut reader, None).map_err(broken)?;
            }
            PlanKind::BzImage(image) => {
                let mut reader = file.reader(Vec::new(), true)?;
                loader::BzImage::load(ram, Some(GuestAddress(image.start)), &mut reader, None).map_err(broken)?;
            }
        }
        Ok(())
    }
}

/// How an ELF kernel is entered.
fn elf_start(file: &BootFile, elf: &Elf, entry: Entry) -> Result<Start, BootError> {
    match (entry, elf.pvh_entry) {
        (Entry::Pvh, Some(entry)) => Ok(Start::Pvh { entry }),
        (Entry::Auto, Some(entry)) if !elf.is_linux => Ok(Start::Pvh { entry }),
        (Entry::Pvh, None) => Err(BootError::NoPvhEntry { path: file.path.clone() }),
        (Entry::Auto | Entry::Linux, _) => Ok(Start::Linux { entry: elf.entry }),
    }
}

/// Writes what the guest finds beside its kernel.
fn tell(
    start: Start,
    header: Option<setup_header>,
    initrd: Option<&Range<u64>>,
    around: Surroundings<'_>,
    ram: &GuestMemoryMmap,
    ram_bytes: u64,
) -> Result<(), BootError> {
    let write = |bytes: &[u8], at: u64| ram.write_slice(bytes, GuestAddress(at)).map_err(BootError::NoRoomForFlat);
    let tables = acpi::tables(ACPI_TABLES.start, around.vcpus, around.pci_slots);
    write(&tables.bytes, ACPI_TABLES.start)?;
    write(&reset_vector(), RESET_VECTOR)?;
    write(around.cmdline.as_bytes(), CMDLINE)?;
    write(&[0], CMDLINE + around.cmdline.len() as u64)?;
    match start {
        Start::Pvh { .. } => pvh::write(ram, ram_bytes, initrd, tables.rsdp).map_err(BootError::StartInfo),
        Start::Linux { .. } => {
            linux::write_tables(ram).map_err(BootError::NoRoomForFlat)?;
            linux::write_zero_page(ram, ram_bytes, header, initrd, tables.rsdp).map_err(BootError::StartInfo)
        }
    }
}

fn clear(ram: &GuestMemoryMmap, range: Range<u64>) -> Result<(), BootError> {
    let mut at = range.start;
    while at < range.end {
        let count = (range.end - at).min(ZEROS.len() as u64);
        ram.write_slice(&ZEROS[..count as usize], GuestAddress(at)).map_err(BootError::NoRoomForFlat)?;
        at += count;
    }
    Ok(())
}
