//! The CPUID leaves of one processor: what KVM supports, and where this processor stands among the others.
//!
//! ```text
//!   1                 APIC id, how many share the package, hypervisor, TSC deadline timer
//!   4, 0x8000_001d    who shares which cache: levels 1 and 2 nobody, level 3 all
//!   0xb               topology: one thread a core, all cores in one package (0x1f is not shown: it says no more)
//!   0x8000_0008       AMD: how many cores
//!   0x8000_001e       AMD: core id
//!   0x4000_00xx       KVM's own, as KVM gives them: kvmclock and the rest
//! ```

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

const HTT: u32 = 1 << 28;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// AMD: the package has several cores, not threads.
const CMP_LEGACY: u32 = 1 << 1;
/// Cache level of leaves 4 and 0x8000_001d: bits 5 to 7 of EAX.
const LEVEL_3: u32 = 3;
const LEVEL_TYPE_THREADS: u32 = 1;
const LEVEL_TYPE_CORES: u32 = 2;
const VENDOR_AMD: u32 = u32::from_le_bytes(*b"Auth");
const VENDOR_HYGON: u32 = u32::from_le_bytes(*b"Hygo");

/// Which processor, of how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its index, which is its APIC id.
    pub index: u32,
    /// How many there are; at least one.
    pub of: u32,
}

impl Place {
    /// How many low bits of an APIC id tell the cores apart.
    fn core_bits(self) -> u32 {
        self.of.next_power_of_two().trailing_zeros()
    }
}

/// The leaves of the processor at `place`, made of those that the host `supported`.
pub fn leaves(supported: &CpuId, place: Place, tsc_deadline: bool) -> Result<CpuId, vmm_sys_util::fam::Error> {
    let amd =
        supported.as_slice().iter().any(|leaf| leaf.function == 0 && matches!(leaf.ebx, VENDOR_AMD | VENDOR_HYGON));
    let most = supported.as_slice().iter().find(|leaf| leaf.function == 0).map_or(0, |leaf| leaf.eax);
    let mut leaves: Vec<kvm_cpuid_entry2> =
        supported.as_slice().iter().filter(|leaf| !matches!(leaf.function, 0xb | 0x1f)).copied().collect();
    for leaf in &mut leaves {
        adjust(leaf, place, amd, tsc_deadline);
    }
    if most >= 0xb {
        leaves.extend(topology(place));
    }
    CpuId::from_entries(&leaves)
}

fn adjust(leaf: &mut kvm_cpuid_entry2, place: Place, amd: bool, tsc_deadline: bool) {
    match leaf.function {
        0x1 => {
            let logical = if place.of > 1 { 1 << place.core_bits() } else { 1 };
            leaf.ebx = leaf.ebx & 0xffff | place.index << 24 | logical << 16;
            leaf.ecx |= HYPERVISOR | if tsc_deadline { TSC_DEADLINE } else { 0 };
            leaf.edx = leaf.edx & !HTT | if place.of > 1 { HTT } else { 0 };
        }
        0x4 if leaf.eax & 0x1f != 0 => {
            leaf.eax = leaf.eax & 0x3fff | sharers(leaf, place) << 14 | ((1 << place.core_bits()) - 1) << 26;
        }
        0x8000_0001 if amd => leaf.ecx = leaf.ecx & !CMP_LEGACY | if place.of > 1 { CMP_LEGACY } else { 0 },
        0x8000_0008 if amd => leaf.ecx = leaf.ecx & !0xf0ff | place.core_bits() << 12 | (place.of - 1),
        0x8000_001d if leaf.eax & 0x1f != 0 => leaf.eax = leaf.eax & 0x3fff | sharers(leaf, place) << 14,
        0x8000_001e => {
            leaf.eax = place.index;
            leaf.ebx = place.index & 0xff;
            leaf.ecx = 0;
        }
        _ => {}
    }
}

