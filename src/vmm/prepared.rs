//! Everything of a machine that can be made before anybody knows which guest it will run.
//!
//! KVM's own set-up is most of the time between the word to start and the guest's first instruction: the virtual
//! machine, its interrupt controllers, its processors, and above all its first memory slot. All of it depends on the
//! machine's size alone, and none of it takes guest memory before a guest touches it: a spare keeps one ready.

use std::ops::Range;
use std::sync::Arc;

use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
use kvm_ioctls::{VcpuFd, VmFd};

use super::cpuid::Place;
use super::kvm::{Host, KvmUnusable};
use super::memory::{MemoryError, Ram};
use super::processor;

/// What KVM takes for itself below 4 GiB: nothing of the guest's may lie there.
pub const KVM_PAGES: Range<u64> = IDENTITY_MAP_ADDRESS..IDENTITY_MAP_ADDRESS + 0x4000;
/// Three pages for Intel processors in real mode, in the hole below 4 GiB, and one for their page table.
const TSS_ADDRESS: usize = 0xfffb_d000;
const IDENTITY_MAP_ADDRESS: u64 = 0xfffb_c000;

/// Why a machine cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// KVM is of no use.
    #[error(transparent)]
    Kvm(#[from] KvmUnusable),
    /// Not so many processors.
    #[error("A guest cannot have {vcpus} processors here; give it 1 to {most}")]
    Vcpus {
        /// What was asked for.
        vcpus: usize,
        /// The most.
        most: usize,
    },
    /// No memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// KVM failed at one of the steps.
    #[error("KVM fails to {step}")]
    Step {
        /// Which.
        step: &'static str,
        /// Why.
        #[source]
        source: kvm_ioctls::Error,
    },
}

fn step<T>(step: &'static str, result: Result<T, kvm_ioctls::Error>) -> Result<T, PrepareError> {
    result.map_err(|source| PrepareError::Step { step, source })
}

/// KVM's half of a machine: it closes slowly, so do it with [`Vm::close_aside`].
#[derive(Debug)]
pub struct Vm {
    /// The virtual machine.
    pub fd: Arc<VmFd>,
    /// Its processors, the boot processor first.
    pub vcpus: Vec<VcpuFd>,
}

impl Vm {
    /// A virtual machine with interrupt controllers, `vcpus` processors and `ram` plugged in.
    pub fn new(vcpus: usize, ram: &Ram) -> Result<Vm, PrepareError> {
        let host = Host::open()?;
        let most = host.most_vcpus();
        if !(1..=most).contains(&vcpus) {
            return Err(PrepareError::Vcpus { vcpus, most });
        }
        let fd = step("make a virtual machine", host.kvm().create_vm())?;
        step("place the identity map", fd.set_identity_map_address(IDENTITY_MAP_ADDRESS))?;
        step("place the TSS", fd.set_tss_address(TSS_ADDRESS))?;
        step("make interrupt controllers", fd.create_irq_chip())?;
        let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        step("make a timer chip", fd.create_pit2(pit))?;
        ram.plug_into(&fd)?;
        // At most 254, as checked above.
        let of = vcpus as u32;
        let make = |index| step("make a processor", processor::make(&fd, Place { index, of }, host));
        let vcpus = (0..of).map(make).collect::<Result<_, _>>()?;
        Ok(Vm { fd: Arc::new(fd), vcpus })
    }

    /// Closes it on a thread of its own: that takes tens of milliseconds, and nobody waits for it.
    pub fn close_aside(self) {
        // Without a thread it is closed here: slow, not wrong.
        let _ = std::thread::Builder::new().name("vm-close".into()).spawn(move || drop(self));
    }
}

/// A machine without a guest.
#[derive(Debug)]
pub struct Prepared {
    vm: Vm,
    ram: Ram,
}

impl Prepared {
    /// Prepares a machine of this size.
    pub fn new(vcpus: usize, memory_bytes: u64) -> Result<Prepared, PrepareError> {
        let ram = Ram::new(memory_bytes)?;
        Ok(Prepared { vm: Vm::new(vcpus, &ram)?, ram })
    }

    /// True when it has this size.
    pub fn fits(&self, vcpus: usize, memory_bytes: u64) -> bool {
        self.vm.vcpus.len() == vcpus && self.ram.bytes() == memory_bytes
    }

    /// Its two halves.
    pub fn into_parts(self) -> (Vm, Ram) {
        (self.vm, self.ram)
    }
}
