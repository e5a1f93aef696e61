//! One processor as it is at power-on: what it can do, its local APIC, and what firmware would have set.
//!
//! ```text
//!   CPUID            KVM's own, with this processor's place among the others
//!   MISC_ENABLE      fast string operations
//!   MTRR             on, write-back by default: RAM is cached, what is not RAM belongs to KVM
//!   local APIC       LINT0: ExtINT (the 8259), LINT1: NMI
//! ```
//!
//! The boot processor runs; the others wait for their start-up signal, as KVM makes them.

use kvm_bindings::{Msrs, kvm_lapic_state, kvm_msr_entry};
use kvm_ioctls::{Error, VcpuFd, VmFd};

use super::cpuid::{self, Place};
use super::kvm::Host;

const MSR_MISC_ENABLE: u32 = 0x1a0;
const FAST_STRINGS: u64 = 1;
const MSR_MTRR_DEFAULT: u32 = 0x2ff;
const MTRR_ON_WRITE_BACK: u64 = 1 << 11 | 6;

const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
const MASKED: u32 = 1 << 16;
const DELIVERY_MODE: u32 = 0b111 << 8;
const MODE_NMI: u32 = 4 << 8;
const MODE_EXTINT: u32 = 7 << 8;

/// Makes the processor at `place`.
pub fn make(vm: &VmFd, place: Place, host: &Host) -> Result<VcpuFd, Error> {
    let vcpu = vm.create_vcpu(u64::from(place.index))?;
    // More leaves than KVM takes cannot come of those that it gave.
    let leaves = cpuid::leaves(host.cpuid(), place, host.has_tsc_deadline()).map_err(|_| Error::new(libc::E2BIG))?;
    vcpu.set_cpuid2(&leaves)?;
    set_msrs(&vcpu)?;
    set_local_interrupts(&vcpu)?;
    Ok(vcpu)
}

/// A host that does not know one of them runs the guest without.
fn set_msrs(vcpu: &VcpuFd) -> Result<(), Error> {
    let entry = |index, data| kvm_msr_entry { index, data, ..Default::default() };
    for msr in [entry(MSR_MISC_ENABLE, FAST_STRINGS), entry(MSR_MTRR_DEFAULT, MTRR_ON_WRITE_BACK)] {
        let one = Msrs::from_entries(&[msr]).expect("one entry fits");
        if vcpu.set_msrs(&one)? == 0 {
            log::debug!("KVM does not take {:#x} in MSR {:#x}", msr.data, msr.index);
        }
    }
    Ok(())
}

fn set_local_interrupts(vcpu: &VcpuFd) -> Result<(), Error> {
    let mut apic = vcpu.get_lapic()?;
    set_mode(&mut apic, LVT_LINT0, MODE_EXTINT);
    set_mode(&mut apic, LVT_LINT1, MODE_NMI);
    vcpu.set_lapic(&apic)
}

/// True when LINT1 of its local APIC is an NMI and not masked (Intel SDM volume 3, 11.5.1).
pub fn takes_nmis(vcpu: &VcpuFd) -> bool {
    vcpu.get_lapic().is_ok_and(|apic| local_vector(&apic, LVT_LINT1) & (MASKED | DELIVERY_MODE) == MODE_NMI)
}

/// Sets a local vector's delivery mode and lets it through.
fn set_mode(apic: &mut kvm_lapic_state, at: usize, mode: u32) {
    let value = local_vector(apic, at) & !(DELIVERY_MODE | MASKED) | mode;
    for (register, byte) in apic.regs[at..at + 4].iter_mut().zip(value.to_le_bytes()) {
        *register = byte as _;
    }
}

fn local_vector(apic: &kvm_lapic_state, at: usize) -> u32 {
    u32::from_le_bytes([0, 1, 2, 3].map(|index| apic.regs[at + index] as u8))
}
