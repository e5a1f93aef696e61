//! A source of entropy (virtio 1.2, 5.4): random bytes from the host's kernel, for a guest that has just started.

use super::backend::Host;
use super::link::Work;
use super::pci::Kind;
use super::ring::{self, Malformed, Ring};
use super::{F_EVENT_IDX, F_INDIRECT_DESC};

const DEVICE_ID: u16 = 4;
/// PCI class: none of the others.
const CLASS: u32 = 0xff_00_00;
const ENTRIES: u16 = 64;
/// Most random bytes in one request; the driver asks again for more. Linux asks for 64.
const MOST_BYTES: usize = 4096;
/// Requests in one turn; then the link is asked for news.
const TURN_REQUESTS: usize = 64;

/// The one queue's worker.
#[derive(Debug, Default)]
pub struct Rng {
    ring: Option<Ring>,
}

impl Rng {
    /// What its transport shows.
    pub fn kind(&self) -> Kind {
        Kind {
            device_id: DEVICE_ID,
            class: CLASS,
            features: F_EVENT_IDX | F_INDIRECT_DESC,
            config: Vec::new(),
            writable: 0..0,
            queues: vec![ENTRIES],
        }
    }

    /// The thread's body: ends when the link says stop.
    pub fn run(&mut self, host: &Host<'_>) {
        loop {
            let served = match host.link.next() {
                Work::Stop => {
                    self.ring = None;
                    return;
                }
                Work::Reset(generation) => {
                    self.ring = None;
                    host.link.let_go(generation);
                    Ok(())
                }
                Work::Start(started) => ring::open_first(&started, host.memory).and_then(|ring| {
                    self.ring = Some(ring);
                    self.serve(host)
                }),
                Work::Rung => self.serve(host),
                Work::Refresh => Ok(()),
            };
            if let Err(malformed) = served {
                self.ring = None;
                host.break_down(malformed);
            }
        }
    }

    fn serve(&mut self, host: &Host<'_>) -> Result<(), Malformed> {
        let Some(ring) = &mut self.ring else { return Ok(()) };
        loop {
            for _ in 0..TURN_REQUESTS {
                let Some(chain) = ring.next(host.memory)? else { break };
                let mut random = [0; MOST_BYTES];
                let wanted = MOST_BYTES.min(usize::try_from(chain.writable_bytes()).unwrap_or(MOST_BYTES));
                if let Err(error) = getrandom::fill(&mut random[..wanted]) {
                    // A kernel that has none leaves the request where it is.
                    (host.failed)(std::io::Error::other(error));
                    ring.undo_next();
                    return Ok(());
                }
                ring::put(&random[..wanted], &chain.writable, host.memory)?;
                ring.used(chain.head, wanted as u32, host.memory)?;
            }
            if ring.wants_interrupt(host.memory)? {
                host.interrupt_queue(0);
            }
            if host.link.recalled() || !ring.rest(host.memory)? {
                return Ok(());
            }
        }
    }
}
