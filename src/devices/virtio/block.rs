//! The block device's protocol (virtio 1.2, 5.2): what a descriptor chain asks for.
//!
//! ```text
//!   chain:  device-readable bytes: header (16), then data to write
//!           device-writable bytes: data read, then status (the last one)
//! ```
//!
//! How the bytes are cut into descriptors is the driver's choice (2.7.4.1). Every address, length and
//! index is the guest's and checked. What cannot be a request at all breaks the device until its driver
//! resets it; what is a request and cannot be done is answered with a status.

use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::disk::{Buffer, Disk, SECTOR_BYTES};
use super::pci::Kind;
use super::ring::{self, Chain, Malformed, Part};

/// Virtio device id.
const DEVICE_ID: u16 = 2;
/// PCI class: mass storage, other.
const CLASS: u32 = 0x01_80_00;
/// Entries of the one queue, at most.
pub const QUEUE_ENTRIES: u16 = 256;

/// `VIRTIO_BLK_F_SEG_MAX`.
const F_SEG_MAX: u64 = 1 << 2;
/// `VIRTIO_BLK_F_RO`.
const F_RO: u64 = 1 << 5;
/// `VIRTIO_BLK_F_BLK_SIZE`.
const F_BLK_SIZE: u64 = 1 << 6;
/// `VIRTIO_BLK_F_FLUSH`: with it the driver flushes; without it each write is durable when it is done.
pub const F_FLUSH: u64 = 1 << 9;

const HEADER_BYTES: usize = 16;
const T_IN: u32 = 0;
const T_OUT: u32 = 1;
const T_FLUSH: u32 = 4;
const T_GET_ID: u32 = 8;
const ID_BYTES: usize = 20;

/// Status of a request (5.2.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// Device or driver error.
    IoError = 1,
    /// Not a request this device knows.
    Unsupported = 2,
}

/// What the device looks like to its driver.
pub fn kind(disk: &Disk) -> Kind {
    let read_only = if disk.read_only() { F_RO } else { 0 };
    let mut config = vec![0; 24];
    config[0..8].copy_from_slice(&disk.sectors().to_le_bytes());
    config[12..16].copy_from_slice(&u32::from(QUEUE_ENTRIES - 2).to_le_bytes());
    config[20..24].copy_from_slice(&(disk.block_bytes() as u32).to_le_bytes());
    Kind {
        device_id: DEVICE_ID,
        class: CLASS,
        features: F_SEG_MAX | F_BLK_SIZE | F_FLUSH | read_only | super::F_INDIRECT_DESC | super::F_EVENT_IDX,
        config,
        writable: 0..0,
        queues: vec![QUEUE_ENTRIES],
    }
}

/// What a request wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Read from this byte of the disk on.
    Read(u64),
    /// Write from this byte of the disk on.
    Write(u64),
    /// Make what was written durable.
    Flush,
    /// Tell the device's name.
    Id,
    /// It cannot be done; this is the answer.
    Refused(Status),
}

/// One request, checked against guest RAM and disk.
#[derive(Debug)]
pub struct Request {
    /// What to do.
    pub wish: Wish,
    /// Where its data are or go.
    pub data: Vec<Buffer>,
    /// Where its status goes.
    pub status: GuestAddress,
}

impl Request {
    /// Bytes of data.
    pub fn bytes(&self) -> usize {
        self.data.iter().map(|buffer| buffer.bytes).sum()
    }
}

/// Reads one chain.
pub fn parse(chain: Chain, memory: &GuestMemoryMmap, disk: &Disk) -> Result<Request, Malformed> {
    let Chain { mut readable, mut writable, .. } = chain;
    let mut header = [0; HEADER_BYTES];
    if ring::take(&mut readable, &mut header, memory)? < HEADER_BYTES {
        return Err(Malformed::Short);
    }
    let status = take_status(&mut writable)?;
    let kind = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    let sector = u64::from_le_bytes(header[8..16].try_into().expect("eight bytes"));
    let parts = if kind == T_OUT { readable } else { writable };
    let data = parts.iter().map(|part| buffer(part, memory)).collect::<Result<Vec<_>, _>>()?;
    let bytes = data.iter().map(|buffer| buffer.bytes as u64).sum();
    Ok(Request { wish: wish(kind, sector, bytes, disk), data, status })
}

fn wish(kind: u32, sector: u64, bytes: u64, disk: &Disk) -> Wish {
    let range = || {
        let whole = bytes.is_multiple_of(SECTOR_BYTES);
        let end = sector.checked_add(bytes / SECTOR_BYTES);
        (whole && end.is_some_and(|end| end <= disk.sectors())).then(|| sector * SECTOR_BYTES)
    };
    let refused = Wish::Refused(Status::IoError);
    match kind {
        T_IN => range().map_or(refused, Wish::Read),
        T_OUT if disk.read_only() => refused,
        T_OUT => range().map_or(refused, Wish::Write),
        T_FLUSH => Wish::Flush,
        T_GET_ID if bytes >= ID_BYTES as u64 => Wish::Id,
        T_GET_ID => refused,
        _ => Wish::Refused(Status::Unsupported),
    }
}

/// The device's name, padded with zeros.
pub fn id(name: &str) -> [u8; ID_BYTES] {
    let mut id = [0; ID_BYTES];
    for (to, from) in id.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    id
}

fn buffer(part: &Part, memory: &GuestMemoryMmap) -> Result<Buffer, Malformed> {
    if part.bytes == 0 {
        return Ok(Buffer { start: std::ptr::null_mut(), bytes: 0 });
    }
    let slice = memory.get_slice(part.address, part.bytes).map_err(|_| Malformed::Outside)?;
    Ok(Buffer { start: slice.ptr_guard_mut().as_ptr(), bytes: slice.len() })
}

fn take_status(parts: &mut Vec<Part>) -> Result<GuestAddress, Malformed> {
    while parts.pop_if(|part| part.bytes == 0).is_some() {}
    let last = parts.last_mut().ok_or(Malformed::Short)?;
    last.bytes -= 1;
    Ok(GuestAddress(last.address.0.wrapping_add(last.bytes as u64)))
}
