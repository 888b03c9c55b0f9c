//! The questions that readers ask the system about a file; tests put faults in their place.

use std::fs::File;
use std::io::IoSliceMut;
use std::ops::Range;

use rustix::io::{ReadWriteFlags, pread, preadv2};

use super::{Target, residency};

/// An open file.
pub(super) trait RawFile: Send + Sync {
    /// Fills some of `bytes` with what the file has from `offset` on.
    fn read(&self, bytes: &mut [u8], offset: u64) -> rustix::io::Result<usize>;

    /// As [`read`](Self::read), into several pieces of memory, up to the next gap; the target does not start with one.
    fn read_scattered(
        &self,
        target: &mut Target<'_>,
        offset: u64,
        flags: ReadWriteFlags,
    ) -> rustix::io::Result<usize>;

    /// How many of the pages that hold the bytes of `range` are in the page cache, if the system tells.
    fn cached_pages(&self, range: &Range<u64>) -> Option<u64>;
}

impl RawFile for File {
    fn read(&self, bytes: &mut [u8], offset: u64) -> rustix::io::Result<usize> {
        pread(self, bytes, offset)
    }

    fn read_scattered(
        &self,
        target: &mut Target<'_>,
        offset: u64,
        flags: ReadWriteFlags,
    ) -> rustix::io::Result<usize> {
        match target.only() {
            Some(piece) => preadv2(self, &mut [IoSliceMut::new(piece)], offset, flags),
            None => preadv2(self, &mut target.io_slices(), offset, flags),
        }
    }

    fn cached_pages(&self, range: &Range<u64>) -> Option<u64> {
        residency::cachestat(self, range)
    }
}
