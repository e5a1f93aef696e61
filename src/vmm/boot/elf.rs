//! An ELF kernel (vmlinux): what its headers say, checked before anything of it is believed.
//!
//! ```text
//!   ELF header ─▶ program headers ─▶ LOAD   bytes of the file, to a physical address
//!                                 └▶ NOTE   Xen's PHYS32_ENTRY: where PVH enters (Xen, docs/misc/pvh.pandoc);
//!                                           its GUEST_OS: whether this is Linux
//!              ─▶ section headers ─▶ NOBITS inside a LOAD, and Linux's scratch area: zeros that need not be read
//! ```
//!
//! A vmlinux carries its `.bss` and its scratch area as zeros in the file, a third of Debian's: what the section headers
//! say of that saves reading and touching it. Without section headers all is read.

use std::ops::Range;

use super::BootError;
use super::file::BootFile;
use super::layout::KERNEL_FROM;

const HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;
const SECTION_HEADER_BYTES: usize = 64;
/// A kernel has five or so; more than this is no kernel.
const MOST_PROGRAM_HEADERS: usize = 64;
const MOST_SECTION_HEADERS: usize = 512;
const MOST_NOTE_BYTES: u64 = 64 << 10;

const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const TYPE_EXECUTABLE: u16 = 2;
const TYPE_SHARED: u16 = 3;
const MACHINE_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const SHT_NOBITS: u32 = 8;
const SHF_ALLOC: u64 = 2;
const SHF_TLS: u64 = 1 << 10;
/// What Linux uses while it encrypts its memory, and fills before it reads (arch/x86/kernel/vmlinux.lds.S).
const SCRATCH: &[u8] = b".init.scratch\0";
const MOST_NAME_BYTES: u64 = 64 << 10;
const XEN_GUEST_OS: u32 = 6;
const XEN_PHYS32_ENTRY: u32 = 18;

/// One piece of the file that goes into RAM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    /// Where it lies in the file.
    pub file: Range<u64>,
    /// Where it goes, guest-physical; longer than what the file holds: zeros follow.
    pub ram: Range<u64>,
    virtual_start: u64,
}

/// What an ELF kernel's headers say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Elf {
    /// What is loaded, in the file's order; at least one.
    pub segments: Vec<Segment>,
    /// Ranges of the file that are zero, in order and apart.
    pub zeros: Vec<Range<u64>>,
    /// The 64-bit entry, guest-physical.
    pub entry: u64,
    /// The PVH entry, guest-physical.
    pub pvh_entry: Option<u64>,
    /// True when it says that it is Linux: its 64-bit entry is then Linux's.
    pub is_linux: bool,
}

/// What the notes say.
#[derive(Debug, Clone, Copy, Default)]
struct Notes {
    pvh_entry: Option<u64>,
    is_linux: bool,
}

impl Elf {
    /// Reads and checks the headers.
    pub fn read(file: &BootFile) -> Result<Elf, BootError> {
        let file_bytes = file.bytes()?;
        let header = file.read(file_bytes, 0, HEADER_BYTES, "header")?;
        check_kind(file, &header)?;
        let count = usize::from(u16_at(&header, 56));
        if count == 0 || count > MOST_PROGRAM_HEADERS || usize::from(u16_at(&header, 54)) != PROGRAM_HEADER_BYTES {
            return Err(file.damaged("its program headers are not those of a kernel"));
        }
        let table = file.read(file_bytes, u64_at(&header, 32), count * PROGRAM_HEADER_BYTES, "program headers")?;
        let mut segments = Vec::new();
        let mut notes = Notes::default();
        for program in table.chunks_exact(PROGRAM_HEADER_BYTES) {
            match u32_at(program, 0) {
                PT_LOAD => segments.extend(segment(file, file_bytes, program)?),
                PT_NOTE => read_notes(file, file_bytes, program, &mut notes)?,
                _ => {}
            }
        }
        if segments.is_empty() {
            return Err(file.damaged("it has nothing to load"));
        }
        if overlap(&segments) {
            return Err(file.damaged("two of its segments go to the same place"));
        }
        let zeros = zeros(file, file_bytes, &header, &segments);
        let Notes { pvh_entry, is_linux } = notes;
        let elf = Elf { segments, zeros, entry: u64_at(&header, 24), pvh_entry, is_linux };
        match elf.holds(elf.entry) && elf.pvh_entry.is_none_or(|entry| elf.holds(entry)) {
            true => Ok(elf),
            false => Err(file.damaged("its entry lies outside of what it loads")),
        }
    }

    /// One past the last byte of RAM that it takes.
    pub fn end(&self) -> u64 {
        self.segments.iter().map(|segment| segment.ram.end).max().unwrap_or_default()
    }

    fn holds(&self, address: u64) -> bool {
        self.segments.iter().any(|segment| segment.ram.contains(&address))
    }
}

fn check_kind(file: &BootFile, header: &[u8]) -> Result<(), BootError> {
    let wrong = |what: &str| Err(BootError::WrongKind { path: file.path.clone(), what: what.into() });
    if header[4] != CLASS_64 {
        return wrong("an ELF file, but not a 64-bit one");
    }
    if header[5] != LITTLE_ENDIAN || u16_at(header, 18) != MACHINE_X86_64 {
        return wrong("an ELF file, but not for x86-64");
    }
    if !matches!(u16_at(header, 16), TYPE_EXECUTABLE | TYPE_SHARED) {
        return wrong("an ELF file, but not linked to run");
    }
    Ok(())
}

