//! MSI-X and event indexes, through the registers and the worker.

use std::sync::atomic::Ordering;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::driver::*;
use crate::devices::virtio::ring::Ring;
use crate::devices::virtio::{Event, F_EVENT_IDX, QueueSetup};

const TABLE: u64 = 0x4000;
const PENDING: u64 = 0x6000;

/// Where the MSI-X capability is.
fn capability(rig: &mut Rig) -> usize {
    let mut byte = [0];
    rig.transport.config_read(0x34, &mut byte);
    loop {
        let at = usize::from(byte[0]);
        assert_ne!(at, 0, "there is one");
        rig.transport.config_read(at, &mut byte);
        if byte[0] == 0x11 {
            return at;
        }
        rig.transport.config_read(at + 1, &mut byte);
    }
}

fn control(rig: &mut Rig, value: u16) {
    let at = capability(rig) + 2;
    for event in rig.transport.config_write(at, &value.to_le_bytes()) {
        rig.carry_out(event);
    }
}

fn rung(rig: &Rig, vector: u16) -> bool {
    rig.link.interrupts().bell(vector).unwrap().read().is_ok()
}

/// Vector 1 for the queue, vector 0 for the configuration, both open.
fn by_messages(rig: &mut Rig) {
    control(rig, 0xc000);
    for vector in 0..2 {
        rig.write(TABLE + vector * 16, &0xfee0_0000u32.to_le_bytes());
        rig.write(TABLE + vector * 16 + 8, &(0x40 + vector as u32).to_le_bytes());
        rig.write(TABLE + vector * 16 + 12, &[0; 4]);
    }
    control(rig, 0x8000);
    rig.write(COMMON + 0x10, &0u16.to_le_bytes());
    rig.write(COMMON + 0x16, &0u16.to_le_bytes());
    rig.write(COMMON + 0x1a, &1u16.to_le_bytes());
    assert_eq!((rig.read::<2>(COMMON + 0x10), rig.read::<2>(COMMON + 0x1a)), ([0, 0], [1, 0]));
}

#[test]
fn a_queue_has_its_message_and_no_line() {
    let mut rig = Rig::new(64);
    rig.start();
    by_messages(&mut rig);
    assert_eq!(rig.request(0, 3, &[(DATA, 512)]), 0);
    rig.wait("the message", |rig| rung(rig, 1));
    assert!(!rig.transport.interrupt() && !rung(&rig, 0));
    assert_eq!((rig.read::<1>(0x1000), rig.interrupts.load(Ordering::Relaxed)), ([0], 0));
    // Masked, it is pending; and goes when it is unmasked.
    rig.write(TABLE + 16 + 12, &[1, 0, 0, 0]);
    assert_eq!(rig.request(0, 3, &[(DATA, 512)]), 0);
    rig.wait("the pending bit", |rig| rig.read::<1>(PENDING) == [0b10]);
    assert!(!rung(&rig, 1));
    rig.write(TABLE + 16 + 12, &[0; 4]);
    assert!(rung(&rig, 1));
    assert_eq!(rig.read::<1>(PENDING), [0]);
    // All masked at once, the same.
    control(&mut rig, 0xc000);
    assert_eq!(rig.request(0, 3, &[(DATA, 512)]), 0);
    rig.wait("the pending bit", |rig| rig.read::<1>(PENDING) == [0b10]);
    control(&mut rig, 0x8000);
    assert!(rung(&rig, 1));
    // A vector that is not there is none.
    rig.write(COMMON + 0x1a, &2u16.to_le_bytes());
    assert_eq!(rig.read::<2>(COMMON + 0x1a), [0xff; 2]);
    assert_eq!(rig.request(0, 3, &[(DATA, 512)]), 0);
    rig.pass_time(std::time::Duration::from_millis(5));
    assert!(!rung(&rig, 0) && !rung(&rig, 1) && rig.read::<1>(PENDING) == [0]);
}

#[test]
fn a_broken_device_tells_by_its_configuration_s_message() {
    let mut rig = Rig::new(64);
    rig.start();
    by_messages(&mut rig);
    rig.memory.write_obj(ENTRIES + 1, GuestAddress(AVAILABLE + 2)).unwrap();
    rig.write(0x3000, &[0, 0]);
    rig.wait("breaking down", Rig::is_broken);
    rig.wait("the message", |rig| rung(rig, 0));
    assert!(!rig.transport.interrupt());
    assert_eq!(rig.read::<1>(0x1000), [2]);
    rig.reset();
    assert_eq!((rig.read::<2>(COMMON + 0x10), rig.read::<2>(COMMON + 0x1a)), ([0xff; 2], [0xff; 2]));
}

