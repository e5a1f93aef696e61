# fuzz: throws random accesses at every register and queue of the board, then powers off.
#
#     seed=N (1)   what it does follows from this number alone
#     count=N (100000)   accesses that leave the guest, about
#
# It goes to 64-bit mode, for accesses of 8 bytes. What device writes may hit is in its arena; they never
# reach its own code and variables. Left out: what ends a machine by design (resets, power-off, a panic),
# messages that are no plain interrupts, and the chips that KVM itself plays. Needs 16 MiB of RAM.
#
#     0x0030_0000  page tables        0x0080_0000  virtqueues, 16 KiB each      0x0090_0000  buffers
#
# In 64-bit mode: %r12d accesses left, %r13 the random state, %r14 the watchdog's entry in the table of PCI
# functions, %r15d how many entries that has: ECAM address, BAR 0, kind (1 virtio, 2 watchdog, 3 pvpanic),
# MSI-X capability.

.set DVM_FUZZ_SEED,      0x60       # variables, from %ebp
.set DVM_FUZZ_COUNT,     0x64
.set DVM_FUZZ_FUNCTIONS, 0x68       # how many PCI functions there are
.set DVM_FUZZ_PCI,       0x800      # 16 bytes each
.set DVM_FUZZ_TABLES,    0x00300000
.set DVM_FUZZ_QUEUES,    0x00800000
.set DVM_FUZZ_BUFFERS,   0x00900000
.set DVM_ECAM,           0xe0000000

dvm_guest_fuzz:
    outb %al, $0x80
    cld
    movl $DVM_DATA, %ebp
    leal DVM_STACK_TOP(%ebp), %esp
    movl 24(%ebx), %eax
    movl %eax, DVM_CMDLINE(%ebp)
    DVM_OPTION "seed=", 1
    movl %eax, DVM_FUZZ_SEED(%ebp)
    DVM_OPTION "count=", 100000
    movl %eax, DVM_FUZZ_COUNT(%ebp)
    call dvm_fuzz_scan
    call dvm_fuzz_map
    movl $0x0000ffff, DVM_GDT+8(%ebp)
    movl $0x00af9b00, DVM_GDT+12(%ebp)      # 64-bit code
    movl $0x0000ffff, DVM_GDT+16(%ebp)
    movl $0x00cf9300, DVM_GDT+20(%ebp)
    movw $23, DVM_POINTER(%ebp)
    leal DVM_GDT(%ebp), %eax
    movl %eax, DVM_POINTER+2(%ebp)
    lgdt DVM_POINTER(%ebp)
    movl %cr4, %eax
    orl $0x20, %eax                         # PAE
    movl %eax, %cr4
    movl $DVM_FUZZ_TABLES, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x100, %eax                        # EFER.LME
    wrmsr
    movl %cr0, %eax
    orl $0x80000000, %eax
    movl %eax, %cr0
    DVM_AT dvm_fuzz_begin, %eax
    pushl $8
    pushl %eax
    lret

# The table of PCI functions; all of them decode and master.
dvm_fuzz_scan:
    leal DVM_FUZZ_PCI(%ebp), %edi
    movl $0x80000000, %ebx
1:  movl %ebx, %eax
    call dvm_pci_read
    cmpw $0xffff, %ax
    je 6f
    movl $0, 8(%edi)
    movl %eax, %esi
    cmpw $0x1af4, %si
    jne 2f
    movb $1, 8(%edi)
2:  cmpl $0x25ab8086, %esi
    jne 3f
    movb $2, 8(%edi)
3:  cmpl $0x00111b36, %esi
    jne 4f
    movb $3, 8(%edi)
4:  movl %ebx, %eax
    andl $0xf800, %eax
    shll $4, %eax
    addl $DVM_ECAM, %eax
    movl %eax, (%edi)
    leal 0x10(%ebx), %eax
    call dvm_pci_read
    andl $0xfffffff0, %eax
    movl %eax, 4(%edi)
    leal 4(%ebx), %eax
    movl $7, %ecx
    call dvm_pci_write
    leal 0x34(%ebx), %eax
    call dvm_pci_read
5:  andl $0xfc, %eax                        # each capability in turn
    jz 7f
    movl %eax, %esi
    addl %ebx, %eax
    call dvm_pci_read
    cmpb $0x11, %al
    je 8f
    shrl $8, %eax
    jmp 5b
