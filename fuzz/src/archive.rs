//! A zip archive of stored members, as far as it matters to who reads it: times and checksums are zero.
//!
//! Source: APPNOTE.TXT of PKWARE.

/// An archive that is being written.
#[derive(Default)]
pub(crate) struct Archive {
    members: Vec<u8>,
    directory: Vec<u8>,
    count: u16,
}

impl Archive {
    pub(crate) fn member(&mut self, name: &str, content: &[u8]) {
        let len = (content.len() as u32).to_le_bytes();
        // Version, flags, method, time, date, checksum; both sizes; the lengths of the name and of further fields.
        let mut stated = vec![20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        stated.extend([len, len].concat());
        stated.extend((name.len() as u16).to_le_bytes());
        stated.extend([0, 0]);

        self.directory.extend(b"PK\x01\x02\x14\0");
        self.directory.extend(&stated);
        self.directory.extend([0; 10]); // a comment's length, disk, attributes
        self.directory
            .extend((self.members.len() as u32).to_le_bytes());
        self.directory.extend(name.as_bytes());

        self.members.extend(b"PK\x03\x04");
        self.members.extend(stated);
        self.members.extend(name.as_bytes());
        self.members.extend(content);
        self.count += 1;
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        let count = self.count.to_le_bytes();
        let start = (self.members.len() as u32).to_le_bytes();
        let len = (self.directory.len() as u32).to_le_bytes();
        let mut bytes = [self.members, self.directory].concat();
        bytes.extend(b"PK\x05\x06\0\0\0\0");
        bytes.extend([count, count].concat());
        bytes.extend([len, start].concat());
        bytes.extend([0, 0]);
        bytes
    }
}
