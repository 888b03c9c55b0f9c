//! Copies out of a map of the file.

#![allow(unsafe_code)] // mapping a file is unsafe; this is the only place that does it

use std::fs::File;
use std::io::{self, IoSliceMut};

use memmap2::Mmap;

use super::{Failed, Reader};
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
        _file: &File,
        offset: u64,
        buffers: &mut [IoSliceMut<'_>],
    ) -> Result<(), Failed> {
        let mut rest = usize::try_from(offset)
            .ok()
            .and_then(|offset| self.map.get(offset..))
            .unwrap_or_default();
        let mut done = 0;
        for buffer in buffers {
            let Some((bytes, tail)) = rest.split_at_checked(buffer.len()) else {
                return Err(Failed::ended_early(done));
            };
            buffer.copy_from_slice(bytes);
            done += bytes.len() as u64;
            rest = tail;
        }
        Ok(())
    }

    fn source(&self) -> Source {
        Source::Mmap
    }
}
