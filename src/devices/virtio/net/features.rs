//! What a network device offers and its driver accepts (virtio 1.2, 5.1.3), and what that means for the tap.

use super::super::{F_EVENT_IDX, F_INDIRECT_DESC};
use super::tap::Offloads;

/// The driver may leave checksums to the device.
pub const F_CSUM: u64 = 1 << 0;
/// The device may leave checksums to the driver.
pub const F_GUEST_CSUM: u64 = 1 << 1;
/// The driver may change its mind about the GUEST features.
pub const F_CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
/// The device tells its MTU.
pub const F_MTU: u64 = 1 << 3;
/// The device tells its MAC address.
pub const F_MAC: u64 = 1 << 5;
/// The driver takes large frames of TCP over IPv4.
pub const F_GUEST_TSO4: u64 = 1 << 7;
/// The same over IPv6.
pub const F_GUEST_TSO6: u64 = 1 << 8;
/// The same with ECN.
pub const F_GUEST_ECN: u64 = 1 << 9;
/// The driver takes large frames of UDP, whole.
pub const F_GUEST_UFO: u64 = 1 << 10;
/// The device takes large frames of TCP over IPv4.
pub const F_HOST_TSO4: u64 = 1 << 11;
/// The same over IPv6.
pub const F_HOST_TSO6: u64 = 1 << 12;
/// The same with ECN.
pub const F_HOST_ECN: u64 = 1 << 13;
/// The device takes large frames of UDP, whole.
pub const F_HOST_UFO: u64 = 1 << 14;
/// One frame may fill several receive buffers.
pub const F_MRG_RXBUF: u64 = 1 << 15;
/// The device tells whether its cable is plugged in.
pub const F_STATUS: u64 = 1 << 16;
/// There is a control queue.
pub const F_CTRL_VQ: u64 = 1 << 17;
/// The device may ask the driver to announce itself.
pub const F_GUEST_ANNOUNCE: u64 = 1 << 21;
/// The driver takes large frames of UDP over IPv4, to be cut into datagrams.
pub const F_GUEST_USO4: u64 = 1 << 54;
/// The same over IPv6.
pub const F_GUEST_USO6: u64 = 1 << 55;
/// The device takes large frames of UDP, to be cut into datagrams.
pub const F_HOST_USO: u64 = 1 << 56;

/// Which of the driver's features are which of the tap's offloads.
const GUEST: [(u64, Offloads); 6] = [
    (F_GUEST_CSUM, Offloads::CHECKSUM),
    (F_GUEST_TSO4, Offloads::TSO4),
    (F_GUEST_TSO6, Offloads::TSO6),
    (F_GUEST_ECN, Offloads::ECN),
    (F_GUEST_UFO, Offloads::UFO),
    (F_GUEST_USO4 | F_GUEST_USO6, Offloads::USO),
];

/// What the tap does with the guest's frames, where it can do the same for the guest.
const HOST: [(u64, Offloads); 6] = [
    (F_CSUM, Offloads::CHECKSUM),
    (F_HOST_TSO4, Offloads::TSO4),
    (F_HOST_TSO6, Offloads::TSO6),
    (F_HOST_ECN, Offloads::ECN),
    (F_HOST_UFO, Offloads::UFO),
    (F_HOST_USO, Offloads::USO),
];

const ALWAYS: u64 =
    F_MTU | F_MAC | F_MRG_RXBUF | F_STATUS | F_CTRL_VQ | F_GUEST_ANNOUNCE | F_EVENT_IDX | F_INDIRECT_DESC;

/// The features of a device whose tap can do `can`.
pub fn offered(can: Offloads) -> u64 {
    let both = GUEST.iter().chain(&HOST).filter(|(_, offload)| can.has(*offload));
    let control = if can.has(Offloads::CHECKSUM) { F_CTRL_GUEST_OFFLOADS } else { 0 };
    both.fold(ALWAYS | control, |features, (feature, _)| features | feature)
}

/// What the tap may do to frames for a driver that has accepted `features`, or set them by its control queue. Without
/// checksums there is no segmentation (5.1.3.1).
pub fn offloads(features: u64) -> Offloads {
    if !accepted(features, F_GUEST_CSUM) {
        return Offloads::NONE;
    }
    let taken = GUEST.iter().filter(|(feature, _)| accepted(features, *feature));
    taken.fold(Offloads::NONE, |offloads, (_, offload)| offloads.with(*offload))
}

/// The features that a driver may set by its control queue, of those it has accepted.
pub fn changeable(features: u64) -> u64 {
    GUEST.iter().fold(0, |all, (feature, _)| all | feature) & features
}

/// True when all of `wanted` are in `features`.
pub const fn accepted(features: u64, wanted: u64) -> bool {
    features & wanted == wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_tap_cannot_is_not_offered() {
        let plain = offered(Offloads::NONE);
        assert_eq!(plain & (F_CSUM | F_GUEST_CSUM | F_HOST_TSO4 | F_GUEST_TSO4 | F_CTRL_GUEST_OFFLOADS), 0);
        assert!(accepted(plain, F_MAC | F_MRG_RXBUF | F_STATUS | F_EVENT_IDX));
        let tcp = offered(Offloads::CHECKSUM.with(Offloads::TSO4));
        assert!(accepted(tcp, F_CSUM | F_GUEST_CSUM | F_HOST_TSO4 | F_GUEST_TSO4) && tcp & F_HOST_USO == 0);
    }

    #[test]
    fn the_tap_follows_the_driver() {
        assert_eq!(offloads(F_GUEST_TSO4 | F_GUEST_UFO), Offloads::NONE, "no segmentation without checksums");
        assert_eq!(offloads(F_GUEST_CSUM | F_GUEST_USO4), Offloads::CHECKSUM, "USO comes for both or for none");
        assert_eq!(offloads(F_GUEST_CSUM | F_GUEST_TSO6), Offloads::CHECKSUM.with(Offloads::TSO6));
        assert_eq!(changeable(F_GUEST_CSUM | F_CSUM | F_MAC), F_GUEST_CSUM);
    }
}
