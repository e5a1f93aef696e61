//! A network card (virtio 1.2, 5.1) on a tap of the host.
//!
//! ```text
//!   guest ── queue 1, a chain a frame ──▶ Sender ── header checked ──▶ writev ─┐
//!   guest ◀─ queue 0, buffers ─── Receiver ◀── readv, straight into them ──────┴── tap ◀──▶ bridge, routes
//!   guest ── queue 2, commands ──▶ Control ──▶ which offloads the tap may use; announced
//!
//!   net-N   the one thread: waits on the doorbells, the tap and the host's news of its interfaces
//! ```
//!
//! It drops frames where hardware drops them: a guest that gives no buffers finds the tap's queue full, a tap that takes
//! nothing loses the guest's. Nobody waits for the other. A frame's bytes are copied once, by the kernel.

pub mod carrier;
pub mod control;
pub mod features;
pub mod header;
pub mod mac;
pub mod rarp;
mod receive;
mod send;
pub mod tap;
#[cfg(test)]
mod tests;
pub mod worker;

use super::pci::Kind;
use mac::Mac;
use tap::{Offloads, Tap};

const DEVICE_ID: u16 = 1;
/// PCI class: network, Ethernet.
const CLASS: u32 = 0x02_00_00;
/// Entries of the queues for frames.
const FRAME_ENTRIES: u16 = 256;
/// Entries of the control queue.
const CONTROL_ENTRIES: u16 = 64;

/// Where the status stands in the configuration space.
const STATUS: usize = 6;
const STATUS_LINK_UP: u16 = 1;
const STATUS_ANNOUNCE: u16 = 2;

/// Queue numbers (5.1.2).
const RECEIVE: u16 = 0;
const SEND: u16 = 1;
const CONTROL: u16 = 2;

/// Before and behind the packet of a frame: Ethernet header, two VLAN tags.
const ETHERNET_BYTES: usize = 14 + 8;
/// The largest frame that a tap ever gives or takes: a packet of 64 KiB.
const MOST_FRAME_BYTES: usize = 65_535 + ETHERNET_BYTES;

/// What the card looks like to its driver.
fn kind(mac: Mac, tap: &Tap, offloads: Offloads) -> Kind {
    let mut config = vec![0; 12];
    config[..6].copy_from_slice(&mac.0);
    config[STATUS..STATUS + 2].copy_from_slice(&status(tap, false).to_le_bytes());
    config[8..10].copy_from_slice(&1u16.to_le_bytes());
    config[10..12].copy_from_slice(&tap.mtu().to_le_bytes());
    Kind {
        device_id: DEVICE_ID,
        class: CLASS,
        features: features::offered(offloads),
        config,
        writable: 0..0,
        queues: vec![FRAME_ENTRIES, FRAME_ENTRIES, CONTROL_ENTRIES],
    }
}

fn status(tap: &Tap, announce: bool) -> u16 {
    let up = if tap.carrier().is_up() { STATUS_LINK_UP } else { 0 };
    up | if announce { STATUS_ANNOUNCE } else { 0 }
}