8:  movl %esi, %eax
    movb %al, 9(%edi)
7:  addl $16, %edi
6:  addl $0x800, %ebx
    cmpl $0x80010000, %ebx
    jb 1b
    subl %ebp, %edi
    subl $DVM_FUZZ_PCI, %edi
    shrl $4, %edi
    movl %edi, DVM_FUZZ_FUNCTIONS(%ebp)
    ret

# Pages of 2 MiB: 4 GiB as they are, and a gigabyte of the 64-bit PCI window.
dvm_fuzz_map:
    movl $DVM_FUZZ_TABLES, %edi
    xorl %eax, %eax
    movl $0x800, %ecx
    rep stosl
    movl $(DVM_FUZZ_TABLES + 0x1003), DVM_FUZZ_TABLES
    movl $(DVM_FUZZ_TABLES + 0x2003), DVM_FUZZ_TABLES + 0x1000
    movl $(DVM_FUZZ_TABLES + 0x3003), DVM_FUZZ_TABLES + 0x1008
    movl $(DVM_FUZZ_TABLES + 0x4003), DVM_FUZZ_TABLES + 0x1010
    movl $(DVM_FUZZ_TABLES + 0x5003), DVM_FUZZ_TABLES + 0x1018
    movl $(DVM_FUZZ_TABLES + 0x6003), DVM_FUZZ_TABLES + 0x1c00
    movl $(DVM_FUZZ_TABLES + 0x2000), %edi
    movl $0x83, %eax
    movl $0x800, %ecx
1:  movl %eax, (%edi)
    movl $0, 4(%edi)
    addl $0x200000, %eax
    addl $8, %edi
    decl %ecx
    jnz 1b
    movl $0x83, %eax
    movl $0x200, %ecx
2:  movl %eax, (%edi)
    movl $0x60, 4(%edi)
    addl $0x200000, %eax
    addl $8, %edi
    decl %ecx
    jnz 2b
    ret

    .code64
dvm_fuzz_begin:
    movl $DVM_DATA, %ebp
    movl DVM_FUZZ_FUNCTIONS(%rbp), %r15d
    movl DVM_FUZZ_SEED(%rbp), %eax
    incq %rax
    movabsq $0x9e3779b97f4a7c15, %r13
    imulq %rax, %r13
    btsq $40, %r13
    movl DVM_FUZZ_COUNT(%rbp), %r12d
    leaq DVM_FUZZ_PCI(%rbp), %r14
1:  cmpb $2, 8(%r14)
    je dvm_fuzz_loop
    addq $16, %r14
    jmp 1b

dvm_fuzz_loop:
    testl %r12d, %r12d
    jle dvm_fuzz_end
    leaq dvm_fuzz_loop(%rip), %rax
    pushq %rax
    call dvm_fuzz_random
    andl $31, %eax
    cmpl $3, %eax
    jb dvm_fuzz_in
    cmpl $6, %eax
    jb dvm_fuzz_out
    cmpl $8, %eax
    jb dvm_fuzz_config_read
    cmpl $10, %eax
    jb dvm_fuzz_config_write
    cmpl $17, %eax
    jb dvm_fuzz_bar
    je dvm_fuzz_anywhere
    cmpl $19, %eax
    jb dvm_fuzz_bring_up
    cmpl $25, %eax
    jb dvm_fuzz_chain
    cmpl $27, %eax
    jb dvm_fuzz_watchdog
    cmpl $29, %eax
    jb dvm_fuzz_msix
    call dvm_fuzz_pick
    jmp dvm_fuzz_heal

dvm_fuzz_end:
    movw $DVM_PM1A_CONTROL, %dx
    movw $DVM_SLEEP_S5, %ax
    outw %ax, %dx
1:  cli
    hlt
    jmp 1b

# %rax: 64 random bits (xorshift).
dvm_fuzz_random:
    movq %r13, %rax
    shlq $13, %rax
    xorq %rax, %r13
    movq %r13, %rax
    shrq $7, %rax
    xorq %rax, %r13
    movq %r13, %rax
    shlq $17, %rax
    xorq %rax, %r13
    movq %r13, %rax
    ret

