//! Where the members of a zip archive lie in it.
//!
//! Source: APPNOTE.TXT 6.3.10 of PKWARE. PyTorch writes such archives since 1.6, NumPy as `.npz`. Members are stored as they are, or
//! deflated (RFC 1951); what else the format knows (encryption, several disks, other compressions, bytes before the first member) neither
//! writes, and it is refused. So is what two readers could take for different things: two members of a name, members that share bytes,
//! a member whose two headers differ.
//!
//! Checksums are not compared: members are read in part, and PyTorch can be told to write none.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use flate2::read::DeflateDecoder;

use super::input::Input;
use super::safetensors::MAX_HEADER_BYTES;
use crate::Error;
use crate::stored::Storage;

/// First bytes of an archive, and of one without members.
pub(super) const MAGICS: [&[u8]; 2] = [b"PK\x03\x04", b"PK\x05\x06"];

const LOCAL_MAGIC: u32 = 0x0403_4b50;
const ENTRY_MAGIC: u32 = 0x0201_4b50;
const END_MAGIC: u32 = 0x0605_4b50;
const END64_MAGIC: u32 = 0x0606_4b50;
const LOCATOR64_MAGIC: u32 = 0x0706_4b50;

/// Bytes of the fixed part of each record.
const LOCAL_BYTES: u64 = 30;
const ENTRY_BYTES: usize = 46;
const END_BYTES: u64 = 22;
const END64_BYTES: u64 = 56;
const LOCATOR64_BYTES: u64 = 20;

/// The largest comment behind the end record, in bytes.
const MAX_COMMENT_BYTES: u64 = u16::MAX as u64;

/// In place of a 32-bit number that stands, with 64 bits, elsewhere.
const ELSEWHERE: u32 = u32::MAX;

/// The extra field that has the 64-bit numbers of an entry.
const EXTRA64: u16 = 1;

const ENCRYPTED: u16 = 1;
/// Sizes stand behind the data, not before.
const DESCRIPTOR_BEHIND: u16 = 1 << 3;

/// No byte that is deflated stands for more than this many (zlib's documentation: 1032 to 1, in the limit).
const MOST_INFLATION: u64 = 1032;

/// The members of an archive.
#[derive(Debug)]
pub(super) struct Archive {
    /// In the order of their names.
    members: Vec<Member>,
}

/// A member of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) name: String,
    method: u16,
    /// The first byte of its data, from the start of the file.
    offset: u64,
    /// The size of its data in bytes.
    packed: u64,
    /// Its own size in bytes.
    pub(super) bytes: u64,
}

impl Archive {
    /// Reads where the members are, and checks that each is where the archive says, and in the file.
    pub(super) fn read(input: &Input<'_>) -> Result<Self, Error> {
        let directory = Directory::find(input)?;
        let bytes = input.read(directory.start, directory.bytes)?;
        let entries = directory.entries(input, &bytes)?;
        let members = locate(input, entries, directory.start)?;
        Ok(Self { members })
    }

    /// The members, in the order of their names.
    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    /// The member of this name.
    pub(super) fn member(&self, name: &str) -> Option<&Member> {
        let found = self
            .members
            .binary_search_by(|member| member.name.as_str().cmp(name));
        found.ok().map(|at| &self.members[at])
    }
}

impl Member {
    /// Where its bytes are; refuses a compression that is not known.
    pub(super) fn storage(&self, input: &Input<'_>) -> Result<Storage, Error> {
        let &Self {
            offset,
            packed,
            bytes,
            ..
        } = self;
        match self.method {
            0 => Ok(Storage::Plain { offset, bytes }),
            8 => Ok(Storage::Deflated {
                offset,
                packed,
                bytes,
            }),
            other => Err(input.unsupported(
                self.place(),
                format!("its compression method {other} is not known, only 0 (stored) and 8 (deflated) are"),
            )),
        }
    }

