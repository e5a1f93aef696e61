//! MSI-X: the table of messages a function may send (PCI local bus specification 3.0, 6.8.2).
//!
//! ```text
//!   control  bit 15 enable, bit 14 function mask        table, 16 bytes a vector
//!                                                         0x0 address   0x8 data   0xc bit 0: masked
//!
//!   a vector is open  ⟺  enabled, function not masked, vector not masked
//! ```
//!
//! Pure registers: which vectors open, close or change their message is said; what is pending is kept by who sends.

/// Capability id.
pub const CAPABILITY: u8 = 0x11;
/// Most vectors a function can have.
pub const MOST_VECTORS: u16 = 2048;
/// Bytes of one entry of the table.
pub const ENTRY_BYTES: u64 = 16;

const ENABLE: u16 = 1 << 15;
const MASK_ALL: u16 = 1 << 14;

/// What is written where to interrupt a processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// The address.
    pub address: u64,
    /// The data.
    pub data: u32,
}

/// A vector has opened, closed, or got another message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Which.
    pub vector: u16,
    /// What it sends from now on; nothing while it is closed.
    pub message: Option<Message>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    message: Message,
    masked: bool,
}

impl Entry {
    const AT_POWER_ON: Entry = Entry { message: Message { address: 0, data: 0 }, masked: true };

    fn bytes(&self) -> [u8; ENTRY_BYTES as usize] {
        let mut bytes = [0; ENTRY_BYTES as usize];
        bytes[0..8].copy_from_slice(&self.message.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.message.data.to_le_bytes());
        bytes[12] = u8::from(self.masked);
        bytes
    }

    fn set(&mut self, field: u64, value: u32) {
        let address = &mut self.message.address;
        match field {
            // The lowest two bits are no address.
            0x0 => *address = *address & !0xffff_ffff | u64::from(value & !3),
            0x4 => *address = *address & 0xffff_ffff | u64::from(value) << 32,
            0x8 => self.message.data = value,
            _ => self.masked = value & 1 != 0,
        }
    }
}

/// A function's MSI-X registers.
#[derive(Debug, Clone)]
pub struct Msix {
    entries: Vec<Entry>,
    enabled: bool,
    masked: bool,
}

impl Msix {
    /// Registers of a function with `vectors` vectors, 1 to [`MOST_VECTORS`], at power-on: disabled, every one masked.
    ///
    /// # Panics
    /// When there are none or too many: a mistake in this program.
    pub fn new(vectors: u16) -> Msix {
        assert!((1..=MOST_VECTORS).contains(&vectors), "MSI-X has 1 to 2048 vectors");
        Msix { entries: vec![Entry::AT_POWER_ON; usize::from(vectors)], enabled: false, masked: false }
    }

    /// The capability's body after id and next pointer, for a table and pending bits at these offsets in BAR `bar`.
    pub fn capability(&self, bar: u8, table: u32, pending: u32) -> [u8; 10] {
        let mut body = [0; 10];
        body[0..2].copy_from_slice(&(self.entries.len() as u16 - 1).to_le_bytes());
        body[2..6].copy_from_slice(&(table | u32::from(bar)).to_le_bytes());
        body[6..10].copy_from_slice(&(pending | u32::from(bar)).to_le_bytes());
        body
    }

    /// The bits of the message control register that a guest may write.
    pub const CONTROL_WRITABLE: u16 = ENABLE | MASK_ALL;

    /// True while interrupts go by messages and not by a line.
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    /// The guest has written the message control register, which now holds `control`.
    pub fn set_control(&mut self, control: u16) -> Vec<Change> {
        let before: Vec<_> = (0..self.entries.len()).map(|vector| self.message(vector)).collect();
        self.enabled = control & ENABLE != 0;
        self.masked = control & MASK_ALL != 0;
        before.into_iter().enumerate().filter_map(|(vector, before)| self.change(vector, before)).collect()
    }

