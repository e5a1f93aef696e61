//! The control queue (virtio 1.2, 5.1.6.5): the driver changes its mind.
//!
//! ```text
//!   chain:  class, command, then what belongs to it  ──▶  one byte back: done, or refused
//! ```

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::features::{F_CTRL_GUEST_OFFLOADS, F_GUEST_ANNOUNCE, accepted, changeable};
use crate::devices::virtio::ring::{self, Malformed, Ring};

const DONE: u8 = 0;
const REFUSED: u8 = 1;
const ANNOUNCE_ACK: [u8; 2] = [3, 0];
const GUEST_OFFLOADS_SET: [u8; 2] = [5, 0];

/// What a command asks of the card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Frames may come so from now on: GUEST features, of those that were accepted.
    Offloads(u64),
    /// The driver has announced itself.
    Announced,
    /// Nothing that this card knows.
    Unknown,
}

/// A command that has not been answered.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// What it asks.
    pub command: Command,
    head: u16,
    answer: GuestAddress,
}

/// The control queue of a running card.
#[derive(Debug)]
pub struct Control {
    ring: Ring,
    features: u64,
}

impl Control {
    /// Takes commands by `ring`, from a driver with `features`.
    pub fn new(ring: Ring, features: u64) -> Control {
        Control { ring, features }
    }

    /// The queue.
    pub fn ring(&mut self) -> &mut Ring {
        &mut self.ring
    }

    /// The next command; nothing when there is none. It is to be carried out, then answered.
    pub fn next(&mut self, memory: &GuestMemoryMmap) -> Result<Option<Asked>, Malformed> {
        let Some(mut chain) = self.ring.next(memory)? else { return Ok(None) };
        let answer = chain.writable.iter().find(|part| part.bytes > 0).ok_or(Malformed::Short)?.address;
        let mut bytes = [0; 11];
        let length = ring::take(&mut chain.readable, &mut bytes, memory)?;
        if length < 2 {
            return Err(Malformed::Short);
        }
        let command = understand(&bytes[..length], self.features);
        Ok(Some(Asked { command, head: chain.head, answer }))
    }

    /// Tells the driver that its command has been carried out, or refused. What it looks at then has changed already.
    pub fn answer(&mut self, asked: &Asked, memory: &GuestMemoryMmap) -> Result<(), Malformed> {
        let done = if asked.command == Command::Unknown { REFUSED } else { DONE };
        memory.write_obj(done, asked.answer).map_err(|_| Malformed::Outside)?;
        self.ring.used(asked.head, 1, memory)
    }
}

/// What `bytes` mean from a driver with `features`.
fn understand(bytes: &[u8], features: u64) -> Command {
    let (command, rest) = bytes.split_at(2);
    match (<[u8; 2]>::try_from(command), <[u8; 8]>::try_from(rest)) {
        (Ok(ANNOUNCE_ACK), Err(_)) if rest.is_empty() && accepted(features, F_GUEST_ANNOUNCE) => Command::Announced,
        (Ok(GUEST_OFFLOADS_SET), Ok(wanted)) if accepted(features, F_CTRL_GUEST_OFFLOADS) => {
            let wanted = u64::from_le_bytes(wanted);
            if accepted(changeable(features), wanted) { Command::Offloads(wanted) } else { Command::Unknown }
        }
        _ => Command::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::virtio::net::features::{F_GUEST_CSUM, F_GUEST_TSO4};

    #[test]
    fn only_what_was_accepted_can_be_changed() {
        let features = F_CTRL_GUEST_OFFLOADS | F_GUEST_CSUM | F_GUEST_ANNOUNCE;
        let set = |wanted: u64| [&GUEST_OFFLOADS_SET[..], &wanted.to_le_bytes()].concat();
        assert_eq!(understand(&set(F_GUEST_CSUM), features), Command::Offloads(F_GUEST_CSUM));
        assert_eq!(understand(&set(0), features), Command::Offloads(0));
        assert_eq!(understand(&set(F_GUEST_TSO4), features), Command::Unknown);
        assert_eq!(understand(&set(0), F_GUEST_CSUM), Command::Unknown);
        assert_eq!(understand(&set(0)[..9], features), Command::Unknown);
        assert_eq!(understand(&ANNOUNCE_ACK, features), Command::Announced);
        assert_eq!(understand(&ANNOUNCE_ACK, 0), Command::Unknown);
        assert_eq!(understand(&[0, 0, 1], features), Command::Unknown);
    }
}
