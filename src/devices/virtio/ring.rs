//! A virtqueue at work: chains out of the available ring, checked; used ones back into the used ring.
//!
//! ```text
//!   open ── addresses, alignment, RAM ──▶ Ring ── next ──▶ Chain: readable parts, then writable ones ──▶ used
//!                                           │                                                              │
//!                                           └── rest: nothing left, the driver rings again ◀───────────────┘
//! ```
//!
//! The guest writes all of it, at any time. A chain ends after at most [`MOST_PARTS`] descriptors and 4 GiB; each of
//! its parts lies in RAM; whatever cannot be is [`Malformed`], and breaks the device.

use std::num::Wrapping;
use std::sync::atomic::{Ordering, fence};

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::{F_EVENT_IDX, QueueSetup, Started};

/// Most descriptors of one chain: no driver in use makes longer ones.
pub const MOST_PARTS: usize = 1024;

/// Flags, index and event index of the available ring; its entries come on top (virtio 1.2, 2.7.6).
const AVAILABLE_BYTES: usize = 6;
/// The same of the used ring (2.7.8).
const USED_BYTES: usize = 6;
/// Where the entries begin, in either ring.
const AVAILABLE_RING: u64 = 4;
const USED_RING: u64 = 4;
/// `VIRTQ_AVAIL_F_NO_INTERRUPT`.
const NO_INTERRUPT: u16 = 1;

/// What a driver must not do; why, for one line in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A queue that the device needs is not enabled, not aligned, or not in RAM.
    #[error("One of its queues lies outside RAM, is not aligned or not enabled")]
    Queue,
    /// The available index is ahead by more than the queue holds.
    #[error("Its available ring holds more than the queue")]
    Index,
    /// A descriptor leads nowhere, into a loop, or to a bad indirect table.
    #[error("Its descriptor chain has no end")]
    Chain,
    /// A readable descriptor after a writable one.
    #[error("It reads after it has written")]
    Order,
    /// A descriptor points outside RAM.
    #[error("One of its descriptors points outside RAM")]
    Outside,
    /// No room for header or status.
    #[error("It has no room for header and status")]
    Short,
}

/// A piece of guest RAM; it was checked when its chain was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// First byte, guest-physical.
    pub address: GuestAddress,
    /// Bytes, 0 too.
    pub bytes: usize,
}

impl Part {
    /// What is left of it after its first `skipped` bytes, of those that it has.
    pub fn after(self, skipped: usize) -> Part {
        Part { address: GuestAddress(self.address.0.wrapping_add(skipped as u64)), bytes: self.bytes - skipped }
    }
}

/// One descriptor chain.
#[derive(Debug, Clone, Default)]
pub struct Chain {
    /// Index of its first descriptor: what goes into the used ring.
    pub head: u16,
    /// What the device may read, in order.
    pub readable: Vec<Part>,
    /// What the device may write, in order.
    pub writable: Vec<Part>,
}

impl Chain {
    /// Bytes that the device may read.
    pub fn readable_bytes(&self) -> u64 {
        total(&self.readable)
    }

    /// Bytes that the device may write.
    pub fn writable_bytes(&self) -> u64 {
        total(&self.writable)
    }
}

/// Where guest RAM is in this process: looked up once for each part of each chain, so it is short work.
#[derive(Debug, Clone)]
pub struct Places(Vec<Place>);

#[derive(Debug, Clone, Copy)]
struct Place {
    from: u64,
    bytes: u64,
    start: *mut u8,
}

// SAFETY: an address is not memory: who goes there does so as with the guest's RAM it was taken from.
unsafe impl Send for Places {}

impl Places {
    /// Those of `memory`.
    pub fn new(memory: &GuestMemoryMmap) -> Places {
        let place = |region: &vm_memory::GuestRegionMmap| Place {
            from: region.start_addr().0,
            bytes: region.len(),
            start: region.as_ptr(),
        };
        Places(memory.iter().map(place).collect())
    }

