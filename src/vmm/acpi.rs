//! The ACPI tables (ACPI 6.5): what kind of machine the guest is in.
//!
//! ```text
//!   RSDP ─▶ XSDT ─┬▶ FADT ──▶ DSDT    reset and sleep registers   PCI, serial ports, power-off
//!                 ├▶ MADT             processors, IOAPIC, NMI; lines are told of in the DSDT
//!                 └▶ MCFG             ECAM window of bus 0
//! ```
//!
//! The machine says that it is hardware-reduced (ACPI 6.5, 4.1): it has no power button, no event that ACPI would tell of,
//! and no clock chip. Linux then leaves the 8259 and the 8254 alone, and so saves the waits and some 400 exits that it
//! spends on them. Both are there all the same, and so is the PM1a block, for guests that do without ACPI.

mod dsdt;

use acpi_tables::Aml;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;

use crate::devices::board::{ECAM, IOAPIC, LAPIC};
use crate::devices::reset::{RESET_REGISTER, RESET_VALUE, SLEEP_CONTROL, SLEEP_STATUS};

const OEM_ID: [u8; 6] = *b"DUPLEX";
const OEM_TABLE_ID: [u8; 8] = *b"DUPLEXVM";
const OEM_REVISION: u32 = 1;

/// IAPC_BOOT_ARCH (ACPI 6.5, table 5.11): ISA devices are there (the serial ports), but neither VGA nor RTC, nor a
/// keyboard controller that would have a keyboard: what there is of it only resets.
const BOOT_ARCH: u16 = 1 << 0 | 1 << 2 | 1 << 5;

const MADT_HEADER_BYTES: u32 = 44;
const MADT_REVISION: u8 = 4;
const MADT_LAPIC_AT: usize = 36;
const ALL_PROCESSORS: u8 = 0xff;

/// Tables start at multiples of this.
const ALIGNMENT: usize = 64;

/// The tables as they lie in memory.
#[derive(Debug, Clone)]
pub struct Tables {
    /// All of them, gaps included.
    pub bytes: Vec<u8>,
    /// Guest-physical address of the RSDP.
    pub rsdp: u64,
}

/// The tables of a machine with `vcpus` processors, the first `pci_slots` slots of whose bus are occupied, to lie from
/// `base` on, a multiple of 64 below 4 GiB.
pub fn tables(base: u64, vcpus: usize, pci_slots: u8) -> Tables {
    // The root comes first: that is where a guest that has to search looks first.
    let mut bytes = vec![0; Rsdp::len()];
    let mut add = |table: &[u8]| {
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        let at = base + bytes.len() as u64;
        bytes.extend_from_slice(table);
        at
    };
    let dsdt = add(&dsdt::dsdt(pci_slots));
    let fadt = add(&fadt(dsdt));
    let madt = add(&madt(vcpus));
    let mcfg = add(&mcfg());
    let mut root = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    [fadt, madt, mcfg].into_iter().for_each(|table| root.add_entry(table));
    let root = add(&encoded(&root));
    bytes[..Rsdp::len()].copy_from_slice(&encoded(&Rsdp::new(OEM_ID, root)));
    Tables { bytes, rsdp: base }
}

fn encoded(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn fadt(dsdt: u64) -> Vec<u8> {
    let port = |port: u16| GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port.into());
    let mut table = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::Wbinvd)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless)
        .flag(Flags::HwReducedAcpi);
    table.sleep_control_reg = port(SLEEP_CONTROL);
    table.sleep_status_reg = port(SLEEP_STATUS);
    table.iapc_boot_arch = BOOT_ARCH.into();
    table.reset_reg = port(RESET_REGISTER);
    table.reset_value = RESET_VALUE;
    encoded(&table.finalize())
}

fn madt(vcpus: usize) -> Vec<u8> {
    let mut table = Sdt::new(*b"APIC", MADT_HEADER_BYTES, MADT_REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.write_u32(MADT_LAPIC_AT, LAPIC as u32);
    for id in (0..=u8::MAX).take(vcpus) {
        table.append_slice(&encoded(&ProcessorLocalApic::new(id, id, EnabledStatus::Enabled)));
    }
    table.append_slice(&encoded(&IoApic::new(0, IOAPIC as u32, 0)));
    table.append_slice(&local_nmi());
    table.as_slice().to_vec()
}

/// NMI comes in at LINT1 of every processor (ACPI 6.5, 5.2.12.7).
fn local_nmi() -> [u8; 6] {
    [4, 6, ALL_PROCESSORS, 0, 0, 1]
}

fn mcfg() -> Vec<u8> {
    let mut table = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.add_ecam(ECAM.start, 0, 0, 0);
    encoded(&table)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0xe_0000;

    fn u32_at(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
    }

    /// The table at a guest-physical address, by the length that it says.
    fn table(tables: &Tables, address: u64) -> &[u8] {
        let at = (address - BASE) as usize;
        &tables.bytes[at..at + u32_at(&tables.bytes, at + 4) as usize]
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn every_table_is_reached_from_the_root_and_adds_up() {
        let tables = tables(BASE, 8, 31);
        let root = &tables.bytes[..36];
        assert_eq!(&root[..8], b"RSD PTR ");
        assert_eq!((sum(&root[..20]), sum(root), tables.rsdp), (0, 0, BASE));
        let xsdt = table(&tables, u64::from_le_bytes(root[24..32].try_into().expect("eight bytes")));
        assert_eq!((&xsdt[..4], sum(xsdt)), (&b"XSDT"[..], 0));
        let entries: Vec<&[u8]> = xsdt[36..]
            .chunks_exact(8)
            .map(|entry| table(&tables, u64::from_le_bytes(entry.try_into().expect("eight bytes"))))
            .collect();
        assert_eq!(entries.iter().map(|entry| &entry[..4]).collect::<Vec<_>>(), [b"FACP", b"APIC", b"MCFG"]);
        assert!(entries.iter().all(|entry| sum(entry) == 0));
        let dsdt = table(&tables, u64::from_le_bytes(entries[0][140..148].try_into().expect("eight bytes")));
        assert_eq!((&dsdt[..4], sum(dsdt)), (&b"DSDT"[..], 0));
        assert!(tables.bytes.len() < 0x4000, "far from the end of their place");
    }

    #[test]
    fn the_madt_names_each_processor_once() {
        for vcpus in 1..=8 {
            let madt = madt(vcpus);
            let mut rest = &madt[44..];
            let mut ids = Vec::new();
            while let [kind, length, ..] = rest {
                if *kind == 0 {
                    ids.push(rest[3]);
                }
                rest = &rest[usize::from(*length)..];
            }
            assert_eq!(ids, (0..vcpus as u8).collect::<Vec<_>>());
        }
    }
}
