//! A file whose header is being read.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::Error;

/// A file whose header is being read, and what its errors say of it.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    pub(super) path: &'a Path,
    pub(super) file: &'a File,
    /// The file's size in bytes.
    pub(super) bytes: u64,
    /// The format that it is read as.
    pub(super) format: &'static str,
}

impl Input<'_> {
    /// Reads `count` bytes at `offset`. No memory is taken if the file does not have them.
    pub(super) fn read(&self, offset: u64, count: u64) -> Result<Vec<u8>, Error> {
        let end = offset.saturating_add(count);
        if end > self.bytes {
            return Err(self.truncated(end));
        }
        let mut bytes = vec![0; count as usize];
        self.file
            .read_exact_at(&mut bytes, offset)
            .map_err(Error::io("read the header of", self.path))?;
        Ok(bytes)
    }

    pub(super) fn malformed(&self, place: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::Malformed {
            path: self.path.to_owned(),
            format: self.format,
            place: place.into(),
            reason: reason.into(),
        }
    }

    pub(super) fn unsupported(&self, place: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::Unsupported {
            path: self.path.to_owned(),
            place: place.into(),
            reason: reason.into(),
        }
    }

    /// The file should have `expected` bytes, and has fewer.
    pub(super) fn truncated(&self, expected: u64) -> Error {
        Error::Truncated {
            path: self.path.to_owned(),
            expected,
            found: self.bytes,
        }
    }

    /// The file should end after `expected` bytes, and does not.
    pub(super) fn trailing(&self, expected: u64) -> Error {
        Error::TrailingBytes {
            path: self.path.to_owned(),
            expected,
            found: self.bytes,
        }
    }
}
