//! Jobs against a disk in memory that does only part of what it is asked, at times, and refuses some of it.

use libc::iovec;
use proptest::prelude::*;
use vm_memory::GuestAddress;

use crate::devices::virtio::block::disk::{Geometry, OnePiece};
use crate::devices::virtio::block::job::{Job, MOST_DIRECT_BYTES, Next, Op};
use crate::devices::virtio::block::{Request, Span, Status, Wish};

const BYTES: usize = 1 << 20;

fn geometry(block_bytes: usize, zero_align: Option<u64>) -> Geometry {
    Geometry {
        read_only: false,
        block_bytes,
        memory_align: 512,
        physical_bytes: block_bytes,
        optimal_bytes: 0,
        zero_align,
        write_through: false,
        one_piece: None,
    }
}

/// A disk that takes aligned pieces only, and of each transfer at most `most` blocks.
struct Memory {
    bytes: Vec<u8>,
    block: usize,
    most: usize,
    allocates: bool,
    submissions: usize,
}

impl Memory {
    fn perform(&mut self, op: Op) -> i32 {
        self.submissions += 1;
        if self.submissions.is_multiple_of(7) {
            return -libc::EAGAIN;
        }
        match op {
            Op::Read { at, vectors, count, .. } => self.transfer(at, vectors, count, false),
            Op::Write { at, vectors, count, .. } => self.transfer(at, vectors, count, true),
            Op::Sync => 0,
            Op::Allocate { .. } if !self.allocates => -libc::EOPNOTSUPP,
            Op::Allocate { at, bytes, .. } => {
                self.bytes[at as usize..(at + bytes) as usize].fill(0);
                0
            }
        }
    }

    fn transfer(&mut self, at: u64, vectors: *const iovec, count: usize, write: bool) -> i32 {
        // SAFETY: the job says that so many vectors are there.
        let vectors = unsafe { std::slice::from_raw_parts(vectors, count) };
        assert!((at as usize).is_multiple_of(self.block));
        let mut left = self.most * self.block;
        let mut done = 0;
        for vector in vectors {
            assert!((vector.iov_base as usize).is_multiple_of(512) && vector.iov_len.is_multiple_of(self.block));
            let length = vector.iov_len.min(left);
            // SAFETY: the job says that the vector is memory of this length.
            let memory = unsafe { std::slice::from_raw_parts_mut(vector.iov_base.cast::<u8>(), length) };
            let place = &mut self.bytes[at as usize + done..][..length];
            if write {
                place.copy_from_slice(memory)
            } else {
                memory.copy_from_slice(place)
            }
            done += length;
            left -= length;
        }
        done as i32
    }

