//! Frames for the guest: out of the tap, into the buffers that its driver has made available.
//!
//! ```text
//!   ring ── next ──▶ held: buffers for the largest frame ── readv ──▶ frame in the first n of them ── used, together
//!                       ▲                                                        │
//!                       └──────────────── the others wait for the next frame ◀───┘
//! ```
//!
//! A frame that is larger than what is held is cut by the kernel, and dropped. Who takes several buffers a frame and has
//! shown that it can give enough for the largest is waited for instead: the frame stays in the tap's queue.

use std::collections::VecDeque;
use std::io::ErrorKind;

use vm_memory::GuestMemoryMmap;

use super::header::{HEADER_BYTES, Header};
use super::tap::{Offloads, Tap};
use super::{ETHERNET_BYTES, MOST_FRAME_BYTES};
use crate::devices::virtio::ring::{self, Chain, Malformed, Ring};

/// Most pieces of memory that are held at a time: the kernel takes 1024, of which the header and the end are two.
const MOST_PIECES: usize = 1022;

/// What came of looking for a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Looked {
    /// One was there; whether the guest got it or not.
    Frame,
    /// None is there.
    Dry,
    /// The guest gives no buffers.
    NoRoom,
    /// The tap is gone.
    Gone,
}

/// The receiving half of a running card.
#[derive(Debug)]
pub struct Receiver {
    ring: Ring,
    mergeable: bool,
    offloads: Offloads,
    most_bytes: u64,
    /// It has once given enough for the largest frame.
    roomy: bool,
    held: VecDeque<Chain>,
    pieces: usize,
    /// Frames that did not fit, or were no longer wanted.
    dropped: u64,
}

impl Receiver {
    /// Receives by `ring`, several buffers a frame if `mergeable`.
    pub fn new(ring: Ring, mergeable: bool) -> Receiver {
        Receiver {
            ring,
            mergeable,
            offloads: Offloads::NONE,
            most_bytes: 0,
            roomy: false,
            held: VecDeque::new(),
            pieces: 0,
            dropped: 0,
        }
    }

    /// The queue.
    pub fn ring(&mut self) -> &mut Ring {
        &mut self.ring
    }

    /// How many frames were dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// From now on frames may come so, of packets of at most `mtu`.
    pub fn expect(&mut self, offloads: Offloads, mtu: u16) {
        self.offloads = offloads;
        let frame = if offloads.large() { MOST_FRAME_BYTES } else { usize::from(mtu) + ETHERNET_BYTES };
        self.most_bytes = (HEADER_BYTES + frame) as u64;
        self.roomy = false;
    }

    /// Moves one frame, if there is one and room for it.
    pub fn receive(&mut self, tap: &Tap, memory: &GuestMemoryMmap) -> Result<Looked, Malformed> {
        if !self.gather(memory)? {
            return Ok(Looked::NoRoom);
        }
        let mut header = Header::default();
        let mut end = [0u8; 1];
        let mut iovecs = vec![libc::iovec { iov_base: header.0.as_mut_ptr().cast(), iov_len: HEADER_BYTES }];
        let capacity = self.add_places(&mut iovecs)?;
        // Only a frame that is cut reaches this byte.
        iovecs.push(libc::iovec { iov_base: end.as_mut_ptr().cast(), iov_len: end.len() });
        // SAFETY: header and end are ours; the others are guest RAM, which `memory` keeps there.
        let bytes = match unsafe { tap.read_into(&iovecs) } {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Looked::Dry),
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(Looked::Frame),
            // A frame that the kernel could not describe is lost, not the tap.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EFAULT)) => {
                self.dropped += 1;
                return Ok(Looked::Frame);
            }
            Err(_) => return Ok(Looked::Gone),
        };
        if bytes > capacity {
            self.dropped += 1;
            return Ok(Looked::Frame);
        }
        let used = self.cut(bytes);
        match header.for_guest(self.offloads, used.len() as u16) {
            Some(header) => {
                ring::put(&header.0, &self.held[0].writable, memory)?;
                self.ring.used_together(&used, memory)?;
                for chain in self.held.drain(..used.len()) {
                    self.pieces -= chain.writable.len();
                }
            }
            None => self.dropped += 1,
        }
        Ok(Looked::Frame)
    }

    /// Holds buffers for the largest frame, as far as there are any; true when a frame may be read.
    fn gather(&mut self, memory: &GuestMemoryMmap) -> Result<bool, Malformed> {
        let most = if self.mergeable { self.most_bytes } else { 1 };
        let mut bytes: u64 = self.held.iter().map(Chain::writable_bytes).sum();
        while bytes < most {
            let Some(chain) = self.ring.next(memory)? else { break };
            // With several buffers a frame each of them holds a header at least (5.1.6.3.1).
            if chain.writable_bytes() < HEADER_BYTES as u64 {
                return Err(Malformed::Short);
            }
            if self.pieces + chain.writable.len() > MOST_PIECES {
                if self.held.is_empty() {
                    return Err(Malformed::Chain);
                }
                self.ring.undo_next();
                // More cannot be read at once; it is as much as there can be.
                return Ok(true);
            }
            bytes += chain.writable_bytes();
            self.pieces += chain.writable.len();
            self.held.push_back(chain);
        }
        self.roomy |= bytes >= self.most_bytes;
        Ok(bytes >= most || !(self.held.is_empty() || self.mergeable && self.roomy))
    }

    /// Where a frame goes, after its header; how many bytes there are with it.
    fn add_places(&self, iovecs: &mut Vec<libc::iovec>) -> Result<usize, Malformed> {
        let mut skip = HEADER_BYTES;
        let mut bytes = HEADER_BYTES;
        for part in self.held.iter().flat_map(|chain| &chain.writable) {
            let skipped = skip.min(part.bytes);
            skip -= skipped;
            let part = part.after(skipped);
            iovecs.extend(self.ring.places().vector(&part)?);
            bytes += part.bytes;
        }
        Ok(bytes)
    }

    /// The buffers that `bytes` fill, and how far.
    fn cut(&self, mut bytes: usize) -> Vec<(u16, u32)> {
        let mut used = Vec::new();
        for chain in &self.held {
            let written = bytes.min(chain.writable_bytes() as usize);
            used.push((chain.head, written as u32));
            bytes -= written;
            if bytes == 0 {
                break;
            }
        }
        used
    }
}
