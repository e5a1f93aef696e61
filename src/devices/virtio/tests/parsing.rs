//! What a guest puts into its queues, read by everything that reads it: no thread, no file, no tap, so that miri sees all
//! of it (`tools/check --full`).

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::devices::virtio::QueueSetup;
use crate::devices::virtio::block::{self, disk::Geometry};
use crate::devices::virtio::net::control::Control;
use crate::devices::virtio::net::header::Header;
use crate::devices::virtio::ring::{Malformed, Ring, take};

const RAM_BYTES: usize = 0x1_0000;
const ENTRIES: u16 = 8;
const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;

fn setup() -> QueueSetup {
    QueueSetup {
        size: ENTRIES,
        enabled: true,
        descriptors: DESCRIPTORS,
        available: AVAILABLE,
        used: USED,
        ..QueueSetup::new(16)
    }
}

/// Address, length, flags and next of a descriptor; mostly such as lead somewhere.
fn descriptor() -> impl Strategy<Value = (u64, u32, u16, u16)> {
    let address = prop_oneof![
        6 => 0u64..RAM_BYTES as u64,
        2 => DESCRIPTORS..USED + 0x100,
        1 => any::<u64>(),
        1 => (0u64..64).prop_map(|back| u64::MAX - back),
    ];
    let length = prop_oneof![4 => 0u32..600, 2 => Just(16), 1 => any::<u32>(), 1 => Just(512)];
    (address, length, 0u16..8, 0u16..10)
}

/// A queue whose memory holds `descriptors` and whose available ring holds `heads`.
fn memory(descriptors: &[(u64, u32, u16, u16)], heads: &[u16], ahead: u16) -> GuestMemoryMmap {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM_BYTES)]).unwrap();
    for (index, (address, length, flags, next)) in (0..).zip(descriptors) {
        let at = DESCRIPTORS + index * 16;
        memory.write_obj(*address, GuestAddress(at)).unwrap();
        memory
            .write_obj(u64::from(*length) | u64::from(*flags) << 32 | u64::from(*next) << 48, GuestAddress(at + 8))
            .unwrap();
    }
    for (index, head) in (0..).zip(heads) {
        memory.write_obj(*head, GuestAddress(AVAILABLE + 4 + 2 * index)).unwrap();
    }
    memory.write_obj(ahead, GuestAddress(AVAILABLE + 2)).unwrap();
    memory
}

/// Reads every chain in each of the ways that devices do.
fn read_all(ring: &mut Ring, memory: &GuestMemoryMmap) -> Result<usize, Malformed> {
    let geometry = Geometry {
        read_only: false,
        block_bytes: 512,
        memory_align: 512,
        physical_bytes: 4096,
        optimal_bytes: 0,
        zero_align: Some(4096),
        write_through: false,
        one_piece: None,
    };
    let mut chains = 0;
    ring.look(memory)?;
    while let Some(chain) = ring.next(memory)? {
        chains += 1;
        assert!(chains <= 2 * usize::from(ENTRIES), "a queue holds no more than its entries");
        let mut iovecs = Vec::new();
        for part in chain.readable.iter().chain(&chain.writable) {
            iovecs.extend(ring.places().vector(part)?);
        }
        let bytes: usize = iovecs.iter().map(|piece| piece.iov_len).sum();
        assert_eq!(bytes as u64, chain.readable_bytes() + chain.writable_bytes());
        let mut header = Header::default();
        let mut readable = chain.readable.clone();
        if take(&mut readable, &mut header.0, memory)? == header.0.len() {
            let left: usize = readable.iter().map(|part| part.bytes).sum();
            assert_eq!(left as u64 + header.0.len() as u64, chain.readable_bytes());
            let _ = header.from_guest(u64::MAX, left);
        }
        let head = chain.head;
        // What is no request of a disk breaks the disk, not the queue.
        let _ = block::parse(chain, memory, ring.places(), &geometry, 64);
        ring.used_together(&[(head, 1), (head, 2)], memory)?;
        ring.wants_interrupt(memory)?;
        ring.rest(memory)?;
    }
    Ok(chains)
}

fn cases() -> ProptestConfig {
    ProptestConfig { cases: if cfg!(miri) { 8 } else { 4000 }, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    /// Whatever lies in a queue, reading it ends, and stays within RAM.
    #[test]
    fn any_queue_is_read_to_its_end(
        descriptors in prop::collection::vec(descriptor(), ENTRIES as usize),
        heads in prop::collection::vec(0u16..10, ENTRIES as usize),
        ahead in prop_oneof![4 => 0u16..=ENTRIES, 1 => any::<u16>()],
        event_idx in any::<bool>(),
    ) {
        let memory = memory(&descriptors, &heads, ahead);
        let mut ring = Ring::open(&setup(), event_idx, &memory).unwrap();
        if let Ok(chains) = read_all(&mut ring, &memory) {
            prop_assert!(chains <= usize::from(ahead) && ahead <= ENTRIES);
        }
    }

    /// The same of commands to a network card.
    #[test]
    fn any_command_is_answered_or_malformed(
        descriptors in prop::collection::vec(descriptor(), ENTRIES as usize),
        heads in prop::collection::vec(0u16..10, ENTRIES as usize),
        features in any::<u64>(),
    ) {
        let memory = memory(&descriptors, &heads, ENTRIES);
        let mut control = Control::new(Ring::open(&setup(), false, &memory).unwrap(), features);
        let mut answered = 0;
        while let Ok(Some(_)) = control.next(&memory) {
            answered += 1;
            prop_assert!(answered <= ENTRIES);
        }
    }

    /// A queue that is not wholly in RAM, or not aligned, is none.
    #[test]
    fn only_a_queue_in_ram_opens(descriptors in any::<u64>(), available in any::<u64>(), used in 0u64..0x2_0000, size in 0u32..5) {
        let memory = memory(&[], &[], 0);
        let setup = QueueSetup { size: 1 << size, descriptors, available, used, ..setup() };
        let fits = |at: u64, bytes: u64| at.checked_add(bytes).is_some_and(|end| end <= RAM_BYTES as u64);
        let entries = u64::from(setup.size);
        let good = fits(descriptors, 16 * entries) && fits(available, 6 + 2 * entries) && fits(used, 6 + 8 * entries)
            && descriptors % 16 == 0 && available % 2 == 0 && used % 4 == 0;
        prop_assert_eq!(Ring::open(&setup, true, &memory).is_ok(), good);
    }
}
