//! Copies out of a map of the file.

#![allow(unsafe_code)] // mapping a file is unsafe; this is the only place that does it

use std::fs::File;
use std::io;

use memmap2::Mmap;

use super::{Done, Failed, Reader, Stretch, Target};
use crate::observer::Source;

pub(super) struct Mapped {
    map: Mmap,
}

impl Mapped {
    /// Maps `file`, for users who chose so: if anyone truncates the file while it is mapped, reading the map ends the process.
    pub(super) fn beware_of_truncation(file: &File) -> io::Result<Self> {
        // SAFETY: the map is private to this type, which only copies bytes out of it: no reference into it outlives a copy, and every
        // bit pattern is a valid `u8`, so a writer who changes the file meanwhile makes the copy's content unspecified and nothing
        // else. That no one truncates the file is the promise of the user who asked for this way of reading; the documentation of
        // `Io::Mmap` says what happens otherwise (SIGBUS, not undefined behaviour).
        let map = unsafe { Mmap::map(file)? };
        Ok(Self { map })
    }
}

impl Reader for Mapped {
    fn read_exact_at(
        &self,
        offset: u64,
        mut target: Target<'_>,
        done: Done<'_>,
    ) -> Result<(), Failed> {
        let from_there = usize::try_from(offset)
            .ok()
            .and_then(|offset| self.map.get(offset..))
            .unwrap_or_default();
        let Some(bytes) = from_there.get(..target.len()) else {
            return Err(Failed::ended_early(from_there.len() as u64));
        };
        let stretch = Stretch {
            offset,
            span: target.len() as u64,
            bytes: target.pieces().map(|piece| piece.len() as u64).sum(),
        };
        target.copy_from(bytes);
        done(Source::Mmap, stretch);
        Ok(())
    }
}