    /// The first `count` bytes of it, or all if it is shorter.
    pub(super) fn read_start(&self, input: &Input<'_>, count: u64) -> Result<Vec<u8>, Error> {
        let count = count.min(self.bytes);
        let Storage::Deflated { offset, packed, .. } = self.storage(input)? else {
            return input.read(self.offset, count);
        };
        let packed = Packed {
            file: input.file,
            at: offset,
            end: offset + packed,
        };
        let mut bytes = Vec::new();
        DeflateDecoder::new(packed)
            .take(count)
            .read_to_end(&mut bytes)
            .map_err(|error| match error.kind() {
                io::ErrorKind::InvalidInput
                | io::ErrorKind::InvalidData
                | io::ErrorKind::UnexpectedEof => {
                    input.malformed(self.place(), "what is deflated in it is damaged")
                }
                _ => Error::io("read the header of", input.path)(error),
            })?;
        if (bytes.len() as u64) < count {
            return Err(input.malformed(
                self.place(),
                format!("it inflates to {} of {} bytes", bytes.len(), self.bytes),
            ));
        }
        Ok(bytes)
    }

    /// All of it, which may be no more than `most` bytes.
    pub(super) fn read_all(&self, input: &Input<'_>, most: u64) -> Result<Vec<u8>, Error> {
        if self.bytes > most {
            let reason = format!("its {} bytes are over the limit of {most}", self.bytes);
            return Err(input.malformed(self.place(), reason));
        }
        self.read_start(input, self.bytes)
    }

    /// What an error calls it.
    pub(super) fn place(&self) -> String {
        format!("member {:?}", self.name)
    }
}

/// A range of a file, as a stream.
struct Packed<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for Packed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = (self.end - self.at).min(buffer.len() as u64) as usize;
        let count = self.file.read_at(&mut buffer[..most], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// The list of the members, at the end of the archive.
struct Directory {
    start: u64,
    bytes: u64,
    entries: u64,
}

impl Directory {
    fn find(input: &Input<'_>) -> Result<Self, Error> {
        let tail_bytes = input.bytes.min(END_BYTES + MAX_COMMENT_BYTES);
        let tail_start = input.bytes - tail_bytes;
        let tail = input.read(tail_start, tail_bytes)?;
        // The record's last number is the size of the comment that follows it: that tells the record from bytes that look like one.
        let is_end = |at: &usize| {
            let record = &tail[*at..];
            u32_at(record, 0) == Some(END_MAGIC)
                && u16_at(record, 20)
                    .is_some_and(|comment| record.len() as u64 == END_BYTES + u64::from(comment))
        };
        let at = (0..tail.len()).rev().find(is_end).ok_or_else(|| {
            let place = format!("bytes {tail_start}..{}", input.bytes);
            let reason = "a zip archive ends with a list of its members, and this file does not; if the download stopped short, fetch it again";
            input.malformed(place, reason)
        })?;
        let end = tail_start + at as u64;
        let place = format!("bytes {end}..{}", end + END_BYTES);
        let malformed = |reason: &str| input.malformed(place.as_str(), reason);
        let record = Fields(&tail[at..]);
        if [record.u16(4), record.u16(6)]
            .iter()
            .any(|&disk| !matches!(disk, 0 | u16::MAX))
        {
            return Err(malformed("the archive is in several parts"));
        }
        let (entries, bytes, start) = (record.u16(10), record.u32(12), record.u32(16));
        let locator = end.checked_sub(LOCATOR64_BYTES);
        let locator = locator
            .map(|at| input.read(at, LOCATOR64_BYTES))
            .transpose()?;
        let large = locator.filter(|locator| Fields(locator).u32(0) == LOCATOR64_MAGIC);
        let (directory, directory_end) = match large {
            None => {
                let directory = Self {
                    start: start.into(),
                    bytes: bytes.into(),
                    entries: entries.into(),
                };
                (directory, end)
            }
            Some(locator) => {
                let at = Fields(&locator).u64(8);
                let directory = Self::read64(input, at, end - LOCATOR64_BYTES)?;
                let agrees = agrees(bytes, directory.bytes)
                    && agrees(start, directory.start)
                    && (entries == u16::MAX || u64::from(entries) == directory.entries);
                if !agrees {
                    return Err(malformed("it contradicts the record with 64-bit numbers"));
                }
                (directory, at)
            }
        };
        if directory.start.checked_add(directory.bytes) != Some(directory_end) {
            return Err(malformed(
                "the list of members is not right before it; what is before the archive, or within it, does not belong there",
            ));
        }
        if directory.bytes > MAX_HEADER_BYTES {
            return Err(malformed(&format!(
                "a list of members of {} bytes is over the limit of {MAX_HEADER_BYTES}",
                directory.bytes
            )));
        }
        Ok(directory)
    }

    /// The end record with 64-bit numbers at `at`, which `end` follows.
    fn read64(input: &Input<'_>, at: u64, end: u64) -> Result<Self, Error> {
        let place = format!("bytes {at}..{end}");
        let malformed = |reason: &str| input.malformed(place.as_str(), reason);
        if end.checked_sub(at).is_none_or(|bytes| bytes < END64_BYTES) {
            return Err(malformed(
                "the record with 64-bit numbers is not before the last record",
            ));
        }
        let record = input.read(at, END64_BYTES)?;
        let record = Fields(&record);
        if record.u32(0) != END64_MAGIC || record.u64(4).checked_add(12) != Some(end - at) {
            return Err(malformed("there is no record with 64-bit numbers"));
        }
        if (record.u32(16), record.u32(20)) != (0, 0) {
            return Err(malformed("the archive is in several parts"));
        }
        Ok(Self {
            entries: record.u64(32),
            bytes: record.u64(40),
            start: record.u64(48),
        })
    }

    /// The entries, which are in `bytes`, each with the offset of its member's own header.
    fn entries(&self, input: &Input<'_>, bytes: &[u8]) -> Result<Vec<Entry>, Error> {
        let mut entries = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let place = format!(
                "bytes {}..{}",
                self.start + at as u64,
                self.start + self.bytes
            );
            let (entry, used) =
                Entry::parse(&bytes[at..]).map_err(|reason| input.malformed(place, reason))?;
            entries.push(entry);
            at += used;
        }
        if entries.len() as u64 != self.entries {
            let place = format!("bytes {}..{}", self.start, self.start + self.bytes);
            let reason = format!(
                "the list has {} members, and says that it has {}",
                entries.len(),
                self.entries
            );
            return Err(input.malformed(place, reason));
        }
        Ok(entries)
    }
}

