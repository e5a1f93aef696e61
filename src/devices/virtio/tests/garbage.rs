//! Whatever a guest may write: registers and queues full of garbage.

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::driver::*;
use crate::devices::virtio::pci::Transport;
use crate::devices::virtio::{Event, F_VERSION_1};

#[derive(Debug, Clone)]
enum Access {
    Read(u64, usize),
    Write(u64, Vec<u8>),
    ConfigRead(usize, usize),
    ConfigWrite(usize, Vec<u8>),
    Quiet,
    Reset,
}

fn access() -> impl Strategy<Value = Access> {
    let offset = prop_oneof![
        0u64..0x40,
        0xff0u64..0x1010,
        0x1ff0u64..0x2030,
        0x2ff0u64..0x3010,
        0x4000u64..0x4040,
        0x6000u64..0x6010,
        0u64..0x8000
    ];
    let bytes = prop::collection::vec(prop_oneof![Just(0), Just(1), Just(0xff), any::<u8>()], 1..9);
    prop_oneof![
        1 => (offset.clone(), 1usize..9).prop_map(|(offset, length)| Access::Read(offset, length)),
        6 => (offset, bytes.clone()).prop_map(|(offset, bytes)| Access::Write(offset, bytes)),
        1 => (0usize..256, 1usize..5).prop_map(|(offset, length)| Access::ConfigRead(offset, length)),
        2 => (0usize..256, bytes).prop_map(|(offset, bytes)| Access::ConfigWrite(offset, bytes)),
        1 => Just(Access::Quiet),
        1 => Just(Access::Reset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 5 } else { 2000 }))]

    /// Whatever is written to the registers, the transport keeps its own rules.
    #[test]
    fn garbage_in_the_registers(accesses in prop::collection::vec(access(), 0..200)) {
        let kind = crate::devices::virtio::pci::Kind { device_id: 2, class: 0, features: 0x244, config: vec![1; 24], writable: 3..5, queues: vec![256, 4] };
        let (mut transport, link) = Transport::new(kind).unwrap();
        let mut generation = 0;
        for access in accesses {
            let events = match access {
                Access::Read(offset, length) => { transport.bar_read(0, offset, &mut vec![0; length]); vec![] }
                Access::Write(offset, data) => transport.bar_write(0, offset, &data),
                Access::ConfigRead(offset, length) => { transport.config_read(offset, &mut vec![0; length]); vec![] }
                Access::ConfigWrite(offset, data) => transport.config_write(offset, &data),
                Access::Quiet => { link.let_go(generation); vec![] }
                Access::Reset => { transport.reset(); generation += 1; vec![] }
            };
            for event in events { match event {
                Event::Started(started) => {
                    prop_assert_eq!(started.generation, generation);
                    prop_assert_ne!(started.features & F_VERSION_1, 0);
                    prop_assert_eq!(started.features & !(0x244 | F_VERSION_1), 0);
                    for queue in &started.queues {
                        prop_assert!(queue.size.is_power_of_two() && queue.size <= queue.most);
                    }
                }
                Event::Reset { generation: new } => { prop_assert_eq!(new, generation + 1); generation = new; }
                Event::Notify { queue } => prop_assert!(queue < 2),
                Event::Vector(change) => prop_assert!(change.vector < 3),
                Event::Doorbells { at } => prop_assert!(at.is_none_or(|at| at % 0x1000 == 0)),
                Event::Configured => {}
            } }
            let mut status = [0];
            transport.bar_read(0, 0x14, &mut status);
            prop_assert!(status[0] & 4 == 0 || status[0] & 8 != 0, "DRIVER_OK without FEATURES_OK: {:#x}", status[0]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Random descriptors, rings and headers: each request is answered or breaks the device, and a reset mends it.
    #[test]
    fn garbage_in_the_queue(
        descriptors in prop::collection::vec((any::<u8>(), 0u32..5000, 0u16..8, 0u16..20), 16),
        heads in prop::collection::vec(0u16..20, 1..16),
        kind in 0u32..14,
        sector in 0u64..70,
    ) {
        let mut rig = Rig::new(64);
        rig.start();
        rig.memory.write_obj(kind, GuestAddress(HEADER)).unwrap();
        rig.memory.write_obj(sector, GuestAddress(HEADER + 8)).unwrap();
        for (index, (place, length, flags, next)) in (0..).zip(descriptors) {
            let (address, length) = match place % 8 {
                0 | 1 => (HEADER, 16),
                2 => (STATUS, 1),
                3 => (u64::from(place) << 40, length),
                4 => (RAM_BYTES as u64 - u64::from(place), length),
                5 => (DESCRIPTORS, length % 512),
                _ => (DATA + u64::from(place) * 3, length),
            };
            rig.descriptor(DESCRIPTORS, index, (address, length, flags, next));
        }
        for head in heads {
            rig.ring(head);
        }
        let due = rig.next;
        rig.wait("an end", |rig| rig.used() >= due || rig.is_broken());
        rig.start();
        prop_assert_eq!(rig.request(0, 5, &[(DATA, 512)]), 0);
    }
}