# %rdx: a value to write: nothing, all ones, one bit, small, or anything. %rax: more randomness.
dvm_fuzz_value:
    call dvm_fuzz_random
    movq %rax, %rdx
    call dvm_fuzz_random
    movl %eax, %ecx
    shrl $16, %ecx
    andl $7, %ecx
    jz 1f
    cmpl $2, %ecx
    jb 2f
    je 3f
    cmpl $4, %ecx
    jae 4f
    movzbl %dl, %edx
    ret
1:  xorl %edx, %edx
    ret
2:  movq $-1, %rdx
    ret
3:  movl %edx, %ecx
    movl $1, %edx
    shlq %cl, %rdx
4:  ret

# %rbx: the entry of a function; of a virtio device.
dvm_fuzz_pick:
    call dvm_fuzz_random
    shrq $40, %rax
    xorl %edx, %edx
    divl %r15d
    shll $4, %edx
    leaq DVM_FUZZ_PCI(%rbp,%rdx), %rbx
    ret
dvm_fuzz_pick_virtio:
    call dvm_fuzz_pick
    cmpb $1, 8(%rbx)
    jne dvm_fuzz_pick_virtio
    ret

# Reads or writes at %rdi, 1, 2, 4 or 8 bytes wide; what is written keeps within %rsi.
dvm_fuzz_touch:
    call dvm_fuzz_random
    testb $1, %al
    jz dvm_fuzz_read
dvm_fuzz_write:
    call dvm_fuzz_value
    andq %rsi, %rdx
    decl %r12d
    andl $3, %eax
    jz 1f
    cmpl $2, %eax
    jb 2f
    je 3f
    movq %rdx, (%rdi)
    ret
1:  movb %dl, (%rdi)
    ret
2:  movw %dx, (%rdi)
    ret
3:  movl %edx, (%rdi)
    ret
dvm_fuzz_read:
    call dvm_fuzz_random
    decl %r12d
    andl $3, %eax
    jz 1f
    cmpl $2, %eax
    jb 2f
    je 3f
    movq (%rdi), %rdx
    ret
1:  movb (%rdi), %dl
    ret
2:  movw (%rdi), %dx
    ret
3:  movl (%rdi), %edx
    ret

# %edi: a port, mostly one where something is.
dvm_fuzz_port:
    call dvm_fuzz_random
    movl %eax, %edi
    shrl $16, %edi
    testb $3, %al
    jz 1f
    movl %eax, %ecx
    shrl $2, %ecx
    andl $15, %ecx
    leaq dvm_fuzz_ports(%rip), %rdx
    movzwl (%rdx,%rcx,2), %edx
    andl $7, %edi
    addl %edx, %edi
1:  ret
dvm_fuzz_ports:
    .word 0x3f8, 0x2f8, 0x3f8, 0x2f8, 0x60, 0x70, 0x90, 0xcf8, 0xcfc, 0xcfc, 0x600, 0x608, 0x610, 0x20, 0xa0, 0xb0

dvm_fuzz_in:
    call dvm_fuzz_port
    call dvm_fuzz_random
    decl %r12d
    movl %edi, %edx
    andl $3, %eax
    jz 1f
    cmpl $2, %eax
    jb 2f
    inl %dx, %eax
    ret
1:  inb %dx, %al
    ret
2:  inw %dx, %ax
    ret

# A write that reaches a port with a bit that ends the machine is one byte without that bit.
dvm_fuzz_out:
    call dvm_fuzz_port
    cmpl $0xcf8, %edi
    je dvm_fuzz_out_address
    leaq dvm_fuzz_ends(%rip), %rcx
1:  movzwl (%rcx), %eax
    testl %eax, %eax
    jz 3f
    cmpl %eax, %edi
    jb 2f
    movzwl 2(%rcx), %eax
    cmpl %eax, %edi
    jbe dvm_fuzz_out_tamed
2:  addq $4, %rcx
    jmp 1b
3:  call dvm_fuzz_value
    movl %eax, %ecx
    movq %rdx, %rax
    movl %edi, %edx
    decl %r12d
    andl $3, %ecx
    jz 4f
    cmpl $2, %ecx
    jb 5f
    outl %eax, %dx
    ret
4:  outb %al, %dx
    ret
5:  outw %ax, %dx
    ret