/// Whether a 32-bit number is the low form of a 64-bit one.
fn agrees(short: u32, long: u64) -> bool {
    short == ELSEWHERE || u64::from(short) == long
}

/// A member as the list has it.
struct Entry {
    name: String,
    flags: u16,
    method: u16,
    packed: u64,
    bytes: u64,
    /// Where the member's own header is.
    header: u64,
}

impl Entry {
    /// The entry that `bytes` begin with, and how many it takes.
    fn parse(bytes: &[u8]) -> Result<(Self, usize), String> {
        if u32_at(bytes, 0) != Some(ENTRY_MAGIC) || bytes.len() < ENTRY_BYTES {
            return Err("the list of members breaks off".to_owned());
        }
        let fields = Fields(bytes);
        let lengths = [fields.u16(28), fields.u16(30), fields.u16(32)].map(usize::from);
        let [name_bytes, extra_bytes, comment_bytes] = lengths;
        let used = ENTRY_BYTES + name_bytes + extra_bytes + comment_bytes;
        let variable = bytes
            .get(ENTRY_BYTES..used)
            .ok_or("the list of members breaks off")?;
        let (name, variable) = variable.split_at(name_bytes);
        let name = std::str::from_utf8(name)
            .map_err(|_| format!("the name {:?} is not UTF-8", String::from_utf8_lossy(name)))?;
        check_name(name)?;
        let [mut packed, mut size, mut header] =
            [fields.u32(20), fields.u32(24), fields.u32(42)].map(u64::from);
        let mut long = extra64(&variable[..extra_bytes]).chunks_exact(8);
        // The long numbers stand in this order, those that are needed only.
        for short in [&mut size, &mut packed, &mut header] {
            if *short == u64::from(ELSEWHERE) {
                let number = long.next().and_then(|number| number.try_into().ok());
                *short = u64::from_le_bytes(
                    number.ok_or_else(|| format!("member {name:?} lacks its 64-bit numbers"))?,
                );
            }
        }
        let entry = Self {
            name: name.to_owned(),
            flags: fields.u16(8),
            method: fields.u16(10),
            packed,
            bytes: size,
            header,
        };
        entry.check()?;
        Ok((entry, used))
    }

