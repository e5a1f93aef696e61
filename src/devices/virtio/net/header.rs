//! The header before each frame (virtio 1.2, 5.1.6): what of it is left to do.
//!
//! ```text
//!   0 flags   1 gso_type   2 hdr_len   4 gso_size   6 csum_start   8 csum_offset   10 num_buffers     12 bytes, LE
//! ```

use super::features::{self, F_CSUM, F_HOST_ECN, F_HOST_TSO4, F_HOST_TSO6, F_HOST_UFO, F_HOST_USO};
use super::tap::Offloads;

/// Bytes of a header.
pub const HEADER_BYTES: usize = 12;

/// The checksum from `csum_start` on is to be put at `csum_offset` after it.
const NEEDS_CSUM: u8 = 1;
/// The host has seen that the checksum is right.
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_UDP: u8 = 3;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// One header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header(pub [u8; HEADER_BYTES]);

impl Header {
    /// The header that goes to the host with a frame of `frame_bytes`, where a driver with `features` may send this
    /// one; none: the frame is dropped. The host's kernel checks it against the frame's contents.
    pub fn from_guest(self, features: u64, frame_bytes: usize) -> Option<Header> {
        let checksum = self.flags() & NEEDS_CSUM != 0;
        let segments = self.gso_type() != GSO_NONE;
        if checksum && (features & F_CSUM == 0 || self.word(6) + self.word(8) + 2 > frame_bytes) {
            return None;
        }
        let may_be_cut = features::accepted(features, needs_of_host(self.gso_type())?);
        if segments && !(may_be_cut && checksum && self.word(4) > 0 && self.word(2) <= frame_bytes) {
            return None;
        }
        let mut clean = self;
        clean.0[0] &= NEEDS_CSUM;
        clean.set_buffers(0);
        if !segments {
            clean.0[2..6].fill(0);
        }
        if !checksum {
            clean.0[6..10].fill(0);
        }
        Some(clean)
    }

    /// The header as the guest gets it in `buffers` buffers, where the driver takes frames of `offloads`; none: it came
    /// before the driver gave that up, and the frame is dropped.
    pub fn for_guest(self, offloads: Offloads, buffers: u16) -> Option<Header> {
        if !offloads.has(needs_of_guest(self.gso_type())?) {
            return None;
        }
        let mut clean = self;
        clean.0[0] &= NEEDS_CSUM | DATA_VALID;
        if !offloads.has(Offloads::CHECKSUM) {
            if clean.flags() & NEEDS_CSUM != 0 {
                return None;
            }
            clean.0[0] = 0;
        }
        clean.set_buffers(buffers);
        Some(clean)
    }

    fn flags(&self) -> u8 {
        self.0[0]
    }

    fn gso_type(&self) -> u8 {
        self.0[1]
    }

    fn word(&self, at: usize) -> usize {
        usize::from(u16::from_le_bytes([self.0[at], self.0[at + 1]]))
    }

    fn set_buffers(&mut self, buffers: u16) {
        self.0[10..12].copy_from_slice(&buffers.to_le_bytes());
    }
}

/// The features without which a driver may not send frames of this kind; none: there is no such kind.
fn needs_of_host(gso_type: u8) -> Option<u64> {
    let ecn = if gso_type & GSO_ECN != 0 { F_HOST_ECN } else { 0 };
    Some(match (gso_type & !GSO_ECN, gso_type & GSO_ECN != 0) {
        (GSO_NONE, false) => 0,
        (GSO_TCPV4, _) => F_HOST_TSO4 | ecn,
        (GSO_TCPV6, _) => F_HOST_TSO6 | ecn,
        (GSO_UDP, false) => F_HOST_UFO,
        (GSO_UDP_L4, false) => F_HOST_USO,
        _ => return None,
    })
}

