//! The tap: the host's end of the guest's cable.
//!
//! ```text
//!   host: bridge, routes ◀──▶ interface NAME ◀──▶ this descriptor: one frame a readv or writev, a header before each
//! ```
//!
//! The header is virtio's own (virtio 1.2, 5.1.6; Linux `Documentation/networking/tuntap.rst`, `IFF_VNET_HDR`): what the
//! guest leaves unfinished, checksums and segmentation, goes through to whoever finishes it, and the other way round.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;

use super::carrier::{Carrier, interface};
use super::header::HEADER_BYTES;

const DEVICE: &str = "/dev/net/tun";

/// The longest name of a network interface, in bytes (the kernel's `IFNAMSIZ` less its NUL).
pub const NAME_BYTES: usize = 15;

/// What a host's tap takes off the guest: segmentation and checksums that it need not do itself (`TUNSETOFFLOAD`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offloads(u32);

impl Offloads {
    /// Nothing: frames come whole, with their checksums.
    pub const NONE: Offloads = Offloads(0);
    /// Checksums may be left to the guest.
    pub const CHECKSUM: Offloads = Offloads(libc::TUN_F_CSUM);
    /// TCP over IPv4 comes in large frames.
    pub const TSO4: Offloads = Offloads(libc::TUN_F_TSO4);
    /// TCP over IPv6 comes in large frames.
    pub const TSO6: Offloads = Offloads(libc::TUN_F_TSO6);
    /// Such frames may bear ECN.
    pub const ECN: Offloads = Offloads(libc::TUN_F_TSO_ECN);
    /// UDP comes in large frames, to be cut into IP fragments.
    pub const UFO: Offloads = Offloads(libc::TUN_F_UFO);
    /// UDP over IPv4 and IPv6 comes in large frames, to be cut into datagrams (Linux 6.2 and later).
    pub const USO: Offloads = Offloads(libc::TUN_F_USO4 | libc::TUN_F_USO6);

    /// Both together.
    pub const fn with(self, more: Offloads) -> Offloads {
        Offloads(self.0 | more.0)
    }

    /// True when all of `others` are among these.
    pub const fn has(self, others: Offloads) -> bool {
        self.0 & others.0 == others.0
    }

    /// Those that both name.
    pub const fn and(self, other: Offloads) -> Offloads {
        Offloads(self.0 & other.0)
    }

    /// True when frames may be larger than the interface's MTU.
    pub const fn large(self) -> bool {
        self.0 & !libc::TUN_F_CSUM != 0
    }
}

/// Why there is no tap.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// Not a name an interface can have.
    #[error("{name:?} is no name of a network interface; write 1 to {NAME_BYTES} letters or digits")]
    Name {
        /// What was written.
        name: String,
    },
    /// The host has no taps.
    #[error("{DEVICE} is not there; load the tun module, or make the node (character device 10, 200)")]
    Absent,
    /// The user may not.
    #[error(
        "Tap {name:?} may not be used by this user; run as root, or make it for this user (ip tuntap add {name} mode tap user ...)"
    )]
    Forbidden {
        /// Its name.
        name: String,
    },
    /// Another process has it.
    #[error("Tap {name:?} is in use by another process; end that, or take another tap")]
    Busy {
        /// Its name.
        name: String,
    },
    /// There is an interface of that name, of another kind.
    #[error(
        "{name:?} is a network interface, but no tap; take another name, or make a tap (ip tuntap add {name} mode tap)"
    )]
    NoTap {
        /// Its name.
        name: String,
    },
    /// The kernel refuses for another reason.
    #[error("Tap {name:?} cannot be used: {what} failed")]
    Refused {
        /// Its name.
        name: String,
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// An open tap.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
    offloads: Offloads,
    mtu: u16,
    carrier: Carrier,
}

