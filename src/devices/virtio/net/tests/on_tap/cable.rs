//! The other end of the tap: a raw socket on the interface, in a namespace that goes away with its threads.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;

/// An Ethernet type that nobody else uses: the kernel itself says things on a new interface.
pub const OURS: [u8; 2] = [0x88, 0xb5];
pub const RARP: [u8; 2] = [0x80, 0x35];
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Moves this thread, and those that it starts, into a new network namespace.
pub fn leave_the_network() {
    // SAFETY: no pointers; only this thread's namespace changes.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    Errno::result(result).expect("this test needs root, for a network namespace of its own");
}

/// A frame of `bytes` bytes from `sender` to everybody; its contents follow from `seed`.
pub fn frame(seed: u8, bytes: usize, kind: [u8; 2]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([0x02, 0, 0, 0, 0, seed]);
    frame.extend(kind);
    frame.extend((0..bytes - frame.len()).map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed)));
    frame
}

pub struct Cable {
    socket: OwnedFd,
}

impl Cable {
    pub fn plug(interface: &str) -> Cable {
        let everything = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: no pointers; the result is checked.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(everything)) };
        // SAFETY: just opened.
        let socket = unsafe { OwnedFd::from_raw_fd(Errno::result(fd).unwrap()) };
        // SAFETY: all-zero bytes are a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = everything;
        address.sll_ifindex = if_nametoindex(interface).unwrap() as i32;
        let bytes = size_of::<libc::sockaddr_ll>() as u32;
        // SAFETY: an address of that many bytes.
        Errno::result(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), bytes) }).unwrap();
        Cable { socket }
    }

    /// Sends a frame towards the guest.
    pub fn send(&self, frame: &[u8]) {
        nix::unistd::write(&self.socket, frame).unwrap();
    }

    /// The next frame from the guest of this type.
    pub fn receive(&self, kind: [u8; 2]) -> Vec<u8> {
        self.receive_within(kind, PATIENCE).expect("a frame from the guest")
    }

    /// The same, if one comes in time.
    pub fn receive_within(&self, kind: [u8; 2], time: Duration) -> Option<Vec<u8>> {
        let end = Instant::now() + time;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            let timeout = PollTimeout::try_from(left.as_millis()).unwrap();
            poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], timeout).unwrap();
            let mut buffer = vec![0; 70_000];
            // SAFETY: all-zero bytes are a valid sockaddr_ll.
            let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            let mut bytes = size_of::<libc::sockaddr_ll>() as u32;
            // SAFETY: buffer and address are as long as said.
            let read = unsafe {
                libc::recvfrom(
                    self.socket.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    libc::MSG_DONTWAIT,
                    (&raw mut from).cast(),
                    &mut bytes,
                )
            };
            let Ok(read) = usize::try_from(read) else { continue };
            if from.sll_pkttype != libc::PACKET_OUTGOING && buffer[12..14] == kind {
                buffer.truncate(read);
                return Some(buffer);
            }
        }
        None
    }
}