#[test]
fn the_driver_says_from_which_index_on_it_wants_to_be_told() {
    let mut rig = Rig::new(64);
    rig.start_with(F_EVENT_IDX);
    let used_event = GuestAddress(AVAILABLE + 4 + u64::from(ENTRIES) * 2);
    rig.memory.write_obj(2u16, used_event).unwrap();
    for wanted in [0, 0, 1] {
        assert_eq!(rig.request(0, 3, &[(DATA, 512)]), 0);
        rig.wait("the interrupt, if it is wanted", |rig| rig.read::<1>(0x1000)[0] == wanted);
    }
    // The device wants to be told of the next one.
    let asked =
        |rig: &mut Rig| rig.memory.read_obj::<u16>(GuestAddress(USED + 4 + u64::from(ENTRIES) * 8)).unwrap() == 3;
    rig.wait("the device's own index", asked);
}

#[test]
fn doorbells_follow_the_bar_while_the_device_runs() {
    let mut rig = Rig::new(64);
    let place = |rig: &mut Rig, at: u32| rig.transport.config_write(0x10, &at.to_le_bytes());
    assert_eq!(rig.transport.config_write(0x04, &[2, 0]), []);
    assert_eq!(place(&mut rig, 0xc000_0000), [], "nothing runs");
    rig.start();
    // The rig's own events go by; what follows tells the moves.
    assert_eq!(place(&mut rig, 0xc100_0000), [Event::Doorbells { at: Some(0xc100_3000) }]);
    assert_eq!(rig.transport.config_write(0x3c, &[5]), [], "not the BAR's business");
    assert_eq!(rig.transport.config_write(0x04, &[0, 0]), [Event::Doorbells { at: None }]);
    assert_eq!(place(&mut rig, 0xc200_0000), []);
    assert_eq!(rig.transport.config_write(0x04, &[2, 0]), [Event::Doorbells { at: Some(0xc200_3000) }]);
    let events = rig.transport.bar_write(0, COMMON + 0x14, &[0]);
    assert!(matches!(events[..], [Event::Reset { .. }, Event::Doorbells { at: None }]), "{events:?}");
    events.into_iter().for_each(|event| rig.carry_out(event));
}

/// Whether the driver rings after it has added what is between the two indexes (virtio 1.2, 2.7.10 and 2.7.13.4).
fn rings(memory: &GuestMemoryMmap, event_idx: bool, before: u16, after: u16) -> bool {
    let word = |at| memory.read_obj::<u16>(GuestAddress(USED + at)).unwrap();
    if event_idx {
        let event = word(4 + 8 * u64::from(ENTRIES));
        after.wrapping_sub(event).wrapping_sub(1) < after.wrapping_sub(before)
    } else {
        word(0) & 1 == 0
    }
}

#[test]
fn a_driver_rings_for_who_rests_and_not_for_who_looks() {
    for event_idx in [false, true] {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM_BYTES)]).unwrap();
        let (descriptors, available, used) = (DESCRIPTORS, AVAILABLE, USED);
        let setup =
            QueueSetup { size: ENTRIES, enabled: true, descriptors, available, used, ..QueueSetup::new(ENTRIES) };
        let mut ring = Ring::open(&setup, event_idx, &memory).unwrap();
        // The index goes round once and a little.
        for before in (0..=u16::MAX).chain(0..9) {
            assert!(!ring.rest(&memory).unwrap());
            let after = before.wrapping_add(1);
            assert!(rings(&memory, event_idx, before, after), "{before}");
            ring.look(&memory).unwrap();
            assert!(!rings(&memory, event_idx, before, after), "{before}");
            assert!(!rings(&memory, event_idx, before, before.wrapping_add(ENTRIES)), "{before}");
            memory.write_obj(after, GuestAddress(AVAILABLE + 2)).unwrap();
            assert!(ring.rest(&memory).unwrap(), "what was added meanwhile is seen");
            assert_eq!(ring.next(&memory).unwrap().unwrap().head, 0);
        }
    }
}
