//! A writer of zip archives, as PyTorch and NumPy write them, and otherwise.

use std::io::Write;
use std::ops::Range;

use flate2::Compression;
use flate2::write::DeflateEncoder;

/// How a member is put down; none of it changes what it is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Packing {
    pub(crate) deflated: bool,
    /// Whether sizes stand behind the data, and not before, as PyTorch has them.
    pub(crate) descriptor: bool,
    /// Whether all numbers take 64 bits.
    pub(crate) large: bool,
    /// Data starts at a multiple of so many bytes, if it is not 0, as PyTorch has it (64).
    pub(crate) aligned: usize,
}

/// As `torch.save` packs.
pub(crate) const TORCH: Packing = Packing {
    deflated: false,
    descriptor: true,
    large: false,
    aligned: 64,
};

/// An archive that is being written.
#[derive(Clone, Default)]
pub(crate) struct Zip {
    pub(crate) bytes: Vec<u8>,
    pub(crate) directory: Vec<u8>,
    members: u64,
    large: bool,
}

/// Numbers of a member that a header states; a test may lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stated {
    pub(crate) method: u16,
    pub(crate) flags: u16,
    pub(crate) packed: u64,
    pub(crate) bytes: u64,
    pub(crate) header: u64,
}

impl Zip {
    /// Adds a member; tells where its data lies.
    pub(crate) fn member(&mut self, name: &str, data: &[u8], packing: Packing) -> Range<usize> {
        self.member_with(name, data, packing, |_| {})
    }

    /// Adds a member of whose numbers the list of members says what `lie` makes of them.
    pub(crate) fn member_with(
        &mut self,
        name: &str,
        data: &[u8],
        packing: Packing,
        lie: impl FnOnce(&mut Stated),
    ) -> Range<usize> {
        let packed = if packing.deflated {
            let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(data).expect("memory");
            encoder.finish().expect("memory")
        } else {
            data.to_vec()
        };
        let mut stated = Stated {
            method: if packing.deflated { 8 } else { 0 },
            flags: if packing.descriptor { 0x808 } else { 0x800 },
            packed: packed.len() as u64,
            bytes: data.len() as u64,
            header: self.bytes.len() as u64,
        };
        self.local_header(name, stated, packing);
        let start = self.bytes.len();
        self.bytes.extend(&packed);
        let end = self.bytes.len();
        if packing.descriptor {
            self.bytes.extend(b"PK\x07\x08\0\0\0\0");
            self.bytes.extend((stated.packed as u32).to_le_bytes());
            self.bytes.extend((stated.bytes as u32).to_le_bytes());
        }
        lie(&mut stated);
        self.entry(name, stated, packing.large);
        start..end
    }

    fn local_header(&mut self, name: &str, stated: Stated, packing: Packing) {
        let mut extra = Vec::new();
        if packing.large && !packing.descriptor {
            extra.extend(1u16.to_le_bytes());
            extra.extend(16u16.to_le_bytes());
            extra.extend(stated.bytes.to_le_bytes());
            extra.extend(stated.packed.to_le_bytes());
        }
        if packing.aligned > 0 {
            let start = self.bytes.len() + 30 + name.len() + extra.len() + 4;
            let padding = start.next_multiple_of(packing.aligned) - start;
            extra.extend(b"FB");
            extra.extend((padding as u16).to_le_bytes());
            extra.extend(vec![b'Z'; padding]);
        }
        let known = |number: u64| match (packing.descriptor, packing.large) {
            (true, _) => 0,
            (_, true) => u32::MAX,
            _ => number as u32,
        };
        self.bytes.extend(b"PK\x03\x04\x14\0");
        self.bytes.extend(stated.flags.to_le_bytes());
        self.bytes.extend(stated.method.to_le_bytes());
        self.bytes.extend([0; 8]); // time, date, checksum
        self.bytes.extend(known(stated.packed).to_le_bytes());
        self.bytes.extend(known(stated.bytes).to_le_bytes());
        self.bytes.extend((name.len() as u16).to_le_bytes());
        self.bytes.extend((extra.len() as u16).to_le_bytes());
        self.bytes.extend(name.as_bytes());
        self.bytes.extend(extra);
    }

    /// Adds an entry to the list of members.
    pub(crate) fn entry(&mut self, name: &str, stated: Stated, large: bool) {
        let Stated {
            method,
            flags,
            packed,
            bytes,
            header,
        } = stated;
        let mut extra = Vec::new();
        if large {
            extra.extend([1, 0, 24, 0]);
            extra.extend(bytes.to_le_bytes());
            extra.extend(packed.to_le_bytes());
            extra.extend(header.to_le_bytes());
        }
        let number = |number: u64| if large { u32::MAX } else { number as u32 }.to_le_bytes();
        let directory = &mut self.directory;
        directory.extend(b"PK\x01\x02\x14\0\x14\0");
        directory.extend(flags.to_le_bytes());
        directory.extend(method.to_le_bytes());
        directory.extend([0; 8]);
        directory.extend(number(packed));
        directory.extend(number(bytes));
        directory.extend((name.len() as u16).to_le_bytes());
        directory.extend((extra.len() as u16).to_le_bytes());
        directory.extend([0; 10]); // comment, disk, attributes
        directory.extend(number(header));
        directory.extend(name.as_bytes());
        directory.extend(extra);
        self.members += 1;
        self.large |= large;
    }

    /// The archive.
    pub(crate) fn finish(self) -> Vec<u8> {
        let members = self.bytes.clone();
        [members, self.finish_behind(0)].concat()
    }

    /// What stands behind the members and `gap` bytes more.
    pub(crate) fn finish_behind(self, gap: u64) -> Vec<u8> {
        let start = self.bytes.len() as u64 + gap;
        let (len, members) = (self.directory.len() as u64, self.members);
        let mut bytes = self.directory;
        if self.large {
            let end = start + len;
            bytes.extend(b"PK\x06\x06");
            bytes.extend(44u64.to_le_bytes());
            bytes.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            for number in [members, members, len, start] {
                bytes.extend(number.to_le_bytes());
            }
            bytes.extend(b"PK\x06\x07\0\0\0\0");
            bytes.extend(end.to_le_bytes());
            bytes.extend(1u32.to_le_bytes());
        }
        let number = |number: u64| if self.large { u32::MAX } else { number as u32 }.to_le_bytes();
        let count = if self.large { u16::MAX } else { members as u16 }.to_le_bytes();
        bytes.extend(b"PK\x05\x06\0\0\0\0");
        bytes.extend(count);
        bytes.extend(count);
        bytes.extend(number(len));
        bytes.extend(number(start));
        bytes.extend([0, 0]);
        bytes
    }
}
