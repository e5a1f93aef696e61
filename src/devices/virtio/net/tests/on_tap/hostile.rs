//! A driver that breaks rules: its card breaks, and nothing else does.

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::cable::{OURS, frame};
use super::driver::*;
use crate::devices::virtio::net::features::*;

/// A started card, a rule broken, the card broken; then a reset makes it whole.
fn breaks(rule: impl Fn(&mut Rig)) {
    let mut rig = Rig::new(true);
    rig.start(F_MRG_RXBUF | F_CTRL_VQ);
    rule(&mut rig);
    rig.wait("the card to break", Rig::is_broken);
    rig.start(F_MRG_RXBUF | F_CTRL_VQ);
    rig.send([0; 12], &frame(1, 60, OURS), 60);
    assert_eq!(rig.cable.receive(OURS), frame(1, 60, OURS));
}

#[test]
fn frames_outside_ram_break_it() {
    for (address, length) in [(RAM_BYTES as u64, 100), (u64::MAX, 100), (RAM_BYTES as u64 - 50, 100), (0, u32::MAX)] {
        breaks(|rig| {
            rig.descriptor(1, 0, (address, length, 0, 0));
            rig.add(1, 0);
            rig.ring(1);
        });
    }
}

#[test]
fn chains_without_an_end_and_without_a_header_break_it() {
    breaks(|rig| {
        rig.descriptor(1, 0, (buffers(1), 100, NEXT, 0));
        rig.add(1, 0);
        rig.ring(1);
    });
    breaks(|rig| {
        rig.descriptor(1, 0, (buffers(1), 11, 0, 0));
        rig.add(1, 0);
        rig.ring(1);
    });
    breaks(|rig| rig.give_buffers(1, 11));
    breaks(|rig| {
        rig.descriptor(2, 0, (buffers(2), 2, 0, 0));
        rig.add(2, 0);
        rig.ring(2);
    });
}

#[test]
fn an_index_that_runs_wild_breaks_it() {
    for queue in 0..3 {
        breaks(|rig| {
            rig.memory.write_obj(ENTRIES + 2, GuestAddress(available(queue) + 2)).unwrap();
            rig.ring(queue);
            // The receiving queue is looked at when there is a frame.
            rig.cable.send(&frame(1, 60, OURS));
        });
    }
}

#[test]
fn frames_that_cannot_be_are_dropped() {
    let mut rig = Rig::new(true);
    rig.start(F_MRG_RXBUF | F_CSUM | F_HOST_TSO4);
    // Too short, too long, headers that lead past the frame or that the kernel refuses.
    rig.send([0; 12], &frame(1, 14, OURS)[..13], 13);
    rig.send([0; 12], &frame(1, 66_000, OURS), 2000);
    rig.send([1, 0, 0, 0, 0, 0, 50, 0, 60, 0, 0, 0], &frame(1, 60, OURS), 60);
    rig.send([1, 1, 60, 0, 1, 0, 0xff, 0xff, 0xff, 0xff, 0, 0], &frame(1, 60, OURS), 60);
    rig.send([1, 1, 54, 0, 100, 0, 34, 0, 16, 0, 0, 0], &frame(1, 60, OURS), 60);
    rig.send([1, 0x7f, 54, 0, 100, 0, 34, 0, 16, 0, 0, 0], &frame(1, 60, OURS), 60);
    rig.send([0; 12], &frame(2, 60, OURS), 60);
    let mut got = rig.cable.receive(OURS);
    while got[11] != 2 {
        got = rig.cable.receive(OURS);
    }
    assert_eq!(got, frame(2, 60, OURS));
    assert!(!rig.is_broken());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Random descriptors, rings and commands: the card breaks or drops, and works after a reset.
    #[test]
    fn whatever_a_driver_writes_the_card_works_again(
        junk in prop::collection::vec((0u64..3, 0u16..64, 0u64..0x90_0000, 0u32..0x2_0000, 0u16..8, 0u16..70), 1..40),
        heads in prop::collection::vec((0u64..3, 0u16..70), 1..40),
        seed in any::<u8>(),
    ) {
        let mut rig = Rig::new(true);
        rig.start(rig_features());
        for (queue, index, address, length, flags, next) in junk {
            rig.descriptor(queue, index, (address, length, flags, next));
        }
        for (queue, head) in heads {
            rig.add(queue, head);
            rig.ring(queue);
            rig.cable.send(&frame(seed, 200, OURS));
        }
        rig.start(F_MRG_RXBUF);
        rig.send([0; 12], &frame(9, 60, [0x88, 0xb6]), 60);
        prop_assert_eq!(rig.cable.receive([0x88, 0xb6]), frame(9, 60, [0x88, 0xb6]));
    }
}

fn rig_features() -> u64 {
    F_MRG_RXBUF | F_CSUM | F_HOST_TSO4 | F_GUEST_CSUM | F_GUEST_TSO4 | F_CTRL_VQ | F_CTRL_GUEST_OFFLOADS
}
