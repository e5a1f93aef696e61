//! Frames of the guest: out of its memory, into the tap.
//!
//! A frame whose header asks for what the driver has not agreed on, or for what cannot be, is dropped, as is one that
//! the host's kernel refuses. The header is copied before it is checked: the guest cannot change it afterwards.

use vm_memory::GuestMemoryMmap;

use super::MOST_FRAME_BYTES;
use super::header::{HEADER_BYTES, Header};
use super::tap::Tap;
use crate::devices::virtio::ring::{self, Chain, Malformed, Ring};

/// Most pieces of memory in one frame; the kernel takes one more, the header.
const MOST_PIECES: usize = 1023;
/// Less than an Ethernet header is no frame.
const LEAST_FRAME_BYTES: usize = 14;

/// What came of looking for a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// One is on its way, or was dropped.
    Frame,
    /// There is one, and it may not pass now.
    Held,
    /// There is none.
    None,
}

/// The sending half of a running card.
#[derive(Debug)]
pub struct Sender {
    ring: Ring,
    features: u64,
    dropped: u64,
}

impl Sender {
    /// Sends what comes by `ring`, for a driver with `features`.
    pub fn new(ring: Ring, features: u64) -> Sender {
        Sender { ring, features, dropped: 0 }
    }

    /// The queue.
    pub fn ring(&mut self) -> &mut Ring {
        &mut self.ring
    }

    /// How many frames were dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Sends one frame, if there is one and it may pass.
    pub fn send(
        &mut self,
        tap: &Tap,
        memory: &GuestMemoryMmap,
        may_pass: impl FnOnce() -> bool,
    ) -> Result<Sent, Malformed> {
        let Some(mut chain) = self.ring.next(memory)? else { return Ok(Sent::None) };
        if !may_pass() {
            self.ring.undo_next();
            return Ok(Sent::Held);
        }
        if !self.send_chain(&mut chain, tap, memory)? {
            self.dropped += 1;
        }
        self.ring.used(chain.head, 0, memory)?;
        Ok(Sent::Frame)
    }

    fn send_chain(&self, chain: &mut Chain, tap: &Tap, memory: &GuestMemoryMmap) -> Result<bool, Malformed> {
        let mut header = Header::default();
        if ring::take(&mut chain.readable, &mut header.0, memory)? < HEADER_BYTES {
            return Err(Malformed::Short);
        }
        let bytes = usize::try_from(chain.readable_bytes()).unwrap_or(usize::MAX);
        if !(LEAST_FRAME_BYTES..=MOST_FRAME_BYTES).contains(&bytes) || chain.readable.len() > MOST_PIECES {
            return Ok(false);
        }
        let Some(mut header) = header.from_guest(self.features, bytes) else { return Ok(false) };
        let mut iovecs = vec![libc::iovec { iov_base: header.0.as_mut_ptr().cast(), iov_len: HEADER_BYTES }];
        for part in &chain.readable {
            iovecs.extend(self.ring.places().vector(part)?);
        }
        // SAFETY: the header is ours; the others are guest RAM, which `memory` keeps there.
        Ok(unsafe { tap.write_from(&iovecs) }.is_ok())
    }
}
