//! What is booted: an initial RAM disk whose init prints a line, and a guest of a few instructions.

use std::fs;
use std::io;
use std::path::Path;

/// What each prints, the initial RAM disk's init first.
pub const MARKERS: [&[u8]; 2] = [b"GUEST-INIT\n", b"TINY-GUEST\n"];
const INITRD_BYTES: usize = 800_000;

/// Writes both into `directory`.
pub fn write(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    fs::write(directory.join("init.cpio"), initrd())?;
    fs::write(directory.join("tiny.elf"), tiny_guest())
}

fn initrd() -> Vec<u8> {
    let mut out = Vec::new();
    entry(&mut out, "init", 0o100_755, &init_program());
    // The rest of the 0.8 MB: a file of bytes that do not repeat.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let filler: Vec<u8> = (0..(INITRD_BYTES - out.len()) / 8)
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .collect();
    entry(&mut out, "filler", 0o100_644, &filler);
    entry(&mut out, "TRAILER!!!", 0, &[]);
    out
}

/// One file of a `newc` archive (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).
fn entry(out: &mut Vec<u8>, name: &str, mode: u32, content: &[u8]) {
    let header = [0, mode, 0, 0, 1, 0, content.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
    out.extend_from_slice(b"070701");
    header.iter().for_each(|field| out.extend_from_slice(format!("{field:08x}").as_bytes()));
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// A static program that writes its marker on standard output and sleeps.
fn init_program() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const CODE_AT: usize = 0x78;
    let marker = MARKERS[0];
    let mut code = vec![0xb8, 1, 0, 0, 0, 0xbf, 1, 0, 0, 0, 0xbe]; // mov $1, %eax; mov $1, %edi; mov $text, %esi
    let text_at = CODE_AT + 31;
    code.extend_from_slice(&(BASE as u32 + text_at as u32).to_le_bytes());
    code.push(0xba); // mov $length, %edx
    code.extend_from_slice(&(marker.len() as u32).to_le_bytes());
    code.extend_from_slice(&[0x0f, 0x05]); // syscall: write
    code.extend_from_slice(&[0xb8, 34, 0, 0, 0, 0x0f, 0x05]); // 1: mov $34, %eax; syscall: pause
    code.extend_from_slice(&[0xeb, 0xf7]); // jmp 1b
    code.resize(31, 0x90);
    code.extend_from_slice(marker);
    let whole = (CODE_AT + code.len()) as u64;
    let mut file = elf_header(BASE + CODE_AT as u64, 1);
    file.extend(program_header(1, 5, 0, BASE, whole));
    file.extend(code);
    file
}

/// A guest that writes its marker to COM1 and halts.
fn tiny_guest() -> Vec<u8> {
    const BASE: u64 = 0x10_0000;
    const LOAD_AT: usize = 0x1000;
    const NOTE_AT: usize = 0x200;
    let marker = MARKERS[1];
    let mut code = vec![0x66, 0xba, 0xf8, 0x03, 0xbe]; // mov $0x3f8, %dx; mov $text, %esi
    let text_at = 19;
    code.extend_from_slice(&(BASE as u32 + text_at).to_le_bytes());
    code.push(0xb9); // mov $length, %ecx
    code.extend_from_slice(&(marker.len() as u32).to_le_bytes());
    code.extend_from_slice(&[0xf3, 0x6e]); // rep outsb
    code.extend_from_slice(&[0xf4, 0xeb, 0xfd]); // 1: hlt; jmp 1b
    assert_eq!(code.len(), text_at as usize);
    code.extend_from_slice(marker);
    let mut note = vec![4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0, b'X', b'e', b'n', 0];
    note.extend_from_slice(&(BASE as u32).to_le_bytes());
    let mut file = elf_header(BASE, 2);
    file.extend(program_header(1, 7, LOAD_AT as u64, BASE, code.len() as u64));
    let mut header = program_header(4, 4, NOTE_AT as u64, 0, note.len() as u64);
    header[48..56].copy_from_slice(&4u64.to_le_bytes());
    file.extend(header);
    file.resize(NOTE_AT, 0);
    file.extend(note);
    file.resize(LOAD_AT, 0);
    file.extend(code);
    file
}

fn elf_header(entry: u64, programs: u16) -> Vec<u8> {
    let mut header = b"\x7fELF\x02\x01\x01".to_vec();
    header.resize(16, 0);
    header.extend_from_slice(&[2, 0, 62, 0, 1, 0, 0, 0]);
    header.extend_from_slice(&entry.to_le_bytes());
    header.extend_from_slice(&64u64.to_le_bytes());
    header.extend_from_slice(&[0; 12]);
    for field in [64, 56, programs, 64, 0, 0] {
        header.extend_from_slice(&field.to_le_bytes());
    }
    header
}

fn program_header(kind: u32, flags: u32, offset: u64, address: u64, bytes: u64) -> Vec<u8> {
    let mut header = Vec::new();
    header.extend_from_slice(&kind.to_le_bytes());
    header.extend_from_slice(&flags.to_le_bytes());
    for field in [offset, address, address, bytes, bytes, 0x1000] {
        header.extend_from_slice(&field.to_le_bytes());
    }
    header
}
