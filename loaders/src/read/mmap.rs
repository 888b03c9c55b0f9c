//! Copies out of a map of the file.

#![allow(unsafe_code)] // mapping a file is unsafe; this is the only place that does it

use std::fs::File;
use std::hint::black_box;
use std::io;

use memmap2::Mmap;

use super::{Done, Failed, Reader, Stretch, Target};
use crate::observer::Source;

/// A map of a file, out of which bytes can be copied: what [`Io::Mmap`](crate::Io::Mmap) reads with.
#[derive(Debug)]
pub struct MappedFile {
    map: Mmap,
}

/// A page of any machine is at least so large.
const PAGE: usize = 4096;

impl MappedFile {
    /// Maps `file`, for users who chose so: if anyone truncates the file while it is mapped, reading the map ends the process (SIGBUS).
    ///
    /// # Errors
    ///
    /// The system refuses the map.
    pub fn beware_of_truncation(file: &File) -> io::Result<Self> {
        // SAFETY: the map is private to this type, which only copies bytes out of it: no reference into it outlives a copy, and every
        // bit pattern is a valid `u8`, so a writer who changes the file meanwhile makes the copy's content unspecified and nothing
        // else. That no one truncates the file is the promise of the user who asked for this way of reading; the documentation of
        // `Io::Mmap` says what happens otherwise (SIGBUS, not undefined behaviour).
        let map = unsafe { Mmap::map(file)? };
        Ok(Self { map })
    }

    /// Fills `memory` with the file's bytes from `offset` on.
    ///
    /// # Errors
    ///
    /// The file is shorter.
    pub fn copy_to(&self, offset: u64, memory: &mut [u8]) -> io::Result<()> {
        let range = usize::try_from(offset)
            .ok()
            .and_then(|start| Some(start..start.checked_add(memory.len())?));
        let bytes = range.and_then(|range| self.map.get(range));
        memory.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    /// Looks at every page, so that the system has to have all of them in memory.
    pub fn touch(&self) {
        for byte in self.map.iter().step_by(PAGE) {
            black_box(*byte);
        }
    }
}

impl Reader for MappedFile {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_copied_as_far_as_the_file_goes() {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, b"a model").unwrap();
        let mapped = MappedFile::beware_of_truncation(&file).unwrap();
        mapped.touch();
        let mut memory = [0; 5];
        mapped.copy_to(2, &mut memory).unwrap();
        assert_eq!(&memory, b"model");
        for offset in [3, u64::MAX] {
            let error = mapped.copy_to(offset, &mut memory).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{offset}");
        }
    }
}