    fn run(&mut self, wish: Wish, geometry: Geometry) -> (Status, u32) {
        let mut job = Job::new(0, 0, Request { wish, status: GuestAddress(0) }, geometry, false);
        let Some(mut op) = job.op() else { return job.end() };
        loop {
            match job.came_back(self.perform(op)) {
                Next::Step => op = job.op().expect("a step has a submission"),
                Next::Done(status, written) => return (status, written),
                Next::Failed(error) => panic!("nothing fails here: {error}"),
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Asked {
    Read(usize, Vec<(usize, usize)>),
    Write(usize, Vec<(usize, usize)>),
    Zero(usize, usize, bool),
    Discard(usize, usize),
    Flush,
}

fn asked() -> impl Strategy<Value = Asked> {
    let sector = 0usize..1000;
    let pieces = || prop::collection::vec((0usize..3000, 1usize..30), 1..6);
    prop_oneof![
        (sector.clone(), pieces()).prop_map(|(sector, pieces)| Asked::Read(sector, pieces)),
        (sector.clone(), pieces()).prop_map(|(sector, pieces)| Asked::Write(sector, pieces)),
        (sector.clone(), 0usize..1000, any::<bool>())
            .prop_map(|(sector, count, unmap)| Asked::Zero(sector, count, unmap)),
        (sector, 0usize..1000).prop_map(|(sector, count)| Asked::Discard(sector, count)),
        Just(Asked::Flush),
    ]
}

/// Pieces of `ram`, whole sectors in all, none over another.
fn vectors(ram: &mut [u8], pieces: &[(usize, usize)]) -> Vec<iovec> {
    let mut at = 0;
    let mut vectors = vec![];
    for (skip, sectors) in pieces {
        at = (at + skip).next_multiple_of(if skip % 2 == 0 { 512 } else { 1 });
        let length = sectors * 512;
        vectors.push(iovec { iov_base: ram[at..at + length].as_mut_ptr().cast(), iov_len: length });
        at += length;
    }
    vectors
}

fn gathered(vectors: &[iovec]) -> Vec<u8> {
    // SAFETY: the vectors point into the test's RAM, which is there.
    vectors
        .iter()
        .flat_map(|vector| unsafe { std::slice::from_raw_parts(vector.iov_base.cast::<u8>(), vector.iov_len) })
        .copied()
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever the alignment, and however short the disk's answers: data arrive, and nothing beside them changes.
    #[test]
    fn every_byte_finds_its_place(
        requests in prop::collection::vec(asked(), 1..12),
        block in prop_oneof![Just(512usize), Just(4096)],
        align in prop_oneof![Just(None), Just(Some(4096u64)), Just(Some(8192))],
        most in 1usize..80,
        allocates in any::<bool>(),
    ) {
        let geometry = geometry(block, align);
        let bytes: Vec<u8> = (0..BYTES).map(|at| (at / 512 * 31 + at % 7) as u8 | 1).collect();
        let mut due = bytes.clone();
        let mut disk = Memory { bytes, block, most, allocates, submissions: 0 };
        let room = vec![0xa5u8; 128 << 10];
        for (round, request) in requests.into_iter().enumerate() {
            let mut ram: Vec<u8> = room.iter().enumerate().map(|(at, byte)| byte.wrapping_add((at * 13 + round) as u8)).collect();
            match request {
                Asked::Read(sector, pieces) => {
                    let vectors = vectors(&mut ram, &pieces);
                    let length = crate::devices::virtio::block::bounce::total(&vectors);
                    let (status, written) = disk.run(Wish::Read(sector as u64 * 512, vectors.clone()), geometry);
                    prop_assert_eq!((status, written as usize), (Status::Ok, length));
                    prop_assert!(gathered(&vectors) == due[sector * 512..][..length]);
                }
                Asked::Write(sector, pieces) => {
                    let vectors = vectors(&mut ram, &pieces);
                    let data = gathered(&vectors);
                    due[sector * 512..][..data.len()].copy_from_slice(&data);
                    prop_assert_eq!(disk.run(Wish::Write(sector as u64 * 512, vectors), geometry), (Status::Ok, 0));
                }
                Asked::Zero(sector, count, unmap) => {
                    due[sector * 512..][..count * 512].fill(0);
                    let span = Span { at: sector as u64 * 512, bytes: count as u64 * 512, unmap };
                    prop_assert_eq!(disk.run(Wish::Zero(vec![span]), geometry), (Status::Ok, 0));
                }
                Asked::Discard(sector, count) => {
                    let span = Span { at: sector as u64 * 512, bytes: count as u64 * 512, unmap: false };
                    prop_assert_eq!(disk.run(Wish::Discard(vec![span]), geometry), (Status::Ok, 0));
                    let (from, to) = (sector * 512, (sector + count) * 512);
                    prop_assert!(disk.bytes[from..to].iter().zip(&due[from..to]).all(|(now, was)| now == was || *now == 0));
                    due[from..to].copy_from_slice(&disk.bytes[from..to]);
                }
                Asked::Flush => prop_assert_eq!(disk.run(Wish::Flush, geometry), (Status::Ok, 0)),
            }
            prop_assert!(disk.bytes == due, "request {}", round);
        }
    }
}

#[test]
fn a_long_transfer_goes_in_many_submissions() {
    let long = 2 * MOST_DIRECT_BYTES + 8192;
    let mut ram = vec![0u8; long + 8192];
    let start = ram.as_mut_ptr().align_offset(4096);
    let vector = |at: usize, bytes: usize| iovec {
        iov_base: ram.as_ptr().wrapping_add(start + at).cast_mut().cast(),
        iov_len: bytes,
    };
    let vectors = vec![vector(0, 4096), vector(4096, long - 4096)];
    let request = Request { wish: Wish::Write(512 * 8, vectors), status: GuestAddress(0) };
    let mut job = Job::new(0, 0, request, geometry(4096, None), false);
    assert_eq!(job.most_bytes, MOST_DIRECT_BYTES as u64);
    let mut done = 0;
    loop {
        let Some(Op::Write { at, vectors, count, .. }) = job.op() else { panic!("writes only") };
        // SAFETY: the job says that so many vectors are there.
        let vectors = unsafe { std::slice::from_raw_parts(vectors, count) };
        let bytes = crate::devices::virtio::block::bounce::total(vectors);
        assert!((1..=MOST_DIRECT_BYTES).contains(&bytes));
        assert_eq!((at, vectors[0].iov_base), (4096 + done as u64, vector(done, 0).iov_base));
        done += bytes;
        match job.came_back(bytes as i32) {
            Next::Step => {}
            Next::Done(status, _) => break assert_eq!((status, done), (Status::Ok, long)),
            Next::Failed(error) => panic!("{error}"),
        }
    }
}

#[test]
fn zeroes_that_have_to_be_durable_are_flushed() {
    for (durable, syncs) in [(false, 0), (true, 1)] {
        let spans = vec![Span { at: 0, bytes: 65536, unmap: false }, Span { at: 1 << 19, bytes: 4096, unmap: true }];
        let request = Request { wish: Wish::Zero(spans), status: GuestAddress(0) };
        let mut job = Job::new(0, 0, request, geometry(4096, Some(4096)), durable);
        assert_eq!(job.most_bytes, 65536);
        let mut ops = vec![];
        while let Some(op) = job.op() {
            ops.push(op);
            if let Next::Done(..) = job.came_back(0) {
                break;
            }
        }
        let (allocated, synced) = ops.split_at(2);
        assert!(allocated.iter().all(|op| matches!(op, Op::Allocate { .. })), "{ops:?}");
        assert!(synced.len() == syncs && synced.iter().all(|op| matches!(op, Op::Sync)), "{ops:?}");
    }
}

#[test]
fn a_write_of_part_of_a_block_wants_to_be_alone() {
    let mut ram = vec![0u8; 16384];
    let start = ram.as_mut_ptr().align_offset(4096);
    let mut alone = |sector: u64, skip: usize, length: usize| {
        let vectors = vec![iovec { iov_base: ram[start + skip..].as_mut_ptr().cast(), iov_len: length }];
        let request = Request { wish: Wish::Write(sector * 512, vectors), status: GuestAddress(0) };
        Job::new(0, 0, request, geometry(4096, Some(4096)), false).is_alone()
    };
    assert!(alone(1, 0, 4096) && alone(0, 0, 512) && alone(8, 0, 4608));
    assert!(!alone(8, 0, 4096) && !alone(8, 1, 4096), "whole blocks, wherever they come from");
    let zero = |sector: u64, sectors: u64| {
        let span = Span { at: sector * 512, bytes: sectors * 512, unmap: true };
        let request = Request { wish: Wish::Zero(vec![span]), status: GuestAddress(0) };
        Job::new(0, 0, request, geometry(4096, Some(4096)), false).is_alone()
    };
    assert!(zero(1, 16) && !zero(8, 16));
}

#[test]
fn what_the_kernel_would_cut_is_said_so() {
    let one_piece = Some(OnePiece { bytes: 8192, vectors: 2 });
    let mut room = vec![0u8; 5 * 4096];
    let start = room.as_mut_ptr().wrapping_add(room.as_ptr().align_offset(4096));
    let page = |n: usize, bytes: usize| iovec { iov_base: start.wrapping_add(n * 4096).cast(), iov_len: bytes };
    for (vectors, due) in [
        (vec![page(0, 4096), page(1, 4096)], false),
        (vec![page(0, 8192)], false),
        (vec![page(0, 8704)], true),
        (vec![page(0, 512), page(1, 512), page(2, 512)], true),
    ] {
        for (geometry, due) in [(Geometry { one_piece, ..geometry(512, None) }, due), (geometry(512, None), false)] {
            for wish in [Wish::Read(0, vectors.clone()), Wish::Write(0, vectors.clone())] {
                let mut job = Job::new(0, 0, Request { wish, status: GuestAddress(0) }, geometry, false);
                let Some(Op::Read { cut, .. } | Op::Write { cut, .. }) = job.op() else { panic!("a transfer") };
                assert_eq!(cut, due);
            }
        }
    }
}
