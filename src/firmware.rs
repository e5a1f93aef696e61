//! The tiny guests of `firmware/`, carried in the binary and found by name.
//!
//! rustc assembles them: one blob, loaded at [`LOAD_ADDRESS`] and entered as a PVH kernel is (32-bit
//! flat protected mode, paging off, `%ebx` at the start info). It begins with its table of contents:
//! per guest 16 bytes of name, padded with zeros, and the 32-bit offset of its entry; after an empty one, those that
//! only tests start.

use std::arch::global_asm;

global_asm!(
    include_str!("../firmware/entry.inc"),
    include_str!("../firmware/start.S"),
    include_str!("../firmware/runtime.S"),
    include_str!("../firmware/text.S"),
    include_str!("../firmware/disk.S"),
    include_str!("../firmware/count.S"),
    include_str!("../firmware/pet.S"),
    include_str!("../firmware/mute.S"),
    include_str!("../firmware/hang.S"),
    include_str!("../firmware/triple_fault.S"),
    include_str!("../firmware/panic.S"),
    include_str!("../firmware/reset.S"),
    include_str!("../firmware/off.S"),
    include_str!("../firmware/wild.S"),
    include_str!("../firmware/fuzz.S"),
    include_str!("../firmware/end.S"),
    options(att_syntax)
);

unsafe extern "C" {
    static dvm_firmware_start: u8;
    static dvm_firmware_end: u8;
}

/// Guest-physical address at which the blob has to lie.
pub const LOAD_ADDRESS: u64 = 0x10_0000;
/// Guests use RAM up to here: blob, variables, and the megabyte that `count` reads its disk into.
pub const MEMORY_BYTES: u64 = 0x40_0000;

const NAME_BYTES: usize = 16;
const ENTRY_BYTES: usize = NAME_BYTES + 4;

/// One tiny guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guest {
    /// The name behind `builtin:`.
    pub name: &'static str,
    /// Guest-physical address of its first instruction.
    pub entry: u64,
}

/// The code of all tiny guests, to be copied to [`LOAD_ADDRESS`].
pub fn blob() -> &'static [u8] {
    let start = &raw const dvm_firmware_start;
    let end = &raw const dvm_firmware_end;
    // SAFETY: both symbols stand in one read-only section, start before end; nobody writes there.
    unsafe { std::slice::from_raw_parts(start, end.offset_from_unsigned(start)) }
}

/// All tiny guests that users are told of.
pub fn guests() -> impl Iterator<Item = Guest> {
    entries().map_while(guest)
}

/// The tiny guest called `name`; one that users are not told of, too.
pub fn find(name: &str) -> Option<Guest> {
    let hidden = entries().skip_while(|entry| guest(entry).is_some()).skip(1).map_while(guest);
    guests().chain(hidden).find(|guest| guest.name == name)
}

/// The table of contents, and what lies behind it.
fn entries() -> impl Iterator<Item = &'static [u8]> {
    blob().chunks_exact(ENTRY_BYTES)
}

/// The guest of an entry; none at the end of a list.
fn guest(entry: &'static [u8]) -> Option<Guest> {
    let (name, offset) = entry.split_at(NAME_BYTES);
    let length = name.iter().position(|byte| *byte == 0).unwrap_or(NAME_BYTES);
    let name = std::str::from_utf8(&name[..length]).ok().filter(|name| !name.is_empty())?;
    let offset = u32::from_le_bytes(offset.try_into().ok()?);
    Some(Guest { name, entry: LOAD_ADDRESS + u64::from(offset) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_every_guest_of_the_command_line() {
        let names: Vec<_> = guests().map(|guest| guest.name).collect();
        let due = ["count", "pet", "hang", "triple-fault", "panic", "mute", "reset", "off", "wild"];
        assert_eq!(names, due);
    }

    #[test]
    fn every_entry_lies_in_the_blob_and_begins_with_the_sign_of_life() {
        for guest in guests().chain(find("fuzz")) {
            let at = (guest.entry - LOAD_ADDRESS) as usize;
            assert_eq!(blob()[at..at + 2], [0xe6, 0x80], "{}: outb %al, $0x80", guest.name);
        }
        assert!(blob().len() as u64 + LOAD_ADDRESS < 0x20_0000, "the guests' variables begin at 2 MiB");
        assert_eq!(find("nobody"), None);
    }
}
