//! `/dev/kvm`: opened once per process, asked once what it can do.
//!
//! What the machine needs and an old kernel may lack is refused here, with one error for each reason,
//! so that nothing later has to fall back.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::FromRawFd;
use std::os::fd::IntoRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::OnceLock;

use kvm_bindings::{CpuId, KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm};

/// Where KVM is.
pub const DEVICE: &str = "/dev/kvm";

/// KVM cannot be used on this host: nothing that runs a guest can be done (exit code 3).
#[derive(Debug, thiserror::Error)]
pub enum KvmUnusable {
    /// No such device.
    #[error("{DEVICE} is not there; load the kvm module, or switch virtualisation on in the firmware")]
    Absent,
    /// The user may not open it.
    #[error("{DEVICE} may not be opened by this user; run as root or join the group that owns it")]
    Forbidden,
    /// It cannot be opened for another reason.
    #[error("{DEVICE} cannot be opened")]
    Broken(#[source] io::Error),
    /// It is not what it has to be.
    #[error("{DEVICE} is too old: {lacking}; Linux 4.20 or later has it")]
    TooOld {
        /// What it lacks.
        lacking: String,
    },
}

const REQUIRED: [(Cap, &str); 9] = [
    (Cap::Irqchip, "no interrupt controllers in the kernel (KVM_CAP_IRQCHIP)"),
    (Cap::Pit2, "no timer chip in the kernel (KVM_CAP_PIT2)"),
    (Cap::UserMemory, "no guest memory from user space (KVM_CAP_USER_MEMORY)"),
    (Cap::SetTssAddr, "no place for the TSS (KVM_CAP_SET_TSS_ADDR)"),
    (Cap::ExtCpuid, "no CPUID to set (KVM_CAP_EXT_CPUID)"),
    (Cap::MpState, "no states of processors (KVM_CAP_MP_STATE)"),
    (Cap::AdjustClock, "no clock to set (KVM_CAP_ADJUST_CLOCK)"),
    (Cap::UserNmi, "no NMI to inject (KVM_CAP_USER_NMI)"),
    (Cap::ImmediateExit, "no exit on demand (KVM_CAP_IMMEDIATE_EXIT)"),
];

/// An open `/dev/kvm`, and what it said.
#[derive(Debug)]
pub struct Host {
    kvm: Kvm,
    cpuid: CpuId,
    tsc_deadline: bool,
}

impl Host {
    /// The process's one, opened at the first call. A failure is not remembered: try again.
    pub fn open() -> Result<&'static Host, KvmUnusable> {
        static HOST: OnceLock<Host> = OnceLock::new();
        match HOST.get() {
            Some(host) => Ok(host),
            None => {
                let host = Host::open_at(DEVICE)?;
                Ok(HOST.get_or_init(|| host))
            }
        }
    }

    fn open_at(device: &str) -> Result<Host, KvmUnusable> {
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(device);
        let file = file.map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => KvmUnusable::Absent,
            Some(libc::EACCES | libc::EPERM) => KvmUnusable::Forbidden,
            _ => KvmUnusable::Broken(error),
        })?;
        // SAFETY: the descriptor is open and owned by nobody else from here on.
        let kvm = unsafe { Kvm::from_raw_fd(file.into_raw_fd()) };
        let version = kvm.get_api_version();
        if version != KVM_API_VERSION as i32 {
            return Err(KvmUnusable::TooOld { lacking: format!("its interface has version {version}, not 12") });
        }
        if let Some((_, lacking)) = REQUIRED.iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
            return Err(KvmUnusable::TooOld { lacking: (*lacking).into() });
        }
        let cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(|error| KvmUnusable::TooOld { lacking: format!("it does not tell its CPUID ({error})") })?;
        let tsc_deadline = kvm.check_extension(Cap::TscDeadlineTimer);
        Ok(Host { kvm, cpuid, tsc_deadline })
    }

    /// To make virtual machines with.
    pub fn kvm(&self) -> &Kvm {
        &self.kvm
    }

    /// The CPUID leaves that a guest may be shown.
    pub fn cpuid(&self) -> &CpuId {
        &self.cpuid
    }

    /// True when a guest's local APIC can be told a deadline instead of a countdown.
    pub fn has_tsc_deadline(&self) -> bool {
        self.tsc_deadline
    }

    /// How many processors a guest may have: what KVM allows, and no more than 8-bit APIC ids can name.
    pub fn most_vcpus(&self) -> usize {
        self.kvm.get_max_vcpus().min(254)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_error() {
        assert!(matches!(Host::open_at("/nonexistent/kvm"), Err(KvmUnusable::Absent)));
        assert!(matches!(Host::open_at("/dev/null"), Err(KvmUnusable::TooOld { .. })));
        assert!(matches!(Host::open_at("/"), Err(KvmUnusable::Broken(_))));
    }
}