    fn check(&self) -> Result<(), String> {
        let Self {
            name,
            packed,
            bytes,
            ..
        } = self;
        if self.flags & ENCRYPTED != 0 {
            return Err(format!("member {name:?} is encrypted"));
        }
        if self.method == 0 && packed != bytes {
            return Err(format!(
                "member {name:?} is stored, but takes {packed} bytes for its {bytes}"
            ));
        }
        if self.method == 8 && *bytes > packed.saturating_mul(MOST_INFLATION) {
            return Err(format!(
                "member {name:?} is said to inflate from {packed} to {bytes} bytes, more than deflate can"
            ));
        }
        Ok(())
    }

    /// The bytes of its own header, up to the extra fields: those are not known before the header is read.
    fn header_bytes(&self) -> u64 {
        LOCAL_BYTES + self.name.len() as u64
    }
}

/// Refuses a name that would lead out of a folder. Nothing is ever unpacked here, but nobody writes such a name in good faith.
fn check_name(name: &str) -> Result<(), String> {
    let leaves = name.starts_with('/')
        || name.contains(['\\', '\0'])
        || name.split('/').any(|part| part == "..");
    if leaves {
        return Err(format!("the name {name:?} leads out of the archive"));
    }
    Ok(())
}

/// The content of the extra field with the 64-bit numbers; empty if there is none.
fn extra64(mut extra: &[u8]) -> &[u8] {
    while let (Some(id), Some(len)) = (u16_at(extra, 0), u16_at(extra, 2)) {
        let Some((content, rest)) = extra[4..].split_at_checked(len.into()) else {
            break;
        };
        if id == EXTRA64 {
            return content;
        }
        extra = rest;
    }
    &[]
}

/// Reads each member's own header, and tells where its data is. The members' bytes end before `limit`.
fn locate(input: &Input<'_>, mut entries: Vec<Entry>, limit: u64) -> Result<Vec<Member>, Error> {
    entries.sort_unstable_by_key(|entry| entry.header);
    let mut members = Vec::with_capacity(entries.len());
    let mut ends = limit;
    // From the last: each ends before the one behind it.
    for entry in entries.into_iter().rev() {
        let place = format!("member {:?}", entry.name);
        let overlaps = |end: u64| {
            let reason = format!(
                "its bytes {}..{end} overlap what begins at {ends}",
                entry.header
            );
            input.malformed(place.as_str(), reason)
        };
        let least = entry
            .header
            .saturating_add(entry.header_bytes())
            .saturating_add(entry.packed);
        if least > ends {
            return Err(overlaps(least));
        }
        let header = input.read(entry.header, entry.header_bytes())?;
        let offset = entry.header
            + check_header(&entry, &header)
                .map_err(|reason| input.malformed(place.as_str(), reason))?;
        let end = offset.saturating_add(entry.packed);
        if end > ends {
            return Err(overlaps(end));
        }
        ends = entry.header;
        members.push(Member {
            name: entry.name,
            method: entry.method,
            offset,
            packed: entry.packed,
            bytes: entry.bytes,
        });
    }
    members.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    if let Some(pair) = members.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(input.malformed(pair[0].place(), "two members have this name"));
    }
    Ok(members)
}

/// Compares a member's own header with its entry in the list; tells the bytes from the header's start to the data.
fn check_header(entry: &Entry, header: &[u8]) -> Result<u64, &'static str> {
    let (fixed, name) = header.split_at(LOCAL_BYTES as usize);
    let fields = Fields(fixed);
    if fields.u32(0) != LOCAL_MAGIC {
        return Err("there is no member where the list of members says");
    }
    let known_before = fields.u16(6) & DESCRIPTOR_BEHIND == 0;
    let differs = name != entry.name.as_bytes()
        || usize::from(fields.u16(26)) != name.len()
        || fields.u16(6) & ENCRYPTED != 0
        || fields.u16(8) != entry.method
        || known_before && !agrees(fields.u32(18), entry.packed)
        || known_before && !agrees(fields.u32(22), entry.bytes);
    if differs {
        return Err("its own header and the list of members contradict each other");
    }
    Ok(header.len() as u64 + u64::from(fields.u16(28)))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_le_bytes(*bytes))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*bytes))
}

/// The little-endian numbers of a record whose size was checked; 0 beyond it.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn u16(&self, at: usize) -> u16 {
        u16_at(self.0, at).unwrap_or(0)
    }

    fn u32(&self, at: usize) -> u32 {
        u32_at(self.0, at).unwrap_or(0)
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) | u64::from(self.u32(at + 4)) << 32
    }
}
