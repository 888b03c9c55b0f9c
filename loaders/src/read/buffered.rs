//! Positioned reads through the page cache.

use std::fs::File;

use rustix::io::{Errno, ReadWriteFlags};

use super::raw::RawFile;
use super::{Done, Failed, Reader, Target};
use crate::observer::Source;

pub(super) struct Buffered<F = File> {
    file: F,
}

impl<F> Buffered<F> {
    pub(super) fn new(file: F) -> Self {
        Self { file }
    }
}

impl<F: RawFile> Reader for Buffered<F> {
    fn read_exact_at(&self, offset: u64, target: Target<'_>, done: Done<'_>) -> Result<(), Failed> {
        let bytes = read_exact(&self.file, offset, target)?;
        done(Source::Buffered, bytes);
        Ok(())
    }
}

/// Fills `target` with the bytes from `offset` on, waiting for the disk where it has to; returns how many there were.
pub(super) fn read_exact(
    file: &impl RawFile,
    offset: u64,
    mut target: Target<'_>,
) -> Result<u64, Failed> {
    let (done, end) = read(file, offset, &mut target, ReadWriteFlags::empty());
    end.result(done)?;
    Ok(done)
}

/// Why reading stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Everything is there.
    Full,
    /// The file has no more.
    Eof,
    Error(Errno),
}

impl End {
    /// What it means for a read that brought `done` bytes.
    pub(super) fn result(self, done: u64) -> Result<(), Failed> {
        match self {
            Self::Full => Ok(()),
            Self::Eof => Err(Failed::ended_early(done)),
            Self::Error(errno) => Err(Failed {
                done,
                source: errno.into(),
            }),
        }
    }
}

/// Reads until `target` is full or the system gives no more; returns the bytes that came.
pub(super) fn read(
    file: &impl RawFile,
    offset: u64,
    target: &mut Target<'_>,
    flags: ReadWriteFlags,
) -> (u64, End) {
    let mut done = 0;
    while target.len() > 0 {
        match file.read_scattered(target, offset + done, flags) {
            Ok(0) => return (done, End::Eof),
            Ok(bytes) => {
                done += bytes as u64;
                target.advance(bytes);
            }
            Err(Errno::INTR) => {}
            Err(errno) => return (done, End::Error(errno)),
        }
    }
    (done, End::Full)
}
