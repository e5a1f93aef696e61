//! Kernel files made by hand, whole and broken.

use std::io::Write;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::vmm::memory::Ram;

const MEMORY_BYTES: u64 = 32 << 20;
const LOAD: u64 = 0x100_0000;

struct Case {
    _dir: tempfile::TempDir,
    kernel: PathBuf,
    initrd: PathBuf,
}

fn case(kernel: &[u8], initrd: &[u8]) -> Case {
    let dir = tempfile::tempdir().expect("a directory");
    let [kernel, initrd] = [("kernel", kernel), ("initrd", initrd)].map(|(name, bytes)| {
        let path = dir.path().join(name);
        std::fs::File::create(&path).and_then(|mut file| file.write_all(bytes)).expect("a file");
        path
    });
    Case { _dir: dir, kernel, initrd }
}

impl Case {
    fn open(&self, entry: Entry, with_initrd: bool) -> Result<Loader, BootError> {
        let initrd = with_initrd.then(|| self.initrd.clone());
        Loader::open(&Kernel::File { path: self.kernel.clone(), initrd, entry })
    }
}

fn load(loader: &Loader, ram: &Ram, ram_is_zero: bool) -> Result<Start, BootError> {
    loader.load(Surroundings { cmdline: "console=ttyS0", vcpus: 2, pci_slots: 3, ram_is_zero }, ram)
}

/// A vmlinux in small: code, then a segment whose second half is a `.bss` that the file carries, then memory that it
/// does not; one note; section headers.
fn vmlinux() -> Vec<u8> {
    let mut file = vec![0u8; 0x5000];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &2u16.to_le_bytes());
    put(18, &62u16.to_le_bytes());
    put(24, &LOAD.to_le_bytes());
    put(32, &64u64.to_le_bytes());
    put(40, &0x4000u64.to_le_bytes());
    put(54, &56u16.to_le_bytes());
    put(56, &3u16.to_le_bytes());
    put(58, &64u16.to_le_bytes());
    put(60, &3u16.to_le_bytes());
    let programs: [(u32, [u64; 5]); 3] = [
        (1, [0x1000, 0xffff_8000_0100_0000, LOAD, 0x1000, 0x1000]),
        (1, [0x2000, 0xffff_8000_0100_1000, LOAD + 0x1000, 0x2000, 0x3000]),
        (4, [0x200, 0, 0, 20, 20]),
    ];
    for (index, (kind, fields)) in programs.iter().enumerate() {
        let at = 64 + index * 56;
        put(at, &kind.to_le_bytes());
        fields.iter().enumerate().for_each(|(field, value)| put(at + 8 + field * 8, &value.to_le_bytes()));
    }
    put(0x200, &[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0, b'X', b'e', b'n', 0]);
    put(0x210, &(LOAD as u32 + 0x40).to_le_bytes());
    put(0x1000, &[0x90; 0x1000]);
    put(0x2000, &[0x55; 0x1000]);
    // Null, code, and a .bss at the second segment's second half.
    let sections: [(u32, [u64; 3]); 3] =
        [(0, [0, 0, 0]), (1, [2, 0xffff_8000_0100_0000, 0x2000]), (8, [2, 0xffff_8000_0100_2000, 0x1000])];
    for (index, (kind, [flags, start, bytes])) in sections.iter().enumerate() {
        let at = 0x4000 + index * 64;
        put(at + 4, &kind.to_le_bytes());
        put(at + 8, &flags.to_le_bytes());
        put(at + 16, &start.to_le_bytes());
        put(at + 32, &bytes.to_le_bytes());
    }
    file
}

fn bzimage() -> Vec<u8> {
    let mut file = vec![0u8; 0x400 + 0x1000];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]);
    put(0x1f4, &0x100u32.to_le_bytes());
    put(0x1fe, &0xaa55u16.to_le_bytes());
    put(0x201, &[0x6a]);
    put(0x202, b"HdrS");
    put(0x206, &0x020fu16.to_le_bytes());
    put(0x211, &[1]);
    put(0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(0x236, &3u16.to_le_bytes());
    put(0x258, &LOAD.to_le_bytes());
    put(0x260, &0x20_0000u32.to_le_bytes());
    put(0x400, &[0x90; 0x1000]);
    file
}

fn bytes(ram: &Ram, at: u64, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    ram.guest().read_slice(&mut bytes, GuestAddress(at)).expect("inside");
    bytes
}

fn u32_of(ram: &Ram, at: u64) -> u32 {
    ram.guest().read_obj(GuestAddress(at)).expect("inside")
}

fn u64_of(ram: &Ram, at: u64) -> u64 {
    ram.guest().read_obj(GuestAddress(at)).expect("inside")
}