impl Tap {
    /// Opens the tap called `name`, or makes one that goes away with this process, and brings it up if it may.
    pub fn open(name: &str) -> Result<Tap, TapError> {
        check_name(name)?;
        let own = || name.to_owned();
        let was_there = if_nametoindex(name).is_ok();
        let file = device(name)?;
        attach(&file, name).map_err(|error| match error {
            Errno::EPERM => TapError::Forbidden { name: own() },
            Errno::EBUSY => TapError::Busy { name: own() },
            Errno::EINVAL if was_there => TapError::NoTap { name: own() },
            error => TapError::Refused { name: own(), what: "attaching to it", source: error.into() },
        })?;
        let refused = |what| move |source: Errno| TapError::Refused { name: own(), what, source: source.into() };
        let header_bytes = HEADER_BYTES as libc::c_int;
        // SAFETY: the ioctl reads one int.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, &header_bytes) };
        Errno::result(result).map_err(refused("setting the header's size"))?;
        let carrier = Carrier::of(name).map_err(refused("watching its carrier"))?;
        carrier.bring_up();
        let mtu = carrier.mtu().unwrap_or(1500);
        let mut tap = Tap { file, name: name.to_owned(), offloads: Offloads::NONE, mtu, carrier };
        tap.offloads = tap.probe();
        Ok(tap)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it can take off the guest.
    pub fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// The largest packet of the interface, in bytes, without the Ethernet header.
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Who watches whether the cable is plugged in.
    pub fn carrier(&self) -> &Carrier {
        &self.carrier
    }

    /// From now on frames for the guest may come so.
    pub fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        // SAFETY: the ioctl takes the bits as its argument.
        let result =
            unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TUNSETOFFLOAD as _, offloads.0 as libc::c_ulong) };
        Errno::result(result)?;
        Ok(())
    }

    /// Reads one frame with its header into the pieces of memory; how many bytes that were. `WouldBlock`: none is there.
    ///
    /// # Safety
    /// Every piece is memory that may be written, at least until this returns.
    pub unsafe fn read_into(&self, pieces: &[libc::iovec]) -> io::Result<usize> {
        // SAFETY: the caller's promise; the number of pieces fits, since the kernel takes 1024.
        let result = unsafe { libc::readv(self.file.as_raw_fd(), pieces.as_ptr(), pieces.len() as libc::c_int) };
        Ok(Errno::result(result)? as usize)
    }

    /// Sends one frame with its header from the pieces of memory. It never waits: what finds no room is lost.
    ///
    /// # Safety
    /// Every piece is memory that may be read, at least until this returns.
    pub unsafe fn write_from(&self, pieces: &[libc::iovec]) -> io::Result<()> {
        // SAFETY: as above.
        let result = unsafe { libc::writev(self.file.as_raw_fd(), pieces.as_ptr(), pieces.len() as libc::c_int) };
        Errno::result(result)?;
        Ok(())
    }

    /// Sends one frame of the host's own making.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        let header = [0; HEADER_BYTES];
        nix::sys::uio::writev(&self.file, &[IoSlice::new(&header), IoSlice::new(frame)])?;
        Ok(())
    }

    /// Throws away the frames that have come while nobody was there to take them.
    pub fn drain(&self) {
        const AT_MOST: usize = 4096;
        // A frame that is read short is gone as a whole.
        let mut start = [0; HEADER_BYTES + 14];
        let gone = (0..AT_MOST).take_while(|_| nix::unistd::read(&self.file, &mut start).is_ok()).count();
        if gone > 0 {
            log::debug!("Tap {}: {gone} frames from before are thrown away", self.name);
        }
    }

    /// Tries what the kernel's taps can do: UDP's segmentation is younger than TCP's.
    fn probe(&self) -> Offloads {
        let tcp = [Offloads::TSO4, Offloads::TSO6, Offloads::ECN].into_iter().fold(Offloads::CHECKSUM, Offloads::with);
        let mut can = Offloads::NONE;
        for more in [Offloads::CHECKSUM, tcp, Offloads::UFO, Offloads::USO] {
            if self.set_offloads(can.with(more)).is_ok() {
                can = can.with(more);
            }
        }
        if let Err(error) = self.set_offloads(Offloads::NONE) {
            log::debug!("Tap {}: {error}", self.name);
        }
        can
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Opens what taps are made with, for the tap `name`: whether this host has them, and this user may.
pub fn device(name: &str) -> Result<File, TapError> {
    let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
    let opened = OpenOptions::new().read(true).write(true).custom_flags(flags).open(DEVICE);
    opened.map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TapError::Absent,
        Some(libc::EACCES | libc::EPERM) => TapError::Forbidden { name: name.to_owned() },
        _ => TapError::Refused { name: name.to_owned(), what: "opening /dev/net/tun", source: error },
    })
}

fn check_name(name: &str) -> Result<(), TapError> {
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%');
    let fits = (1..=NAME_BYTES).contains(&name.len()) && name.bytes().all(plain) && !matches!(name, "." | "..");
    if fits { Ok(()) } else { Err(TapError::Name { name: name.to_owned() }) }
}

/// Attaches the descriptor to the tap `name`: one queue of it, where it was made for several.
fn attach(file: &File, name: &str) -> Result<(), Errno> {
    let mut result = Ok(());
    for more in [0, libc::IFF_MULTI_QUEUE] {
        let mut request = interface(name);
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | more) as libc::c_short;
        // SAFETY: the ioctl reads and writes one ifreq.
        let returned = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &mut request) };
        result = Errno::result(returned).map(|_| ());
        if result != Err(Errno::EINVAL) {
            break;
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_interface_has_are_refused() {
        for name in ["", "sixteen-letters-", "a/b", "a b", "tap%d", ".", "..", "é", "a:1", "a\n"] {
            assert!(matches!(Tap::open(name), Err(TapError::Name { .. })), "{name:?}");
        }
        assert!(check_name("fifteen-letters").is_ok());
    }

    #[test]
    fn large_frames_need_more_than_checksums() {
        assert!(!Offloads::CHECKSUM.large() && Offloads::CHECKSUM.with(Offloads::UFO).large());
        assert!(Offloads::USO.with(Offloads::ECN).has(Offloads::ECN) && !Offloads::ECN.has(Offloads::USO));
    }
}
