//! Kernel files made by hand.

use std::path::{Path, PathBuf};

const LOAD: u32 = 0x10_0000;

/// Raises RTS, prints `>`, then says back what comes by COM1, until a `q`: powers off. 32-bit code, entered by PVH.
#[rustfmt::skip]
const ECHO: &[u8] = &[
    0x66, 0xba, 0xfc, 0x03, 0xb0, 0x03, 0xee,             // COM1's modem control: DTR, RTS
    0x66, 0xba, 0xf8, 0x03, 0xb0, b'>', 0xee,             // >
    0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xf7, // wait for a byte
    0x66, 0xba, 0xf8, 0x03, 0xec, 0xee,                   // take it, send it
    0x3c, b'q', 0x75, 0xed,                               // q? else the next
    0x66, 0xba, 0x04, 0x06, 0x66, 0xb8, 0x00, 0x34, 0x66, 0xef, // S5
    0xfa, 0xf4, 0xeb, 0xfc,                               // cli; hlt
];

/// An ELF file with this code and a PVH entry to its first byte.
pub fn elf(code: &[u8]) -> Vec<u8> {
    let mut file = vec![0u8; 0x1000];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &2u16.to_le_bytes());
    put(18, &62u16.to_le_bytes());
    put(20, &1u32.to_le_bytes());
    put(24, &u64::from(LOAD).to_le_bytes());
    put(32, &64u64.to_le_bytes());
    put(52, &64u16.to_le_bytes());
    put(54, &56u16.to_le_bytes());
    put(56, &2u16.to_le_bytes());
    let (load, bytes) = (u64::from(LOAD), code.len() as u64);
    for (index, (kind, fields)) in
        [(1u32, [0x800, load, load, bytes, bytes]), (4, [0x200, 0, 0, 20, 20])].iter().enumerate()
    {
        put(64 + index * 56, &kind.to_le_bytes());
        for (field, value) in fields.iter().enumerate() {
            put(64 + index * 56 + 8 + field * 8, &value.to_le_bytes());
        }
    }
    put(0x200, &[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0, b'X', b'e', b'n', 0]);
    put(0x210, &LOAD.to_le_bytes());
    put(0x800, code);
    file
}

/// The guest that says back what is typed, as a file in `dir`.
pub fn echo(dir: &Path) -> PathBuf {
    let path = dir.join("echo");
    std::fs::write(&path, elf(ECHO)).expect("a file");
    path
}
