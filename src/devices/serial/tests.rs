//! The port as Linux's 8250 driver probes and uses it, and random accesses against a model.

use proptest::prelude::*;

use super::{INPUT_BYTES, Serial};

#[test]
fn linux_finds_a_16550a() {
    let mut port = Serial::default();
    // autoconfig: does the interrupt enable register hold its four bits, and only those?
    port.write(1, 0);
    assert_eq!(port.read(1) & 0x0f, 0);
    port.write(1, 0xff);
    assert_eq!(port.read(1), 0x0f);
    port.write(1, 0);
    // Loopback: RTS and OUT2 come back as CTS and DCD.
    port.write(4, 0x1a);
    assert_eq!(port.read(6) & 0xf0, 0x90);
    port.write(4, 0);
    // A FIFO that works; no 64-byte one, no enhanced registers.
    port.write(2, 1);
    assert_eq!(port.read(2) >> 6, 3);
    port.write(3, 0x80);
    port.write(2, 0x21);
    assert_eq!(port.read(2) >> 5, 6);
    assert_ne!(port.read(2), 0);
    port.write(3, 0);
    // The scratch register.
    port.write(7, 0xa5);
    assert_eq!(port.read(7), 0xa5);
}

#[test]
fn the_transmitter_is_always_ready_and_interrupts_when_asked() {
    let mut port = Serial::default();
    assert_eq!(port.read(5), 0x60);
    assert_eq!(port.write(0, b'A'), Some(b'A'));
    assert!(!port.interrupt());
    port.write(1, 2);
    assert!(port.interrupt());
    assert_eq!(port.read(2), 0x02);
    assert!(!port.interrupt(), "reading which it is clears it");
    assert_eq!(port.write(0, b'B'), Some(b'B'));
    assert!(port.interrupt());
    port.write(1, 0);
    assert!(!port.interrupt());
}

#[test]
fn input_waits_in_order_and_is_bounded() {
    let mut port = Serial::default();
    port.write(1, 1);
    assert_eq!(port.input(&[7; INPUT_BYTES + 9]), INPUT_BYTES);
    assert_eq!(port.input(b"x"), 0);
    assert!(port.interrupt() && !port.has_room_again());
    assert_eq!(port.read(2), 0x04);
    for taken in 0..INPUT_BYTES {
        assert_eq!(port.read(5) & 3, 1, "data ready, no overrun");
        assert_eq!(port.read(0), 7);
        assert_eq!(port.has_room_again(), taken + 1 == INPUT_BYTES / 2, "told once");
    }
    assert_eq!(port.read(5) & 1, 0);
    assert!(!port.interrupt());
}

#[test]
fn clearing_the_fifo_leaves_what_is_still_on_the_line() {
    let mut port = Serial::default();
    port.write(2, 1);
    port.input(&(0..40).collect::<Vec<u8>>());
    port.write(2, 3);
    assert_eq!(port.read(0), 16);
}

#[test]
fn loopback_cuts_the_line_and_returns_what_is_sent() {
    let mut port = Serial::default();
    port.write(4, 0x10);
    assert_eq!(port.input(b"host"), 0);
    assert_eq!(port.write(0, b'L'), None);
    assert_eq!((port.read(5) & 1, port.read(0)), (1, b'L'));
    for _ in 0..=INPUT_BYTES {
        port.write(0, 0);
    }
    assert_eq!((port.read(5) & 2, port.read(5) & 2), (2, 0), "an overrun is told once");
    port.write(2, 1);
    port.write(4, 0);
    while port.read(5) & 1 != 0 {
        port.read(0);
    }
    assert!(port.has_room_again(), "the host that was turned away is told");
    assert_eq!(port.input(b"host"), 4);
}

#[test]
fn modem_changes_are_told_once() {
    let mut port = Serial::default();
    port.write(1, 8);
    port.write(4, 0x10);
    assert!(port.interrupt());
    assert_eq!(port.read(6), 0x0b, "all lines fell but the ring indicator, which was down");
    assert!(!port.interrupt());
    port.write(4, 0x14);
    assert_eq!(port.read(6), 0x40, "a ring that begins is no change");
    port.write(4, 0x10);
    assert_eq!(port.read(6), 0x04, "one that ends is");
}

#[test]
fn a_reset_forgets_all_but_the_waiting_host() {
    let mut port = Serial::default();
    port.write(3, 0x83);
    port.write(0, 1);
    port.input(&[0; INPUT_BYTES + 1]);
    port.reset();
    assert_eq!((port.read(3), port.read(5), port.has_room_again()), (0, 0x60, true));
}

#[test]
fn with_a_handshake_input_waits_until_the_guest_asks_for_it() {
    let mut port = Serial::with_handshake();
    assert_eq!((port.input(b"ab"), port.has_room_again()), (0, false));
    // What Linux tries to find out which chip this is: interrupts, loopback, FIFOs.
    for (register, value) in [(1, 0x0f), (1, 0x00), (4, 0x1a), (4, 0x08), (2, 0x01), (2, 0x07), (2, 0x00)] {
        port.write(register, value);
        assert_eq!((port.input(b"ab"), port.has_room_again()), (0, false), "{register} {value:#x}");
    }
    port.write(4, 0x0b);
    assert!(port.has_room_again(), "the host is told");
    assert_eq!((port.input(b"ab"), port.read(0)), (2, b'a'));
    port.reset();
    assert_eq!(port.input(b"ab"), 0, "a guest that starts anew has to ask anew");
}

proptest! {
    /// Every byte the host gives comes out in order, every byte the guest sends goes out, whatever
    /// else the guest touches, as long as it neither loops back nor clears the FIFO.
    #[test]
    fn no_byte_is_lost(steps in prop::collection::vec((0u8..5, any::<u8>()), 0..400)) {
        let mut port = Serial::default();
        let (mut given, mut got) = (Vec::new(), Vec::new());
        for (step, value) in steps {
            match step {
                0 => {
                    let taken = port.input(&vec![value; usize::from(value)]);
                    given.extend(std::iter::repeat_n(value, taken));
                }
                1 => {
                    port.write(3, 0x03);
                    while port.read(5) & 1 != 0 && got.len() % 97 != 96 {
                        got.push(port.read(0));
                    }
                    if port.read(5) & 1 != 0 {
                        got.push(port.read(0));
                    }
                }
                2 => {
                    port.write(3, value & 0x7f);
                    prop_assert_eq!(port.write(0, value), Some(value));
                }
                3 => _ = port.write([1, 3, 7][usize::from(value % 3)], value),
                _ => _ = port.read([2, 3, 4, 5, 6, 7][usize::from(value % 6)]),
            }
        }
        port.write(3, 0);
        while port.read(5) & 1 != 0 {
            got.push(port.read(0));
        }
        prop_assert_eq!(got, given);
    }

    /// Random accesses: no panic, the queue stays bounded, and an interrupt is due exactly when the
    /// identification names one.
    #[test]
    fn the_line_and_the_identification_agree(steps in prop::collection::vec((0u16..9, any::<bool>(), any::<u8>()), 0..300)) {
        let mut port = Serial::default();
        for (offset, write, value) in steps {
            if write { port.write(offset, value); } else { port.read(offset); }
            port.input(&[value; 3]);
            let line = port.interrupt();
            prop_assert_eq!(line, port.read(2) & 1 == 0);
        }
    }
}