    /// Where `part` begins, if all of it lies in one piece of RAM.
    pub fn find(&self, part: &Part) -> Option<*mut u8> {
        self.0.iter().find_map(|place| {
            let offset = part.address.0.checked_sub(place.from)?;
            let fits = offset <= place.bytes && part.bytes as u64 <= place.bytes - offset;
            fits.then(|| place.start.wrapping_add(offset as usize))
        })
    }

    /// `part` as memory of this process, for as long as the guest's RAM is there; nothing for an empty one.
    pub fn vector(&self, part: &Part) -> Result<Option<libc::iovec>, Malformed> {
        if part.bytes == 0 {
            return Ok(None);
        }
        let start = self.find(part).ok_or(Malformed::Outside)?;
        Ok(Some(libc::iovec { iov_base: start.cast(), iov_len: part.bytes }))
    }
}

/// A descriptor as it stands in memory (2.7.5), little endian.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct Descriptor {
    address: u64,
    bytes: u32,
    flags: u16,
    next: u16,
}

// SAFETY: plain numbers without padding.
unsafe impl ByteValued for Descriptor {}

const DESCRIPTOR_BYTES: usize = size_of::<Descriptor>();
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// One queue of a running device.
#[derive(Debug)]
pub struct Ring {
    queue: Queue,
    /// The used index when the driver was last asked whether it wants an interrupt.
    told: Wrapping<u16>,
    places: Places,
    /// An indirect table, while its chain is read.
    table: Vec<Descriptor>,
}

/// The one queue of a device that was started.
pub fn open_first(started: &Started, memory: &GuestMemoryMmap) -> Result<Ring, Malformed> {
    open_all(started, memory)?.into_iter().next().flatten().ok_or(Malformed::Queue)
}

/// The queues of a device that was started, in order; nothing for one that the driver did not enable.
pub fn open_all(started: &Started, memory: &GuestMemoryMmap) -> Result<Vec<Option<Ring>>, Malformed> {
    let event_idx = started.features & F_EVENT_IDX != 0;
    let open = |setup: &QueueSetup| setup.enabled.then(|| Ring::open(setup, event_idx, memory)).transpose();
    started.queues.iter().map(open).collect()
}

impl Ring {
    /// The queue that a driver set up, if it can be one: enabled, aligned (virtio 1.2, 2.7) and inside RAM.
    pub fn open(setup: &QueueSetup, event_idx: bool, memory: &GuestMemoryMmap) -> Result<Ring, Malformed> {
        let entries = usize::from(setup.size);
        let parts = [
            (setup.descriptors, 16 * entries),
            (setup.available, AVAILABLE_BYTES + 2 * entries),
            (setup.used, USED_BYTES + 8 * entries),
        ];
        if !setup.enabled || parts.iter().any(|(at, bytes)| memory.get_slice(GuestAddress(*at), *bytes).is_err()) {
            return Err(Malformed::Queue);
        }
        let queue = || -> Result<Queue, virtio_queue::Error> {
            let mut queue = Queue::new(setup.most)?;
            queue.try_set_size(setup.size)?;
            queue.try_set_desc_table_address(GuestAddress(setup.descriptors))?;
            queue.try_set_avail_ring_address(GuestAddress(setup.available))?;
            queue.try_set_used_ring_address(GuestAddress(setup.used))?;
            queue.set_event_idx(event_idx);
            queue.set_ready(true);
            Ok(queue)
        };
        let queue = queue().map_err(|_| Malformed::Queue)?;
        Ok(Ring { queue, told: Wrapping(0), places: Places::new(memory), table: Vec::new() })
    }

    /// The next chain that the driver has made available; nothing when there is none.
    pub fn next(&mut self, memory: &GuestMemoryMmap) -> Result<Option<Chain>, Malformed> {
        let Some(descriptors) = self.queue.iter(memory).map_err(|_| Malformed::Index)?.next() else { return Ok(None) };
        let head = descriptors.head_index();
        self.walk(head, memory).map(Some)
    }