/// The same the other way round.
fn needs_of_guest(gso_type: u8) -> Option<Offloads> {
    let ecn = if gso_type & GSO_ECN != 0 { Offloads::ECN } else { Offloads::NONE };
    Some(match (gso_type & !GSO_ECN, gso_type & GSO_ECN != 0) {
        (GSO_NONE, false) => Offloads::NONE,
        (GSO_TCPV4, _) => Offloads::TSO4.with(ecn),
        (GSO_TCPV6, _) => Offloads::TSO6.with(ecn),
        (GSO_UDP, false) => Offloads::UFO,
        (GSO_UDP_L4, false) => Offloads::USO,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(flags: u8, gso_type: u8, words: [u16; 4]) -> Header {
        let mut header = Header::default();
        header.0[..2].copy_from_slice(&[flags, gso_type]);
        for (at, word) in words.into_iter().enumerate() {
            header.0[2 + 2 * at..4 + 2 * at].copy_from_slice(&word.to_le_bytes());
        }
        header
    }

    #[test]
    fn a_driver_sends_what_it_has_accepted_and_no_more() {
        let tcp = header(NEEDS_CSUM, GSO_TCPV4, [54, 1448, 34, 16]);
        assert_eq!(tcp.from_guest(F_CSUM | F_HOST_TSO4, 9000), Some(tcp));
        assert_eq!(tcp.from_guest(F_CSUM | F_HOST_TSO6, 9000), None);
        assert_eq!(tcp.from_guest(F_HOST_TSO4, 9000), None);
        assert_eq!(tcp.from_guest(F_CSUM | F_HOST_TSO4, 51), None, "the checksum would lie past the frame");
        assert_eq!(header(0, GSO_TCPV4, [54, 1448, 0, 0]).from_guest(u64::MAX, 9000), None, "without a checksum");
        assert_eq!(header(1, GSO_TCPV4, [54, 0, 34, 16]).from_guest(u64::MAX, 9000), None, "pieces of no size");
        assert_eq!(header(1, GSO_UDP | GSO_ECN, [42, 1000, 34, 6]).from_guest(u64::MAX, 9000), None);
        assert_eq!(header(1, 2, [42, 1000, 34, 6]).from_guest(u64::MAX, 9000), None, "no such kind");
        let stale = header(DATA_VALID | 0xf0, GSO_NONE, [1, 2, 3, 4]);
        assert_eq!(stale.from_guest(0, 60), Some(Header::default()));
    }

    #[test]
    fn a_guest_gets_what_its_driver_takes() {
        let plain = header(DATA_VALID, GSO_NONE, [0; 4]);
        assert_eq!(plain.for_guest(Offloads::NONE, 1).map(|header| (header.0[0], header.0[10])), Some((0, 1)));
        assert_eq!(plain.for_guest(Offloads::CHECKSUM, 3).map(|header| (header.0[0], header.0[10])), Some((2, 3)));
        let partial = header(NEEDS_CSUM, GSO_NONE, [0, 0, 34, 16]);
        assert_eq!(partial.for_guest(Offloads::NONE, 1), None);
        let tcp = header(NEEDS_CSUM, GSO_TCPV6 | GSO_ECN, [74, 1428, 54, 16]);
        let takes = Offloads::CHECKSUM.with(Offloads::TSO6);
        assert_eq!(tcp.for_guest(takes, 1), None);
        assert!(tcp.for_guest(takes.with(Offloads::ECN), 1).is_some());
    }

    proptest! {
        /// Whatever a guest writes: what goes to the host keeps within the frame and the features.
        #[test]
        fn nothing_wild_goes_to_the_host(bytes in any::<[u8; HEADER_BYTES]>(), features in any::<u64>(), frame in 0usize..70_000) {
            if let Some(header) = Header(bytes).from_guest(features, frame) {
                prop_assert_eq!(header.flags() & !NEEDS_CSUM, 0);
                prop_assert!(header.flags() == 0 || header.word(6) + header.word(8) + 2 <= frame);
                prop_assert!(header.flags() == 0 || features & F_CSUM != 0);
                prop_assert!(header.gso_type() == 0 || header.word(2) <= frame && header.word(4) > 0 && header.flags() == 1);
                prop_assert_eq!(header.from_guest(features, frame), Some(header));
            }
        }
    }
}
