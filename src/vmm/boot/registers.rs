//! What is in the boot processor's registers when it executes the guest's first instruction.
//!
//! ```text
//!   PVH     32-bit protected mode, paging off, flat 4 GiB segments; %ebx: start info     (Xen, docs/misc/pvh.pandoc)
//!   Linux   long mode, first 4 GiB mapped to themselves, code 0x10, data 0x18;           (Linux, boot.rst, 1.14)
//!           %rsi: zero page                                   both: interrupts off
//! ```

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment};
use kvm_ioctls::{Error, VcpuFd};

use super::layout::{DESCRIPTORS, PAGE_TABLES, START_INFO, ZERO_PAGE};
use super::linux::DESCRIPTORS_LIMIT;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const RFLAGS_ALWAYS: u64 = 2;
const CODE: u8 = 0xb;
const DATA: u8 = 0x3;
const BUSY_TASK: u8 = 0xb;

/// How a kernel is entered, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// As PVH guests are.
    Pvh {
        /// Guest-physical address of the first instruction.
        entry: u64,
    },
    /// By Linux's 64-bit protocol.
    Linux {
        /// Guest-physical address of the first instruction.
        entry: u64,
    },
}

impl Start {
    /// Sets the registers.
    pub fn set_registers(self, vcpu: &VcpuFd) -> Result<(), Error> {
        let mut special = vcpu.get_sregs()?;
        let (code, data) = match self {
            Start::Pvh { .. } => (flat(0x08, CODE, false), flat(0x10, DATA, false)),
            Start::Linux { .. } => (flat(0x10, CODE, true), flat(0x18, DATA, false)),
        };
        special.cs = code;
        (special.ds, special.es, special.fs, special.gs, special.ss) = (data, data, data, data, data);
        special.tr = task_state();
        special.ldt = kvm_segment { unusable: 1, ..Default::default() };
        special.idt = Default::default();
        let registers = match self {
            Start::Pvh { entry } => {
                special.gdt = Default::default();
                (special.cr0, special.cr3, special.cr4, special.efer) = (CR0_PE | CR0_ET, 0, 0, 0);
                kvm_regs { rip: entry, rbx: START_INFO, rflags: RFLAGS_ALWAYS, ..Default::default() }
            }
            Start::Linux { entry } => {
                special.gdt = kvm_dtable { base: DESCRIPTORS, limit: DESCRIPTORS_LIMIT, ..Default::default() };
                special.cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_PG;
                (special.cr3, special.cr4, special.efer) = (PAGE_TABLES, CR4_PAE, EFER_LME | EFER_LMA);
                kvm_regs { rip: entry, rsi: ZERO_PAGE, rflags: RFLAGS_ALWAYS, ..Default::default() }
            }
        };
        vcpu.set_sregs(&special)?;
        vcpu.set_regs(&registers)
    }
}

/// A flat segment of 4 GiB; `long` marks 64-bit code.
fn flat(selector: u16, type_: u8, long: bool) -> kvm_segment {
    kvm_segment {
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        db: u8::from(!long),
        s: 1,
        l: u8::from(long),
        g: 1,
        ..Default::default()
    }
}

/// The task state segment that processors demand.
fn task_state() -> kvm_segment {
    kvm_segment { limit: 0x67, selector: 0x18, type_: BUSY_TASK, present: 1, ..Default::default() }
}