#[test]
fn an_elf_kernel_lies_where_its_headers_say_and_is_entered_as_told() {
    let case = case(&vmlinux(), &[7; 5000]);
    let ram = Ram::new(MEMORY_BYTES).expect("small");
    let start = load(&case.open(Entry::Auto, true).expect("whole"), &ram, true).expect("it fits");
    assert_eq!(start, Start::Pvh { entry: LOAD + 0x40 });
    assert_eq!(bytes(&ram, LOAD, 0x1000), [0x90; 0x1000]);
    assert_eq!(bytes(&ram, LOAD + 0x1000, 0x1000), [0x55; 0x1000]);
    let initrd = MEMORY_BYTES - 0x2000;
    assert_eq!(bytes(&ram, initrd, 5000), [7; 5000], "as high as it goes, at a page");
    assert_eq!(bytes(&ram, layout::CMDLINE, 14), b"console=ttyS0\0");
    let info = layout::START_INFO;
    assert_eq!([0, 4, 12].map(|at| u32_of(&ram, info + at)), [0x336e_c578, 1, 1]);
    assert_eq!([24, 32].map(|at| u64_of(&ram, info + at)), [layout::CMDLINE, ACPI_TABLES.start]);
    let module = u64_of(&ram, info + 16);
    assert_eq!([0, 8].map(|at| u64_of(&ram, module + at)), [initrd, 5000]);
    assert_eq!(bytes(&ram, ACPI_TABLES.start, 8), b"RSD PTR ");

    let start = load(&case.open(Entry::Linux, true).expect("whole"), &ram, false).expect("it fits");
    assert_eq!(start, Start::Linux { entry: LOAD });
    let page = layout::ZERO_PAGE;
    assert_eq!(
        [0x202, 0x218, 0x21c, 0x228].map(|at| u32_of(&ram, page + at)),
        [bzimage::MAGIC, initrd as u32, 5000, layout::CMDLINE as u32]
    );
    assert_eq!(u64_of(&ram, page + 0x70), ACPI_TABLES.start);
}

#[test]
fn a_reset_finds_the_kernel_as_at_first_and_other_ram_as_it_was() {
    let case = case(&vmlinux(), b"x");
    let loader = case.open(Entry::Auto, false).expect("whole");
    let ram = Ram::new(MEMORY_BYTES).expect("small");
    ram.guest().write_slice(&[0xee; 0x8000], GuestAddress(LOAD)).expect("inside");
    std::fs::remove_file(&case.kernel).expect("it was there: the machine keeps it open");
    load(&loader, &ram, false).expect("it fits");
    assert_eq!(bytes(&ram, LOAD + 0x1000, 0x1000), [0x55; 0x1000]);
    assert_eq!(bytes(&ram, LOAD + 0x2000, 0x2000), [0; 0x2000], ".bss, in the file and past it");
    assert_eq!(bytes(&ram, LOAD + 0x4000, 0x4000), [0xee; 0x4000], "not the kernel's");
}

#[test]
fn bss_that_the_file_carries_is_not_read() {
    let mut file = vmlinux();
    file[0x3000..0x4000].fill(0x77);
    let case = case(&file, b"x");
    let ram = Ram::new(MEMORY_BYTES).expect("small");
    load(&case.open(Entry::Auto, false).expect("whole"), &ram, true).expect("it fits");
    assert_eq!(bytes(&ram, LOAD + 0x2000, 0x1000), [0; 0x1000]);
    // Without section headers all of it is.
    file[60] = 0;
    std::fs::write(&case.kernel, &file).expect("written");
    load(&case.open(Entry::Auto, false).expect("whole"), &ram, true).expect("it fits");
    assert_eq!(bytes(&ram, LOAD + 0x2000, 0x1000), [0x77; 0x1000]);
}

#[test]
fn a_bzimage_is_entered_by_its_64_bit_entry() {
    let case = case(&bzimage(), &[7; 4096]);
    let ram = Ram::new(MEMORY_BYTES).expect("small");
    for entry in [Entry::Auto, Entry::Linux] {
        let start = load(&case.open(entry, true).expect("whole"), &ram, true).expect("it fits");
        assert_eq!(start, Start::Linux { entry: LOAD + 0x200 });
        assert_eq!(bytes(&ram, LOAD, 0x1000), [0x90; 0x1000]);
        assert_eq!(u32_of(&ram, layout::ZERO_PAGE + 0x218), (MEMORY_BYTES - 4096) as u32);
        assert_eq!(bytes(&ram, layout::ZERO_PAGE + 0x210, 1), [0xff], "a loader without a number");
    }
    assert!(matches!(case.open(Entry::Pvh, true), Err(BootError::PvhBzImage { .. })));
}

#[test]
fn what_does_not_fit_says_what_would() {
    let case = case(&vmlinux(), &vec![1; 20 << 20]);
    let loader = case.open(Entry::Auto, true).expect("whole");
    let Err(BootError::NoRoom { needed_mib, has_mib, .. }) = loader.check(32 << 20) else { panic!("it fits") };
    assert_eq!((needed_mib, has_mib), (37, 32));
    loader.check(needed_mib << 20).expect("it said so");
    let without = case.open(Entry::Auto, false).expect("whole");
    assert!(matches!(without.check(16 << 20), Err(BootError::NoRoom { needed_mib: 17, .. })));
}