dvm_fuzz_out_tamed:
    call dvm_fuzz_value
    andl $7, %eax
    leaq dvm_fuzz_tamed(%rip), %rcx
    leaq (%rcx,%rax,4), %rcx
    movl %edx, %eax
    andb 2(%rcx), %al
    movzwl (%rcx), %edx
    decl %r12d
    outb %al, %dx
    ret
# The address of a configuration access, of any function but pvpanic: moved over another it could be told to panic.
dvm_fuzz_out_address:
    call dvm_fuzz_random
    orl $0x80000000, %eax
    andl $0x8000ffff, %eax
    movl %eax, %ecx
    andl $0xf800, %ecx
    cmpl $0x1000, %ecx
    jne 1f
    xorl $0x1000, %eax
1:  movl %edi, %edx
    decl %r12d
    outl %eax, %dx
    ret
dvm_fuzz_ends:                              # first and last port from which 4 bytes reach one
    .word 0x5d, 0x67, 0x8f, 0x92, 0xcf5, 0xcf9, 0x601, 0x605, 0x60d, 0x611, 0, 0
dvm_fuzz_tamed:                             # port, bits that do no harm
    .word 0x60, 0xff, 0x64, 0x7f, 0x92, 0xfe, 0xcf9, 0xfb, 0x604, 0xff, 0x605, 0xdf, 0x610, 0xfe, 0x611, 0xdf

# %rdi: somewhere in the configuration space of %rbx.
dvm_fuzz_config:
    call dvm_fuzz_random
    movl %eax, %edi
    shrl $8, %eax
    andl $0xfff, %edi
    testb $3, %al
    jz 1f
    andl $0xff, %edi
1:  movl (%rbx), %eax
    addq %rax, %rdi
    ret
dvm_fuzz_config_read:
    call dvm_fuzz_pick
    call dvm_fuzz_config
    jmp dvm_fuzz_read
dvm_fuzz_config_write:
    call dvm_fuzz_pick
    call dvm_fuzz_config
    cmpb $3, 8(%rbx)
    je dvm_fuzz_read
    movq $-1, %rsi
    jmp dvm_fuzz_write

# Somewhere in a BAR. In an MSI-X table no message is written but plain interrupts.
dvm_fuzz_bar:
    call dvm_fuzz_pick
    call dvm_fuzz_random
    movl 4(%rbx), %edi
    movq $-1, %rsi
    cmpb $1, 8(%rbx)
    je 1f
    testl %edi, %edi
    jz dvm_fuzz_heal
    andl $15, %eax
    addq %rax, %rdi
    cmpb $3, 8(%rbx)
    jne dvm_fuzz_touch
    movabsq $0xfcfcfcfcfcfcfcfc, %rsi
    jmp dvm_fuzz_touch
1:  testl $0x30000, %eax                    # a quarter of them in the common configuration
    jnz 2f
    andl $0x3f, %eax
2:  andl $0x7fff, %eax
    movl %eax, %ecx
    andl $0x6000, %ecx
    cmpl $0x4000, %ecx
    jne 3f
    andl $0x7ffc, %eax
    movl %eax, %ecx
    andl $12, %ecx
    cmpl $4, %ecx
    jne 4f
    movabsq $0x000000ffffffffff, %rsi
4:  cmpl $8, %ecx
    jne 3f
    movabsq $0xffffffff000000ff, %rsi
3:  addq %rax, %rdi
    jmp dvm_fuzz_touch

# Somewhere in the PCI windows, in ECAM, or where nothing is.
dvm_fuzz_anywhere:
    call dvm_fuzz_random
    movq %rax, %rdi
    shrq $8, %rdi
    movq $-1, %rsi
    andl $3, %eax
    jz 1f
    cmpl $2, %eax
    jb 2f
    je 3f
    andl $0x1fffffff, %edi
    movl $0xc0000000, %eax
    addq %rax, %rdi
    jmp dvm_fuzz_touch
1:  andl $0x0fffffff, %edi
    movl $DVM_ECAM, %eax
    addq %rax, %rdi
    jmp dvm_fuzz_touch
2:  andl $0x3ffffff0, %edi
    movabsq $0x6000000000, %rax
    addq %rax, %rdi
    jmp dvm_fuzz_touch