/// The piece that a LOAD header names; none for an empty one.
fn segment(file: &BootFile, file_bytes: u64, program: &[u8]) -> Result<Option<Segment>, BootError> {
    let [offset, virtual_start, start, in_file, in_ram] = [8, 16, 24, 32, 40].map(|at| u64_at(program, at));
    if in_ram == 0 && in_file == 0 {
        return Ok(None);
    }
    let (Some(file_end), Some(end)) = (offset.checked_add(in_file), start.checked_add(in_ram)) else {
        return Err(file.damaged("a program header leads past 2^64"));
    };
    if in_file > in_ram {
        return Err(file.damaged("it holds more of a segment than that segment has"));
    }
    if file_end > file_bytes {
        return Err(file.damaged(format!("it has {file_bytes} bytes, and a segment of it would end at {file_end}")));
    }
    if start < KERNEL_FROM {
        let what = format!("an ELF file that loads to {start:#x}, below 1 MiB, and no kernel does");
        return Err(BootError::WrongKind { path: file.path.clone(), what });
    }
    Ok(Some(Segment { file: offset..file_end, ram: start..end, virtual_start }))
}

/// True when two of them have a byte of RAM in common.
fn overlap(segments: &[Segment]) -> bool {
    let mut places: Vec<_> = segments.iter().map(|segment| &segment.ram).collect();
    places.sort_by_key(|place| place.start);
    places.windows(2).any(|pair| pair[0].end > pair[1].start)
}

/// Xen's notes among those that a NOTE header names.
fn read_notes(file: &BootFile, file_bytes: u64, program: &[u8], found: &mut Notes) -> Result<(), BootError> {
    let (offset, bytes) = (u64_at(program, 8), u64_at(program, 32));
    if bytes > MOST_NOTE_BYTES {
        return Err(file.damaged("its notes are too long"));
    }
    let notes = file.read(file_bytes, offset, bytes as usize, "notes")?;
    let mut rest = notes.as_slice();
    while let Some((head, body)) = rest.split_at_checked(12) {
        let [name_bytes, value_bytes] = [0, 4].map(|at| (u32_at(head, at) as usize).next_multiple_of(4));
        let Some((name, body)) = body.split_at_checked(name_bytes) else { break };
        let Some((value, next)) = body.split_at_checked(value_bytes) else { break };
        match u32_at(head, 8) {
            XEN_PHYS32_ENTRY if name == b"Xen\0" && value.len() >= 4 => {
                found.pvh_entry = Some(u64::from(u32_at(value, 0)));
            }
            XEN_GUEST_OS if name == b"Xen\0" => found.is_linux = value.starts_with(b"linux\0"),
            _ => {}
        }
        rest = next;
    }
    Ok(())
}

/// Ranges of the file that stand for sections without bits, and for Linux's scratch area. Whatever is odd about the section headers, nothing is
/// skipped: they are not needed to load a kernel.
fn zeros(file: &BootFile, file_bytes: u64, header: &[u8], segments: &[Segment]) -> Vec<Range<u64>> {
    let count = usize::from(u16_at(header, 60));
    if usize::from(u16_at(header, 58)) != SECTION_HEADER_BYTES || !(1..=MOST_SECTION_HEADERS).contains(&count) {
        return Vec::new();
    }
    let Ok(table) = file.read(file_bytes, u64_at(header, 40), count * SECTION_HEADER_BYTES, "section headers") else {
        return Vec::new();
    };
    let names = section_names(file, file_bytes, header, &table);
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for section in table.chunks_exact(SECTION_HEADER_BYTES) {
        let [flags, start, bytes] = [8, 16, 32].map(|at| u64_at(section, at));
        if flags & SHF_ALLOC == 0 || bytes == 0 {
            continue;
        }
        let Some(range) = start.checked_add(bytes).map(|end| start..end) else { return Vec::new() };
        match u32_at(section, 4) {
            SHT_NOBITS if flags & SHF_TLS == 0 => without.push(range),
            SHT_NOBITS => {}
            _ if names.get(u32_at(section, 0) as usize..).is_some_and(|name| name.starts_with(SCRATCH)) => {
                without.push(range);
            }
            _ => with.push(range),
        }
    }
    without.retain(|zero| with.iter().all(|range| range.end <= zero.start || zero.end <= range.start));
    let mut zeros: Vec<_> = without.iter().filter_map(|zero| in_file(zero, segments)).collect();
    zeros.sort_by_key(|range| range.start);
    let apart = zeros.windows(2).all(|pair| pair[0].end <= pair[1].start);
    if apart { zeros } else { Vec::new() }
}

/// The table of section names; empty when there is none.
fn section_names(file: &BootFile, file_bytes: u64, header: &[u8], table: &[u8]) -> Vec<u8> {
    let at = usize::from(u16_at(header, 62)) * SECTION_HEADER_BYTES;
    let Some(section) = table.get(at..at + SECTION_HEADER_BYTES) else { return Vec::new() };
    let (offset, bytes) = (u64_at(section, 24), u64_at(section, 32));
    if bytes > MOST_NAME_BYTES {
        return Vec::new();
    }
    file.read(file_bytes, offset, bytes as usize, "section names").unwrap_or_default()
}

/// Where a range of virtual addresses lies in the file.
fn in_file(range: &Range<u64>, segments: &[Segment]) -> Option<Range<u64>> {
    segments.iter().find_map(|segment| {
        let start = segment.file.start.checked_add(range.start.checked_sub(segment.virtual_start)?)?;
        let end = start.checked_add(range.end - range.start)?;
        (end <= segment.file.end).then_some(start..end)
    })
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
