//! A guest's address on its network.

use std::fmt;
use std::str::FromStr;

/// An Ethernet address, of one station.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

/// Not an address that a guest can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no MAC address of one station; write six bytes in hexadecimal, the first one even: 52:54:00:51:90:00"
)]
pub struct BadMac {
    text: String,
}

impl Mac {
    /// One made up from a name: always the same, and marked as given out locally. Two hosts that use the same name get
    /// the same address.
    pub fn made_up(name: &str) -> Mac {
        // FNV-1a, 64 bits: it need only be spread well.
        let hash = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        let [_, _, a, b, c, d, e, f] = (hash ^ hash >> 32).to_be_bytes();
        Mac([a & 0xfc | 0x02, b, c, d, e, f])
    }

    /// True when one station can have it: not all zeros, and no group's.
    pub fn is_a_station(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl FromStr for Mac {
    type Err = BadMac;
    fn from_str(text: &str) -> Result<Mac, BadMac> {
        let bad = || BadMac { text: text.to_owned() };
        let mut bytes = [0; 6];
        let mut pieces = text.split(':');
        for byte in &mut bytes {
            let piece = pieces.next().filter(|piece| piece.len() == 2 && piece.bytes().all(|b| b.is_ascii_hexdigit()));
            *byte = u8::from_str_radix(piece.ok_or_else(bad)?, 16).map_err(|_| bad())?;
        }
        Some(Mac(bytes)).filter(|mac| pieces.next().is_none() && mac.is_a_station()).ok_or_else(bad)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_written() {
        let mac: Mac = "52:54:00:51:90:0F".parse().expect("an address");
        assert_eq!(mac.to_string(), "52:54:00:51:90:0f");
        for text in [
            "",
            "52:54:00:51:90",
            "52:54:00:51:90:00:00",
            "5254:00:51:90:0",
            "+2:54:00:51:90:00",
            "53:54:00:51:90:00",
            "00:00:00:00:00:00",
            "é2:54:00:51:90:00",
        ] {
            assert!(text.parse::<Mac>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn made_up_ones_are_local_and_differ() {
        let names: Vec<String> = (0..1000).map(|n| format!("tap{n}")).collect();
        let mut made: Vec<_> = names.iter().map(|name| Mac::made_up(name)).collect();
        assert!(made.iter().all(|mac| mac.is_a_station() && mac.0[0] & 3 == 2));
        assert_eq!(Mac::made_up("tap7"), made[7]);
        made.sort_by_key(|mac| mac.0);
        made.dedup();
        assert_eq!(made.len(), 1000);
    }
}