/// How many APIC ids share a cache, less one.
fn sharers(leaf: &kvm_cpuid_entry2, place: Place) -> u32 {
    match leaf.eax >> 5 & 0b111 {
        LEVEL_3 => (1 << place.core_bits()) - 1,
        _ => 0,
    }
}

/// Leaf 0xb: a level of threads, one of cores, and the end.
fn topology(place: Place) -> [kvm_cpuid_entry2; 3] {
    let level = |index: u32, bits: u32, count: u32, kind: u32| kvm_cpuid_entry2 {
        function: 0xb,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: bits,
        ebx: count,
        ecx: index | kind << 8,
        edx: place.index,
        ..Default::default()
    };
    [level(0, 0, 1, LEVEL_TYPE_THREADS), level(1, place.core_bits(), place.of, LEVEL_TYPE_CORES), level(2, 0, 0, 0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(vendor: u32) -> CpuId {
        let leaf = |function, index, eax| kvm_cpuid_entry2 { function, index, eax, ..Default::default() };
        let mut leaves = [
            leaf(0, 0, 0x1f),
            leaf(1, 0, 0),
            // Level 1 and level 3 caches, shared by 64 here, and the end.
            leaf(4, 0, 1 | 1 << 5 | 63 << 14 | 63 << 26),
            leaf(4, 1, 3 | 3 << 5 | 63 << 14 | 63 << 26),
            leaf(4, 2, 0),
            leaf(0xb, 0, 1),
            leaf(0x1f, 0, 1),
            leaf(0x8000_0008, 0, 48),
            leaf(0x8000_001e, 0, 99),
        ];
        leaves[0].ebx = vendor;
        leaves[7].ecx = 0x603f;
        CpuId::from_entries(&leaves).expect("few leaves")
    }

    fn find(leaves: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        *leaves.as_slice().iter().find(|leaf| (leaf.function, leaf.index) == (function, index)).expect("it is there")
    }

    #[test]
    fn every_leaf_tells_the_same_topology() {
        for of in 1..=8u32 {
            for index in 0..of {
                let leaves = leaves(&host(VENDOR_AMD), Place { index, of }, true).expect("few leaves");
                let bits = of.next_power_of_two().trailing_zeros();
                let first = find(&leaves, 1, 0);
                assert_eq!((first.ebx >> 24, first.ebx >> 16 & 0xff), (index, 1 << bits));
                assert_eq!(first.edx & HTT != 0, of > 1);
                assert_eq!(first.ecx & (HYPERVISOR | TSC_DEADLINE), HYPERVISOR | TSC_DEADLINE);
                assert_eq!(find(&leaves, 4, 0).eax >> 14 & 0xfff, 0, "a core's own");
                assert_eq!(find(&leaves, 4, 1).eax >> 14 & 0xfff, (1 << bits) - 1, "the package's");
                assert_eq!(find(&leaves, 4, 2).eax, 0, "no cache");
                let cores = find(&leaves, 0xb, 1);
                assert_eq!((cores.eax, cores.ebx, cores.ecx, cores.edx), (bits, of, 0x201, index));
                let threads = find(&leaves, 0xb, 0);
                assert_eq!((threads.eax, threads.ebx, threads.ecx, threads.edx), (0, 1, 0x100, index));
                assert!(leaves.as_slice().iter().all(|leaf| leaf.function != 0x1f));
                assert_eq!(find(&leaves, 0x8000_0008, 0).ecx, bits << 12 | (of - 1));
                assert_eq!(find(&leaves, 0x8000_001e, 0).eax, index);
            }
        }
    }

    #[test]
    fn amd_s_leaves_are_left_alone_elsewhere() {
        let leaves = leaves(&host(u32::from_le_bytes(*b"Genu")), Place { index: 0, of: 2 }, false).expect("few leaves");
        assert_eq!(find(&leaves, 0x8000_0008, 0).ecx, 0x603f);
        assert_eq!(find(&leaves, 1, 0).ecx & TSC_DEADLINE, 0);
    }
}
