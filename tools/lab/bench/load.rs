//! A guest's load on its disk: `load DEVICE WHAT COUNT`. Built by itself, static: a guest need not have anything else.
//!
//! | what | each of COUNT requests |
//! | --- | --- |
//! | `sync` | 4 KiB written with O_SYNC, one at a time |
//! | `write`, `read` | 4 KiB, one at a time |
//! | `deep-write`, `deep-read` | 4 KiB, 32 under way (Linux AIO) |
//! | `long-write`, `long-read` | 1 MiB, one after another, of memory in one piece |
//! | `page-write`, `page-read` | the same of 256 pages that do not lie side by side, as a page cache's |
//!
//! All O_DIRECT, over the first 8 MiB of the device: in a fixed disorder, the long ones in order. Prints
//! `BENCH WHAT COUNT NANOSECONDS`.
//!
//! Where the pages of a program lie is luck, and costs a disk's back end much or little; here it is chosen.

use std::ffi::c_long;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::Instant;

const MMAP: c_long = 9;
const READ_WRITE: c_long = 3;
const PRIVATE_ANONYMOUS_HUGETLB: c_long = 0x40022;
const IO_SETUP: c_long = 206;
const IO_GETEVENTS: c_long = 208;
const IO_SUBMIT: c_long = 209;
const O_DIRECT: i32 = 0o40000;
const O_SYNC: i32 = 0o4010000;

const PAGE: usize = 4096;
const LONG: usize = 1 << 20;
const SPACE: usize = 8 << 20;
const DEPTH: usize = 32;
const HUGE_PAGE: usize = 2 << 20;

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

/// `struct iocb` of linux/aio_abi.h.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Iocb {
    data: u64,
    key: u64,
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u64,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, device, what, count] = &arguments[..] else { fail("load DEVICE WHAT COUNT") };
    let Ok(count) = count.parse() else { fail("COUNT is no number") };
    match run(device, what, count) {
        Ok(took_ns) => println!("BENCH {what} {count} {took_ns}"),
        Err(error) => fail(&error.to_string()),
    }
}

fn fail(why: &str) -> ! {
    eprintln!("load: {why}");
    std::process::exit(1)
}

fn run(device: &str, what: &str, count: usize) -> io::Result<u128> {
    let sync = if what == "sync" { O_SYNC } else { 0 };
    let disk = OpenOptions::new().read(true).write(true).custom_flags(O_DIRECT | sync).open(device)?;
    let memory = huge_page()?;
    let began = Instant::now();
    match what {
        "sync" | "write" => (0..count).try_for_each(|n| disk.write_all_at(&memory[..PAGE], place(n)))?,
        "read" => (0..count).try_for_each(|n| disk.read_exact_at(&mut memory[..PAGE], place(n)))?,
        "deep-write" => deep(&disk, memory, 1, count)?,
        "deep-read" => deep(&disk, memory, 0, count)?,
        "long-write" => (0..count).try_for_each(|n| disk.write_all_at(&memory[..LONG], long_place(n)))?,
        "long-read" => (0..count).try_for_each(|n| disk.read_exact_at(&mut memory[..LONG], long_place(n)))?,
        "page-write" | "page-read" => pages(&disk, memory, what == "page-write", count)?,
        _ => return Err(io::Error::other("no such load")),
    }
    Ok(began.elapsed().as_nanos())
}

/// Where the `n`th request of 4 KiB goes.
fn place(n: usize) -> u64 {
    (n.wrapping_mul(2_654_435_761) % (SPACE / PAGE) * PAGE) as u64
}

fn long_place(n: usize) -> u64 {
    (n * LONG % SPACE) as u64
}

/// A huge page of memory, one of those that `hugepages=` on the kernel's command line keeps: a small guest gets no other
/// (Linux turns transparent ones off below 512 MiB).
fn huge_page() -> io::Result<&'static mut [u8]> {
    let nowhere = std::ptr::null::<u8>();
    // SAFETY: a new mapping wherever the kernel likes; it is filled before it is a slice, and stays to the end.
    unsafe {
        let start =
            must(syscall(MMAP, nowhere, HUGE_PAGE, READ_WRITE, PRIVATE_ANONYMOUS_HUGETLB, -1, 0usize))? as *mut u8;
        start.write_bytes(0xa5, HUGE_PAGE);
        Ok(std::slice::from_raw_parts_mut(start, HUGE_PAGE))
    }
}

/// Requests of every second page of `memory`.
fn pages(mut disk: &File, memory: &mut [u8], write: bool, count: usize) -> io::Result<()> {
    for n in 0..count {
        disk.seek(SeekFrom::Start(long_place(n)))?;
        let bytes = if write {
            let parts: Vec<_> = memory.chunks(2 * PAGE).map(|chunk| IoSlice::new(&chunk[..PAGE])).collect();
            disk.write_vectored(&parts)?
        } else {
            let mut parts: Vec<_> =
                memory.chunks_mut(2 * PAGE).map(|chunk| IoSliceMut::new(&mut chunk[..PAGE])).collect();
            disk.read_vectored(&mut parts)?
        };
        if bytes != LONG {
            return Err(io::Error::other("not all of 1 MiB was moved at once"));
        }
    }
    Ok(())
}

fn deep(disk: &File, memory: &mut [u8], opcode: u16, count: usize) -> io::Result<()> {
    let mut context = 0u64;
    // SAFETY: the kernel writes a number there.
    must(unsafe { syscall(IO_SETUP, DEPTH, &raw mut context) })?;
    let mut controls = [Iocb { opcode, fd: disk.as_raw_fd() as u32, bytes: PAGE as u64, ..Iocb::default() }; DEPTH];
    let mut free: Vec<usize> = (0..DEPTH).collect();
    let (mut begun, mut done) = (0, 0);
    while done < count {
        let mut new = Vec::with_capacity(DEPTH);
        while begun < count
            && let Some(index) = free.pop()
        {
            let control = &mut controls[index];
            control.data = index as u64;
            control.buffer = memory[index * PAGE..].as_mut_ptr() as u64;
            control.offset = place(begun) as i64;
            new.push(&raw mut *control);
            begun += 1;
        }
        let mut given = 0;
        while given < new.len() {
            // SAFETY: so many control blocks are there, and their memory, until they have come back.
            given += must(unsafe { syscall(IO_SUBMIT, context, new.len() - given, new[given..].as_ptr()) })?;
        }
        let mut events = [[0u64; 4]; DEPTH];
        let nothing = std::ptr::null::<u8>();
        // SAFETY: there is room for so many events.
        let got = must(unsafe { syscall(IO_GETEVENTS, context, 1usize, DEPTH, events.as_mut_ptr(), nothing) })?;
        for event in &events[..got] {
            if event[2] != PAGE as u64 {
                return Err(io::Error::other("a request of Linux AIO failed"));
            }
            free.push(event[0] as usize);
        }
        done += got;
    }
    Ok(())
}

fn must(result: c_long) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