    fn walk(&mut self, head: u16, memory: &GuestMemoryMmap) -> Result<Chain, Malformed> {
        let mut chain = Chain { head, ..Chain::default() };
        let (mut index, mut indirect, mut bytes) = (head, false, 0u64);
        for _ in 0..=MOST_PARTS {
            let descriptor = self.descriptor(index, indirect, memory)?;
            if descriptor.flags & INDIRECT != 0 {
                if indirect || descriptor.flags & NEXT != 0 {
                    return Err(Malformed::Chain);
                }
                self.read_table(&descriptor, memory)?;
                chain.readable.reserve(self.table.len());
                chain.writable.reserve(self.table.len());
                (index, indirect) = (0, true);
                continue;
            }
            bytes += u64::from(descriptor.bytes);
            if bytes > u64::from(u32::MAX) {
                return Err(Malformed::Chain);
            }
            let part = Part { address: GuestAddress(descriptor.address), bytes: descriptor.bytes as usize };
            if part.bytes > 0 && self.places.find(&part).is_none() {
                return Err(Malformed::Outside);
            }
            if descriptor.flags & WRITE != 0 {
                chain.writable.push(part);
            } else if chain.writable.is_empty() {
                chain.readable.push(part);
            } else {
                return Err(Malformed::Order);
            }
            if descriptor.flags & NEXT == 0 {
                return Ok(chain);
            }
            index = descriptor.next;
        }
        Err(Malformed::Chain)
    }

    fn descriptor(&self, index: u16, indirect: bool, memory: &GuestMemoryMmap) -> Result<Descriptor, Malformed> {
        let mut descriptor = if indirect {
            *self.table.get(usize::from(index)).ok_or(Malformed::Chain)?
        } else if index < self.queue.size() {
            let at = self.queue.desc_table() + u64::from(index) * DESCRIPTOR_BYTES as u64;
            memory.read_obj(GuestAddress(at)).map_err(|_| Malformed::Queue)?
        } else {
            return Err(Malformed::Chain);
        };
        descriptor.address = u64::from_le(descriptor.address);
        descriptor.bytes = u32::from_le(descriptor.bytes);
        descriptor.flags = u16::from_le(descriptor.flags);
        descriptor.next = u16::from_le(descriptor.next);
        Ok(descriptor)
    }

    /// Reads an indirect table as a whole.
    fn read_table(&mut self, descriptor: &Descriptor, memory: &GuestMemoryMmap) -> Result<(), Malformed> {
        let bytes = descriptor.bytes as usize;
        if bytes == 0 || !bytes.is_multiple_of(DESCRIPTOR_BYTES) || bytes > MOST_PARTS * DESCRIPTOR_BYTES {
            return Err(Malformed::Chain);
        }
        self.table.clear();
        self.table.resize(bytes / DESCRIPTOR_BYTES, Descriptor::default());
        let start = self.table.as_mut_ptr().cast::<u8>();
        // SAFETY: the table has just been given this length; any bytes make a descriptor.
        let raw = unsafe { std::slice::from_raw_parts_mut(start, bytes) };
        memory.read_slice(raw, GuestAddress(descriptor.address)).map_err(|_| Malformed::Chain)
    }

