//! Whether the guest's cable is plugged in: the host's interface is up, as the kernel tells by rtnetlink.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, socket};

/// Watches one interface.
#[derive(Debug)]
pub struct Carrier {
    /// Says when some interface has changed.
    news: OwnedFd,
    /// To ask about this one.
    asking: OwnedFd,
    name: String,
}

impl Carrier {
    /// Watches the interface called `name`.
    pub fn of(name: &str) -> Result<Carrier, Errno> {
        let asking = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        Ok(Carrier { news: link_news()?, asking, name: name.to_owned() })
    }

    /// Reads the news away; afterwards [`Carrier::is_up`] tells what is. It never waits.
    pub fn hush(&self) {
        let mut message = [0; 4096];
        // News that were lost on the way are an error, and news all the same.
        while matches!(recv(self.news.as_raw_fd(), &mut message, MsgFlags::MSG_DONTWAIT), Ok(_) | Err(Errno::ENOBUFS)) {
        }
    }

    /// True when the interface is there and up.
    pub fn is_up(&self) -> bool {
        self.flags().is_ok_and(|flags| flags & libc::IFF_UP as libc::c_short != 0)
    }

    /// Brings it up. One that this user may not bring up stays as it is: the guest sees it unplugged.
    pub fn bring_up(&self) {
        let done = self.flags().and_then(|flags| {
            let mut request = interface(&self.name);
            request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as libc::c_short;
            self.ask(libc::SIOCSIFFLAGS, &mut request)
        });
        if let Err(error) = done {
            log::info!("Interface {} stays as it is: {}", self.name, error.desc());
        }
    }

    #[cfg(test)]
    pub(super) fn take_down(&self) {
        let mut request = interface(&self.name);
        request.ifr_ifru.ifru_flags = self.flags().unwrap() & !(libc::IFF_UP as libc::c_short);
        self.ask(libc::SIOCSIFFLAGS, &mut request).unwrap();
    }

    /// The interface's MTU, in bytes; virtio tells up to 65535.
    pub fn mtu(&self) -> Option<u16> {
        let mut request = interface(&self.name);
        self.ask(libc::SIOCGIFMTU, &mut request).ok()?;
        // SAFETY: the ioctl has written this field.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu };
        Some(mtu.clamp(68, libc::c_int::from(u16::MAX)) as u16)
    }

    fn flags(&self) -> Result<libc::c_short, Errno> {
        let mut request = interface(&self.name);
        self.ask(libc::SIOCGIFFLAGS, &mut request)?;
        // SAFETY: the ioctl has written this field.
        Ok(unsafe { request.ifr_ifru.ifru_flags })
    }

    fn ask(&self, what: libc::c_ulong, request: &mut libc::ifreq) -> Result<(), Errno> {
        // SAFETY: these ioctls read and write one ifreq.
        let result = unsafe { libc::ioctl(self.asking.as_raw_fd(), what as _, request as *mut libc::ifreq) };
        Errno::result(result).map(|_| ())
    }
}

impl AsFd for Carrier {
    /// Readable when some interface of the host has changed.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.news.as_fd()
    }
}

/// A request about the interface called `name`, of at most 15 bytes.
pub(super) fn interface(name: &str) -> libc::ifreq {
    // SAFETY: all-zero bytes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let last = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..last].iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

/// A socket that hears of every change of an interface (rtnetlink(7), `RTMGRP_LINK`).
fn link_news() -> Result<OwnedFd, Errno> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointers; the result is checked.
    let fd = Errno::result(unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) })?;
    // SAFETY: just opened, and nobody else's.
    let news = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all-zero bytes are a valid sockaddr_nl.
    let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    address.nl_groups = libc::RTMGRP_LINK as u32;
    let bytes = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
    // SAFETY: the address is one of that many bytes.
    Errno::result(unsafe { libc::bind(news.as_raw_fd(), (&raw const address).cast(), bytes) })?;
    Ok(news)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_is_there_is_told_of() {
        let carrier = Carrier::of("lo").expect("every host has one");
        assert!(carrier.mtu().is_some_and(|mtu| mtu > 1500));
        carrier.hush();
        let none = Carrier::of("no-such-device").expect("one can listen for it");
        assert!(!none.is_up() && none.mtu().is_none());
    }
}