/// Changes eight bytes of a kernel and says which error that is.
fn broken(whole: &[u8], at: usize, bytes: &[u8]) -> BootError {
    let mut file = whole.to_vec();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    let case = case(&file, b"x");
    case.open(Entry::Auto, false).and_then(|loader| loader.check(MEMORY_BYTES)).expect_err("broken")
}

#[test]
fn each_break_is_named() {
    let words = |at: usize, bytes: &[u8]| broken(&vmlinux(), at, bytes).to_string();
    let far = u64::MAX.to_le_bytes();
    for (at, bytes, said) in [
        (0, &b"\x7fELG"[..], "neither an ELF"),
        (4, &[1], "64-bit"),
        (18, &[3, 0], "x86-64"),
        (16, &[1], "linked"),
        (24, &[0; 8], "entry"),
        (32, &far, "program headers"),
        (56, &[0, 0], "program headers"),
        (56, &[0xff, 0xff], "program headers"),
        (64 + 8, &far, "2^64"),
        (64 + 24, &far, "2^64"),
        (64 + 24, &[0; 8], "below 1 MiB"),
        (64 + 32, &0x10_0000u64.to_le_bytes(), "more of a segment"),
        (64 + 56 + 24, &(LOAD + 0xfff).to_le_bytes(), "same place"),
        (64 + 56 + 8, &0x4000u64.to_le_bytes(), "would end at"),
        (64 + 56 + 40, &(4u64 << 30).to_le_bytes(), "below 3 GiB"),
        (64 + 56 + 40, &(1u64 << 30).to_le_bytes(), "at least"),
        (64 + 112 + 32, &far, "too long"),
        (0x210, &[0; 4], "entry"),
    ] {
        let words = words(at, bytes);
        assert!(words.contains(said), "{at:#x}: {words}");
    }
    // A second note, which nobody needs: the loader reads it all the same.
    let mut noted = vmlinux();
    noted[56] = 4;
    noted[64 + 168] = 4;
    let words = broken(&noted, 64 + 168 + 32, &(1u64 << 40).to_le_bytes()).to_string();
    assert!(words.contains("too long"), "{words}");
    let words = |at: usize, bytes: &[u8]| broken(&bzimage(), at, bytes).to_string();
    for (at, bytes, said) in [
        (0x1fe, &[0, 0][..], "setup header"),
        (0x206, &[0x0b, 2], "64-bit entry"),
        (0x211, &[0], "64-bit entry"),
        (0x236, &[0], "64-bit entry"),
        (0x1f1, &[200], "header says"),
        (0x1f4, &[0xff; 4], "header says"),
        (0x258, &[0; 8], "below 1 MiB"),
        (0x258, &far, "2^64"),
        (0x260, &[0xff; 4], "below 3 GiB"),
    ] {
        let words = words(at, bytes);
        assert!(words.contains(said), "{at:#x}: {words}");
    }
    assert!(matches!(Loader::open(&file_kernel(Path::new("/"))), Err(BootError::NoFile { .. })));
    assert!(matches!(Loader::open(&file_kernel(Path::new("/dev/null"))), Err(BootError::NoFile { .. })));
    let empty = case(&[], b"");
    assert!(matches!(empty.open(Entry::Auto, false), Err(BootError::WrongKind { .. })));
    let no_initrd = case(&vmlinux(), b"");
    let error = no_initrd.open(Entry::Auto, true).and_then(|loader| loader.check(MEMORY_BYTES));
    assert!(matches!(error, Err(BootError::Damaged { .. })));
}

fn file_kernel(path: &Path) -> Kernel {
    Kernel::File { path: path.into(), initrd: None, entry: Entry::Auto }
}

#[test]
fn cut_off_anywhere_it_is_an_error_or_whole() {
    let ram = Ram::new(MEMORY_BYTES).expect("small");
    for (whole, needed) in [(vmlinux(), 0x4000), (bzimage(), 0x1400 - 15)] {
        for end in (0..whole.len()).step_by(61) {
            let case = case(&whole[..end], b"x");
            let result = case.open(Entry::Auto, false).and_then(|loader| load(&loader, &ram, true));
            assert_eq!(result.is_ok(), end >= needed, "{end:#x}: {result:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn whatever_a_header_says_there_is_an_answer(
        elf in any::<bool>(),
        changes in prop::collection::vec((0usize..0x280, any::<u8>()), 1..12),
        ram_is_zero in any::<bool>(),
    ) {
        let mut file = if elf { vmlinux() } else { bzimage() };
        for (at, byte) in changes {
            file[at] = byte;
        }
        let case = case(&file, b"x");
        let ram = Ram::new(MEMORY_BYTES).expect("small");
        if let Ok(loader) = case.open(Entry::Auto, true) {
            let _ = load(&loader, &ram, ram_is_zero);
        }
    }
}