    /// Where guest RAM is.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// Puts the chain that was `next` last back: it will be next again.
    pub fn undo_next(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Gives a chain back to the driver; the device has written `written` bytes into it.
    pub fn used(&mut self, head: u16, written: u32, memory: &GuestMemoryMmap) -> Result<(), Malformed> {
        self.queue.add_used(memory, head, written).map_err(|_| Malformed::Chain)
    }

    /// Gives several chains back, so that the driver sees all of them or none: head and bytes written, in order.
    pub fn used_together(&mut self, chains: &[(u16, u32)], memory: &GuestMemoryMmap) -> Result<(), Malformed> {
        let Some((last, before)) = chains.split_last() else { return Ok(()) };
        let mut next = Wrapping(self.queue.next_used());
        for (head, written) in before {
            let at = USED_RING + 8 * u64::from(next.0 % self.queue.size());
            let element = u64::from(*head) | u64::from(*written) << 32;
            let place = GuestAddress(self.queue.used_ring().wrapping_add(at));
            memory.write_obj(element.to_le(), place).map_err(|_| Malformed::Queue)?;
            next += 1;
        }
        self.queue.set_next_used(next.0);
        self.used(last.0, last.1, memory)
    }

    /// Does the driver want to be told of what was used since this was asked last? Once after each batch.
    pub fn wants_interrupt(&mut self, memory: &GuestMemoryMmap) -> Result<bool, Malformed> {
        let used = Wrapping(self.queue.next_used());
        let since = std::mem::replace(&mut self.told, used);
        if used == since {
            return Ok(false);
        }
        // The driver sees what was used before this reads what it wants (2.7.7.2).
        fence(Ordering::SeqCst);
        let available = self.queue.avail_ring();
        let word = |at: u64| -> Result<u16, Malformed> {
            let place = GuestAddress(available.wrapping_add(at));
            memory.load(place, Ordering::Relaxed).map(u16::from_le).map_err(|_| Malformed::Queue)
        };
        if self.queue.event_idx_enabled() {
            let event = Wrapping(word(AVAILABLE_RING + 2 * u64::from(self.queue.size()))?);
            return Ok(used - event - Wrapping(1) < used - since);
        }
        Ok(word(0)? & NO_INTERRUPT == 0)
    }

    /// The worker looks at the queue by itself: the driver need not ring.
    pub fn look(&mut self, memory: &GuestMemoryMmap) -> Result<(), Malformed> {
        if !self.queue.event_idx_enabled() {
            return self.queue.disable_notification(memory).map_err(|_| Malformed::Queue);
        }
        // The event index lies behind: the driver reaches it when the index has gone round once (2.7.10).
        let behind = self.queue.next_avail().wrapping_sub(1);
        let at = USED_RING + 8 * u64::from(self.queue.size());
        let place = GuestAddress(self.queue.used_ring().wrapping_add(at));
        memory.store(behind.to_le(), place, Ordering::Relaxed).map_err(|_| Malformed::Queue)
    }

    /// The worker is going to wait: the driver has to ring for what it adds from now on. True when it has added
    /// something already: look again.
    pub fn rest(&mut self, memory: &GuestMemoryMmap) -> Result<bool, Malformed> {
        self.queue.enable_notification(memory).map_err(|_| Malformed::Queue)
    }
}

/// Bytes in `parts`.
pub fn total(parts: &[Part]) -> u64 {
    parts.iter().map(|part| part.bytes as u64).sum()
}

/// Copies `bytes` to the front of `parts`, as far as there is room.
pub fn put(mut bytes: &[u8], parts: &[Part], memory: &GuestMemoryMmap) -> Result<(), Malformed> {
    for part in parts {
        let (now, rest) = bytes.split_at(part.bytes.min(bytes.len()));
        memory.write_slice(now, part.address).map_err(|_| Malformed::Outside)?;
        bytes = rest;
    }
    Ok(())
}

/// Copies from the front of `parts` into `data`; what was copied is cut off them. How many bytes that were.
pub fn take(parts: &mut Vec<Part>, data: &mut [u8], memory: &GuestMemoryMmap) -> Result<usize, Malformed> {
    let mut done = 0;
    let mut emptied = 0;
    for part in parts.iter_mut() {
        let length = part.bytes.min(data.len() - done);
        memory.read_slice(&mut data[done..done + length], part.address).map_err(|_| Malformed::Outside)?;
        done += length;
        *part = part.after(length);
        if part.bytes > 0 {
            break;
        }
        emptied += 1;
    }
    parts.drain(..emptied);
    Ok(done)
}