    /// A read of any length at `offset` in the table; what lies past it is left as it was.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        for (byte, at) in data.iter_mut().zip(offset..) {
            if let Some(entry) = self.entries.get((at / ENTRY_BYTES) as usize) {
                *byte = entry.bytes()[(at % ENTRY_BYTES) as usize];
            }
        }
    }

    /// A write at `offset` in the table: aligned and of 4 or 8 bytes; any other changes nothing.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Option<Change> {
        if !matches!(data.len(), 4 | 8) || !offset.is_multiple_of(data.len() as u64) {
            return None;
        }
        let vector = (offset / ENTRY_BYTES) as usize;
        let before = self.message(vector);
        let entry = self.entries.get_mut(vector)?;
        for (field, value) in (offset % ENTRY_BYTES..).step_by(4).zip(data.as_chunks().0) {
            entry.set(field, u32::from_le_bytes(*value));
        }
        self.change(vector, before)
    }

    /// Back to power-on. Who delivers has been reset too: nothing is said.
    pub fn reset(&mut self) {
        *self = Msix::new(self.entries.len() as u16);
    }

    /// What `vector` sends; nothing while it is closed or where there is no such vector.
    fn message(&self, vector: usize) -> Option<Message> {
        let entry = self.entries.get(vector)?;
        (self.enabled && !self.masked && !entry.masked).then_some(entry.message)
    }

    fn change(&self, vector: usize, before: Option<Message>) -> Option<Change> {
        let message = self.message(vector);
        (message != before).then_some(Change { vector: vector as u16, message })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MESSAGE: Message = Message { address: 0xfee0_1000, data: 0x4021 };

    #[test]
    fn a_vector_is_open_when_nothing_masks_it() {
        let mut msix = Msix::new(2);
        assert_eq!(msix.write(0x10, &0xfee0_1003u32.to_le_bytes()), None);
        assert_eq!(msix.write(0x18, &[0x21, 0x40, 0, 0, 0, 0, 0, 0]), None, "data, and unmasked");
        assert_eq!(msix.set_control(0xc000), []);
        assert_eq!(msix.set_control(0x8000), [Change { vector: 1, message: Some(MESSAGE) }]);
        assert_eq!(msix.write(0x1c, &[1, 0, 0, 0]), Some(Change { vector: 1, message: None }));
        assert_eq!(msix.write(0x1c, &[0; 4]), Some(Change { vector: 1, message: Some(MESSAGE) }));
        let moved = Message { address: 0x1_fee0_1000, ..MESSAGE };
        assert_eq!(msix.write(0x14, &[1, 0, 0, 0]), Some(Change { vector: 1, message: Some(moved) }));
        assert_eq!(msix.set_control(0), [Change { vector: 1, message: None }]);
    }

    #[test]
    fn the_table_reads_back_and_ends() {
        let mut msix = Msix::new(1);
        msix.write(0, &MESSAGE.address.to_le_bytes());
        msix.write(8, &MESSAGE.data.to_le_bytes());
        let mut data = [0xee; 20];
        msix.read(0, &mut data);
        assert_eq!(data[..16], [0, 0x10, 0xe0, 0xfe, 0, 0, 0, 0, 0x21, 0x40, 0, 0, 1, 0, 0, 0]);
        assert_eq!(data[16..], [0xee; 4]);
        assert_eq!(msix.write(16, &[0; 4]), None);
        msix.write(12, &[0; 2]);
        msix.read(12, &mut data[..1]);
        assert_eq!(data[0], 1, "a table has no registers of two bytes");
    }

    proptest! {
        /// Whoever follows the changes knows which vectors are open and what they send.
        #[test]
        fn changes_tell_everything(writes in prop::collection::vec((0u64..0x50, prop::collection::vec(any::<u8>(), 1..9), any::<u16>()), 0..60)) {
            let mut msix = Msix::new(4);
            let mut known = [None; 4];
            for (offset, data, control) in writes {
                let changes: Vec<Change> = if control & 3 == 0 { msix.set_control(control) } else { msix.write(offset, &data).into_iter().collect() };
                for change in changes {
                    known[usize::from(change.vector)] = change.message;
                }
                prop_assert_eq!(known, [0, 1, 2, 3].map(|vector| msix.message(vector)));
            }
        }
    }
}
