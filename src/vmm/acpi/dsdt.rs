//! The DSDT: what the machine has that cannot be found by looking (ACPI 6.5, chapters 19 and 20).
//!
//! ```text
//!   \_S5_            SLP_TYP of power-off
//!   \_SB_.MRES       what is taken: the ECAM window
//!   \_SB_.COM1, COM2 serial ports
//!   \_SB_.PCI0       host bridge of bus 0: its windows, and which line each slot's INTA is
//! ```

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, PackageBuilder,
    Path, ResourceTemplate, Scope, ZERO,
};
use acpi_tables::{Aml, sdt::Sdt};

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::devices::board::{
    COM1, COM1_IRQ, COM2, COM2_IRQ, ECAM, ECAM_BUS_BYTES, PCI_WINDOW, PCI64_WINDOW, intx_line,
};
use crate::devices::pci::{CONFIG_ADDRESS, CONFIG_DATA};
use crate::devices::reset::SLEEP_TYPE_S5;

const HEADER_BYTES: u32 = 36;
/// Integers have 64 bits from revision 2 on.
const REVISION: u8 = 2;
const SERIAL_PORTS: u8 = 8;
/// Every function of a slot, in the high word's slot number (ACPI 6.5, 6.2.13).
const ALL_FUNCTIONS: u32 = 0xffff;

/// The table, for a bus whose first `pci_slots` slots are occupied.
pub(super) fn dsdt(pci_slots: u8) -> Vec<u8> {
    let mut table = Sdt::new(*b"DSDT", HEADER_BYTES, REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    let mut body = Vec::new();
    let sleep_type = SLEEP_TYPE_S5;
    Name::new("_S5_".into(), &Package::new(vec![&sleep_type, &sleep_type, &ZERO, &ZERO])).to_aml_bytes(&mut body);
    let mut system = Vec::new();
    taken(&mut system);
    serial(&mut system, "COM1", 0, COM1, COM1_IRQ);
    serial(&mut system, "COM2", 1, COM2, COM2_IRQ);
    host_bridge(&mut system, pci_slots);
    body.extend(Scope::raw("\\_SB_".into(), system));
    table.append_slice(&body);
    table.as_slice().to_vec()
}

/// A PNP0C02 device with what no other one owns: Linux wants the ECAM window there.
fn taken(out: &mut Vec<u8>) {
    let ecam = Memory32Fixed::new(true, ECAM.start as u32, ECAM_BUS_BYTES as u32);
    Device::new(
        "MRES".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0C02")),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&ecam])),
        ],
    )
    .to_aml_bytes(out);
}

fn serial(out: &mut Vec<u8>, name: &str, uid: u8, port: u16, line: u32) {
    // Consumer, edge, active high, not shared: as on the ISA bus.
    let interrupt = Interrupt::new(true, true, false, false, line);
    let ports = IO::new(port, port, 1, SERIAL_PORTS);
    Device::new(
        Path::new(name),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &uid),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&ports, &interrupt])),
        ],
    )
    .to_aml_bytes(out);
}

fn host_bridge(out: &mut Vec<u8>, pci_slots: u8) {
    let (config_first, config_last) = (CONFIG_ADDRESS, CONFIG_DATA + 3);
    let buses = AddressSpace::new_bus_number(0u16, 0u16);
    let config = IO::new(config_first, config_first, 1, 8);
    let ports_below = AddressSpace::new_io(0u16, config_first - 1, None);
    let ports_above = AddressSpace::new_io(config_last + 1, u16::MAX, None);
    let memory = |range: &std::ops::Range<u64>| {
        let kind = AddressSpaceCacheable::NotCacheable;
        AddressSpace::new_memory(kind, true, range.start, range.end - 1, None)
    };
    let window = AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        PCI_WINDOW.start as u32,
        (PCI_WINDOW.end - 1) as u32,
        None,
    );
    let window64 = memory(&PCI64_WINDOW);
    Device::new(
        "PCI0".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0A08")),
            &Name::new("_CID".into(), &EISAName::new("PNP0A03")),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_SEG".into(), &ZERO),
            &Name::new("_BBN".into(), &ZERO),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![&buses, &config, &ports_below, &ports_above, &window, &window64]),
            ),
            &Name::new("_PRT".into(), &routing(pci_slots)),
        ],
    )
    .to_aml_bytes(out);
}

/// Which line INTA of each slot is, as the IOAPIC's inputs are numbered.
fn routing(pci_slots: u8) -> PackageBuilder {
    let mut all = PackageBuilder::new();
    for slot in 0..pci_slots {
        let address = u32::from(slot) << 16 | ALL_FUNCTIONS;
        all.add_element(&Package::new(vec![&address, &ZERO, &ZERO, &intx_line(slot)]));
    }
    all
}
