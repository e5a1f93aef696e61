# The blob begins with its table of contents.
    .pushsection .rodata.dvm_firmware, "a", @progbits
    .balign 16
    .globl dvm_firmware_start
    .hidden dvm_firmware_start
    .globl dvm_firmware_end
    .hidden dvm_firmware_end
    .code32
dvm_firmware_start:
    DVM_ENTRY "count", dvm_guest_count
    DVM_ENTRY "pet", dvm_guest_pet
    DVM_ENTRY "hang", dvm_guest_hang
    DVM_ENTRY "triple-fault", dvm_guest_triple_fault
    DVM_ENTRY "panic", dvm_guest_panic
    DVM_ENTRY "mute", dvm_guest_mute
    DVM_ENTRY "reset", dvm_guest_reset
    DVM_ENTRY "off", dvm_guest_off
    DVM_ENTRY "wild", dvm_guest_wild
    .fill 20, 1, 0                          # the end of those that users are told of
    DVM_ENTRY "fuzz", dvm_guest_fuzz
    .fill 20, 1, 0                          # the table's end
