//! Reading a GGUF header from front to back: nothing beyond the file's end, nothing into more memory than a header may take.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::FORMAT;
use crate::{ByteOrder, Error};

/// A header is read in pieces of this many bytes.
const PIECE_BYTES: usize = 64 << 10;

/// The most bytes of memory that a header may take when it is decoded.
///
/// The format has no limit, and an array of a terabyte costs nothing in a sparse file. The largest vocabularies in use, a quarter of a
/// million tokens with scores and merges, take a seventh of this.
const MAX_MEMORY_BYTES: u64 = 256 << 20;

/// A place in a header.
pub(super) struct Cursor<'a> {
    path: &'a Path,
    file: BufReader<Positioned<'a>>,
    position: u64,
    file_bytes: u64,
    memory_left: u64,
    order: ByteOrder,
}

/// What is read of a file from an offset on; the file's own position is left alone.
struct Positioned<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for Positioned<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.file.read_at(buffer, self.offset)?;
        self.offset += len as u64;
        Ok(len)
    }
}

impl<'a> Cursor<'a> {
    /// At the start of `file`, which has `file_bytes` bytes.
    pub(super) fn new(path: &'a Path, file: &'a File, file_bytes: u64) -> Self {
        Self {
            path,
            file: BufReader::with_capacity(PIECE_BYTES, Positioned { file, offset: 0 }),
            position: 0,
            file_bytes,
            memory_left: MAX_MEMORY_BYTES,
            order: ByteOrder::Little,
        }
    }

    /// The next byte's offset in the file.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// The order of the bytes of what is read; little-endian at first.
    pub(super) fn order(&self) -> ByteOrder {
        self.order
    }

    pub(super) fn set_order(&mut self, order: ByteOrder) {
        self.order = order;
    }

    /// The next bytes as they stand.
    pub(super) fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// The bytes of the next number, the least significant first.
    pub(super) fn number<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut bytes = self.bytes()?;
        if self.order == ByteOrder::Big {
            bytes.reverse();
        }
        Ok(bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Error> {
        self.number().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Error> {
        self.number().map(u64::from_le_bytes)
    }

    /// The number of things that follow, each of at least `file_bytes` bytes in the file and of `memory_bytes` in memory, for which there
    /// is room; `place` and `what` are for the error if there is none.
    pub(super) fn count(
        &mut self,
        place: &str,
        what: &str,
        file_bytes: u64,
        memory_bytes: usize,
    ) -> Result<usize, Error> {
        let count = self.u64()?;
        let taken = count.saturating_mul(memory_bytes as u64);
        if taken > self.memory_left {
            let reason = format!(
                "{count} {what} do not fit into the {MAX_MEMORY_BYTES} bytes that a header may take in memory"
            );
            return Err(self.malformed(place, reason));
        }
        self.require(count.saturating_mul(file_bytes))?;
        self.memory_left -= taken;
        Ok(count as usize)
    }

    /// The bytes of a string of at most `most` bytes, which stands behind its length.
    pub(super) fn string(&mut self, place: &str, most: u64) -> Result<Vec<u8>, Error> {
        let len = self.u64()?;
        if len > most.min(self.memory_left) {
            let reason = format!(
                "a string of {len} bytes is over the limit of {}",
                most.min(self.memory_left)
            );
            return Err(self.malformed(place, reason));
        }
        self.require(len)?;
        self.memory_left -= len;
        let mut bytes = vec![0; len as usize];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// Counts `bytes` more of memory for what was read.
    pub(super) fn charge(&mut self, place: &str, bytes: usize) -> Result<(), Error> {
        let left = self.memory_left.checked_sub(bytes as u64);
        self.memory_left = left.ok_or_else(|| {
            let reason = format!(
                "it does not fit into the {MAX_MEMORY_BYTES} bytes that a header may take in memory"
            );
            self.malformed(place, reason)
        })?;
        Ok(())
    }

    pub(super) fn malformed(&self, place: &str, reason: String) -> Error {
        Error::Malformed {
            path: self.path.to_owned(),
            format: FORMAT,
            place: place.to_owned(),
            reason,
        }
    }

    /// Refuses a file that has not so many `bytes` more.
    fn require(&self, bytes: u64) -> Result<(), Error> {
        let expected = self.position.saturating_add(bytes);
        if expected > self.file_bytes {
            return Err(Error::Truncated {
                path: self.path.to_owned(),
                expected,
                found: self.file_bytes,
            });
        }
        Ok(())
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        self.require(bytes.len() as u64)?;
        self.file
            .read_exact(bytes)
            .map_err(Error::io("read the header of", self.path))?;
        self.position += bytes.len() as u64;
        Ok(())
    }
}