3:  andl $0x07ffffff, %edi
    movl $0xf0000000, %eax
    addq %rax, %rdi
    jmp dvm_fuzz_touch

# %r8: BAR 0 of %rbx; %r10: the memory of its queue %r9d.
dvm_fuzz_queue:
    movl 4(%rbx), %r8d
    movq %rbx, %r10
    subq %rbp, %r10
    subq $DVM_FUZZ_PCI, %r10
    shrq $2, %r10
    addq %r9, %r10
    andl $63, %r10d
    shll $14, %r10d
    addq $DVM_FUZZ_QUEUES, %r10
    ret

# The driver of a virtio device, up to DRIVER_OK; now and then with something wrong.
dvm_fuzz_bring_up:
    call dvm_fuzz_pick_virtio
    call dvm_fuzz_heal
    xorl %r9d, %r9d
    call dvm_fuzz_queue
    movb $0, 0x14(%r8)
    movb 0x14(%r8), %al
    movb $1, 0x14(%r8)
    movb $3, 0x14(%r8)
1:  movl %r9d, (%r8)
    movl 4(%r8), %r11d
    call dvm_fuzz_random
    testb $1, %al
    jz 2f
    shrq $8, %rax
    andl %eax, %r11d
2:  testl %r9d, %r9d
    jz 3f
    orl $1, %r11d                           # VERSION_1
3:  movl %r9d, 8(%r8)
    movl %r11d, 0xc(%r8)
    incl %r9d
    cmpl $2, %r9d
    jb 1b
    movb $11, 0x14(%r8)
    call dvm_fuzz_random
    andl $7, %eax
    movw %ax, 0x10(%r8)
    xorl %r9d, %r9d
4:  call dvm_fuzz_queue
    movl $0, 0x1000(%r10)
    movl $0, 0x2000(%r10)
    movw %r9w, 0x16(%r8)
    call dvm_fuzz_value
    testb $7, %al
    jnz 5f
    movw %dx, 0x18(%r8)
5:  andl $7, %edx
    movw %dx, 0x1a(%r8)
    movl $0x20, %r11d
6:  call dvm_fuzz_value
    call dvm_fuzz_tame
    testb $15, %al
    jz 7f
    movq %r10, %rdx
7:  movq %rdx, (%r8,%r11)
    addq $0x1000, %r10
    addl $8, %r11d
    cmpl $0x38, %r11d
    jb 6b
    call dvm_fuzz_random
    testb $15, %al
    jz 8f
    movw $1, 0x1c(%r8)
8:  incl %r9d
    cmpl $4, %r9d
    jb 4b
    movb $15, 0x14(%r8)
    subl $40, %r12d
    ret

# %rdx: an address in the buffers; now and then anywhere but below the arena.
dvm_fuzz_address:
    call dvm_fuzz_value
    testb $15, %al
    jz dvm_fuzz_tame
    shrq $20, %rax
    andl $0xfffff, %eax
    leaq DVM_FUZZ_BUFFERS(%rax), %rdx
    ret
dvm_fuzz_tame:
    cmpq $DVM_FUZZ_QUEUES, %rdx
    jae 1f
    orl $DVM_FUZZ_QUEUES, %edx
1:  ret

# A chain into a queue, and the doorbell: header, data, status as most devices want them, or anything.
dvm_fuzz_chain:
    call dvm_fuzz_pick_virtio
    call dvm_fuzz_random
    movl %eax, %r9d
    andl $3, %r9d
    testb $0x10, %al
    jz 1f
    andl $1, %r9d
1:  call dvm_fuzz_queue
    call dvm_fuzz_random
    testb $7, %al
    jz 5f
    movq %rax, %rsi                         # its bits say what becomes of the chain
    call dvm_fuzz_address
    movq %rdx, (%r10)
    movl $12, %eax
    testl $0x100, %esi
    jz 2f
    movl $16, %eax
2:  movl %eax, 8(%r10)
    movl $0x10001, 12(%r10)                 # goes on at 1
    call dvm_fuzz_random
    shrl $24, %eax
    leaq DVM_FUZZ_BUFFERS(%rax), %rdi
    testl $0xc0000000, %esi
    jz 3f
    movq %rdi, (%r10)
