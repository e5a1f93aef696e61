//! What lies where a PC's processor starts: whoever jumps there asks for a reset.
//!
//! ```text
//!   Linux, told that the machine is hardware-reduced: EFI? there is none ──▶ BIOS: real mode, far jump to ffff:0000
//! ```
//!
//! That is the way Linux takes when the command line names no other (`arch/x86/kernel/reboot.c`, `BOOT_BIOS`). There is
//! no BIOS; these few instructions write the ACPI reset register for it.

use crate::devices::reset::{RESET_REGISTER, RESET_VALUE};

/// Guest-physical address of ffff:0000, the last 16 bytes below 1 MiB.
pub(super) const RESET_VECTOR: u64 = 0xf_fff0;

/// `mov $RESET_REGISTER, %dx; mov $RESET_VALUE, %al; out %al, %dx; cli; 1: hlt; jmp 1b`, for real mode.
pub(super) fn reset_vector() -> [u8; 10] {
    let [low, high] = RESET_REGISTER.to_le_bytes();
    [0xba, low, high, 0xb0, RESET_VALUE, 0xee, 0xfa, 0xf4, 0xeb, 0xfd]
}
