//! What the virtio devices are wired to in KVM: doorbells ring from the guest, messages go to it, without an exit.
//!
//! ```text
//!   guest writes its doorbell ──▶ ioeventfd ──▶ Link's bell ──▶ worker
//!   worker ──▶ a vector's bell ──▶ irqfd ──▶ GSI ──▶ route: address, data ──▶ local APIC
//!
//!   GSI 0..=15    PIC and IOAPIC pins, as KVM has them at the start     one table of routes: KVM takes it as a whole
//!   GSI 16..=23   IOAPIC pins
//!   GSI 24..      one a vector, in the order of the devices
//! ```
//!
//! All of it is one start's: a new virtual machine gets new sockets. Where KVM refuses, the slower way stays: a
//! doorbell without ioeventfd is an exit. It is called under the board's lock, so that what was written last holds.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    KvmIrqRouting, kvm_irq_routing_entry,
};
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};

use crate::devices::pci::msix::{Change, Message};
use crate::devices::virtio::Event;
use crate::devices::virtio::link::Link;
use crate::devices::virtio::pci::DOORBELL_BYTES;

const PIC_PINS: u32 = 8;
const IOAPIC_PINS: u32 = 24;

/// One device's.
#[derive(Debug)]
struct Socket {
    slot: u8,
    link: Arc<Link>,
    first_gsi: u32,
}

#[derive(Debug, Default)]
struct State {
    /// By GSI, from [`IOAPIC_PINS`] on.
    messages: Vec<Option<Message>>,
    /// Where each socket's doorbells are registered.
    doorbells: Vec<Option<u64>>,
}

/// The sockets of one start of a machine.
#[derive(Debug)]
pub struct Sockets {
    vm: Arc<VmFd>,
    sockets: Vec<Socket>,
    state: Mutex<State>,
}

impl Sockets {
    /// Wires the devices behind `links`, by slot, to `vm`.
    pub fn new(vm: Arc<VmFd>, links: Vec<(u8, Arc<Link>)>) -> io::Result<Sockets> {
        let mut sockets = Vec::new();
        let mut next_gsi = IOAPIC_PINS;
        for (slot, link) in links {
            let first_gsi = next_gsi;
            next_gsi += u32::from(link.interrupts().vectors());
            sockets.push(Socket { slot, link, first_gsi });
        }
        let messages = vec![None; (next_gsi - IOAPIC_PINS) as usize];
        let state = State { messages, doorbells: vec![None; sockets.len()] };
        let wired = Sockets { vm, sockets, state: Mutex::new(state) };
        wired.each_bell(|bell, gsi| wired.vm.register_irqfd(bell, gsi))?;
        Ok(wired)
    }

    /// Does what follows from what the guest did to the device in `slot`. Never waits.
    pub fn carry_out(&self, slot: u8, event: Event) {
        let Some(index) = self.sockets.iter().position(|socket| socket.slot == slot) else { return };
        match event {
            Event::Vector(change) => self.route(&self.sockets[index], change),
            Event::Doorbells { at } => self.move_doorbells(index, at),
            event => self.sockets[index].link.tell(event),
        }
    }

    fn route(&self, socket: &Socket, Change { vector, message }: Change) {
        let interrupts = socket.link.interrupts();
        let Some(message) = message else { return interrupts.close(vector) };
        let place = (socket.first_gsi - IOAPIC_PINS) as usize + usize::from(vector);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = state.messages.get_mut(place) else { return };
        let before = known.replace(message);
        if before != Some(message)
            && let Err(error) = self.vm.set_gsi_routing(&table(&state.messages))
        {
            // KVM has the table as it was. What it does not take must not stand in the way of other vectors.
            state.messages[place] = before;
            log::debug!("KVM does not route vector {vector} of the device in slot {}: {error}", socket.slot);
            return interrupts.close(vector);
        }
        interrupts.open(vector);
    }

    fn move_doorbells(&self, index: usize, at: Option<u64>) {
        let socket = &self.sockets[index];
        let queues = u64::from(socket.link.interrupts().vectors()) - 1;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let addresses = |base: u64| (0..queues).map(move |queue| IoEventAddress::Mmio(base + queue * DOORBELL_BYTES));
        for address in state.doorbells[index].take().into_iter().flat_map(addresses) {
            // One that was never taken fails to be given back.
            let _ = self.vm.unregister_ioevent(socket.link.bell(), &address, NoDatamatch);
        }
        for address in at.into_iter().flat_map(addresses) {
            if let Err(error) = self.vm.register_ioevent(socket.link.bell(), &address, NoDatamatch) {
                log::debug!("A doorbell of the device in slot {} is an exit each time: {error}", socket.slot);
            }
        }
        state.doorbells[index] = at;
    }

    fn each_bell<E>(
        &self,
        mut each: impl FnMut(&vmm_sys_util::eventfd::EventFd, u32) -> Result<(), E>,
    ) -> Result<(), E> {
        for socket in &self.sockets {
            let interrupts = socket.link.interrupts();
            for vector in 0..interrupts.vectors() {
                let bell = interrupts.bell(vector).expect("every vector has its bell");
                each(bell, socket.first_gsi + u32::from(vector))?;
            }
        }
        Ok(())
    }
}

impl Drop for Sockets {
    /// The next start's virtual machine takes the same bells, and KVM gives a bell to one at a time.
    fn drop(&mut self) {
        for index in 0..self.sockets.len() {
            self.move_doorbells(index, None);
        }
        let _ = self.each_bell(|bell, gsi| {
            // One that was never taken fails to be given back.
            let _ = self.vm.unregister_irqfd(bell, gsi);
            Ok::<(), std::convert::Infallible>(())
        });
    }
}

/// Every route: what KVM begins with, and the messages.
fn table(messages: &[Option<Message>]) -> KvmIrqRouting {
    let mut entries = Vec::new();
    for gsi in 0..IOAPIC_PINS {
        if gsi < 2 * PIC_PINS {
            let chip = if gsi < PIC_PINS { KVM_IRQCHIP_PIC_MASTER } else { KVM_IRQCHIP_PIC_SLAVE };
            entries.push(pin(gsi, chip, gsi % PIC_PINS));
        }
        entries.push(pin(gsi, KVM_IRQCHIP_IOAPIC, gsi));
    }
    for (message, gsi) in messages.iter().zip(IOAPIC_PINS..) {
        entries.extend(message.map(|message| by_message(gsi, message)));
    }
    KvmIrqRouting::from_entries(&entries).expect("the devices of one bus have fewer vectors than KVM has routes")
}

fn pin(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
    entry.u.irqchip.irqchip = irqchip;
    entry.u.irqchip.pin = pin;
    entry
}

fn by_message(gsi: u32, message: Message) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
    entry.u.msi.address_lo = message.address as u32;
    entry.u.msi.address_hi = (message.address >> 32) as u32;
    entry.u.msi.data = message.data;
    entry
}