3:  movl %esi, %eax
    shrl $12, %eax
    andl $15, %eax
    testl $0x30000000, %esi
    jz 9f
    andl $1, %eax
9:  movl %eax, (%rdi)                       # a request of the disk: mostly to read or to write
    movl $0, 4(%rdi)
    movl %esi, %eax
    shrl $16, %eax
    andl $0x7f, %eax
    movq %rax, 8(%rdi)
    call dvm_fuzz_address
    movq %rdx, 16(%r10)
    movl %esi, %eax
    shrl $20, %eax
    andl $0xfff, %eax
    testl $0x400, %esi
    jz 4f
    andl $0xe00, %eax
4:  movl %eax, 24(%r10)
    movl %esi, %eax
    shrl $10, %eax
    andl $2, %eax                           # written, or read
    orl $0x20001, %eax                      # goes on at 2
    movl %eax, 28(%r10)
    call dvm_fuzz_address
    movq %rdx, 32(%r10)
    movl $1, 40(%r10)
    movl $2, 44(%r10)
    xorl %edi, %edi
    jmp 7f
5:  xorl %edi, %edi
6:  call dvm_fuzz_address
    movq %rdx, (%r10,%rdi)
    call dvm_fuzz_value
    movl %edx, 8(%r10,%rdi)
    call dvm_fuzz_random
    andl $0x003f0007, %eax
    movl %eax, 12(%r10,%rdi)
    addl $16, %edi
    cmpl $128, %edi
    jb 6b
    call dvm_fuzz_value
    movl %edx, %edi
7:  movzwl 0x1002(%r10), %eax
    movl %eax, %ecx
    andl $0xff, %ecx
    movw %di, 0x1004(%r10,%rcx,2)
    incl %eax
    movl %eax, %edi
    call dvm_fuzz_random
    testb $31, %al
    jnz 8f
    shrl $8, %eax
    addl %eax, %edi                         # an index that runs wild
8:  movw %di, 0x1002(%r10)
    movw %r9w, 0x3000(%r8,%r9,4)
    decl %r12d
    ret

# The watchdog, unlocked and set up as drivers do it, more or less.
dvm_fuzz_watchdog:
    movl (%r14), %r8d
    movl 4(%r14), %r9d
    call dvm_fuzz_value
    testb $1, %al
    jz 1f
    movb %dl, 0x60(%r8)
    decl %r12d
1:  testb $2, %al
    jz 2f
    andb $6, %dl
    testl $0x3ff0, %eax
    jnz 3f
    orb $1, %dl                             # seldom: nothing but a reset undoes it
3:  movb %dl, 0x68(%r8)
    decl %r12d
2:  movl $0x80, 0xc(%r9)
    testb $4, %al
    jz 4f
    movw $0x86, 0xc(%r9)
    jmp 5f
4:  movb $0x86, 0xc(%r9)
5:  subl $2, %r12d
    shrl $8, %eax
    andl $15, %eax
    leaq (%r9,%rax), %rdi
    movq $-1, %rsi
    jmp dvm_fuzz_write

# A virtio device's messages: on, off or masked; one entry of its table.
dvm_fuzz_msix:
    call dvm_fuzz_pick_virtio
    movl (%rbx), %edi
    movzbl 9(%rbx), %eax
    addq %rax, %rdi
    call dvm_fuzz_random
    movl %eax, %ecx
    andl $0xc000, %ecx
    movw %cx, 2(%rdi)
    movl 4(%rbx), %edi
    shrl $16, %eax
    andl $0x70, %eax
    leaq 0x4000(%rdi,%rax), %rdi
    call dvm_fuzz_value
    testb $7, %al
    jz 1f
    movl $0xfee00000, %edx
1:  movl %edx, (%rdi)
    movl $0, 4(%rdi)
    shrl $8, %eax
    movzbl %al, %edx
    movl %edx, 8(%rdi)
    shrl $8, %eax
    andl $1, %eax
    movl %eax, 12(%rdi)
    subl $5, %r12d
    ret

# Puts the function at %rbx back where it was.
dvm_fuzz_heal:
    movl (%rbx), %edi
    movl 4(%rbx), %eax
    movl %eax, 0x10(%rdi)
    movw $7, 4(%rdi)
    subl $2, %r12d
    ret
    .code32
