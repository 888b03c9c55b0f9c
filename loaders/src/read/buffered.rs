//! Positioned reads through the page cache.

use std::fs::File;

use rustix::io::{Errno, ReadWriteFlags};

use super::raw::RawFile;
use super::{Done, Failed, Reader, Stretch, Target};
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
        let stretch = read_exact(&self.file, offset, target)?;
        done(Source::Buffered, stretch);
        Ok(())
    }
}

/// How far a read came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// The bytes of the file that are dealt with, gaps as well.
    pub(super) done: u64,
    /// Of these, the bytes that were read.
    pub(super) moved: u64,
}

impl Progress {
    pub(super) fn add(&mut self, read: usize) {
        self.done += read as u64;
        self.moved += read as u64;
    }

    /// The stretch from `offset` up to there.
    pub(super) fn from(self, offset: u64) -> Stretch {
        Stretch {
            offset,
            span: self.done,
            bytes: self.moved,
        }
    }
}

/// Fills `target` with the bytes from `offset` on, waiting for the disk where it has to.
pub(super) fn read_exact(
    file: &impl RawFile,
    offset: u64,
    mut target: Target<'_>,
) -> Result<Stretch, Failed> {
    let (progress, end) = read(file, offset, &mut target, ReadWriteFlags::empty());
    end.result(progress.done)?;
    Ok(progress.from(offset))
}

/// As [`read_exact`], but reads gaps as well, by way of `staging`: so the system sees neighbours and reads ahead.
pub(super) fn read_whole(
    file: &impl RawFile,
    offset: u64,
    mut target: Target<'_>,
    staging: &mut [u8],
) -> Result<Stretch, Failed> {
    let mut progress = Progress::default();
    loop {
        progress.done += target.skip_gap() as u64;
        if target.len() == 0 {
            return Ok(progress.from(offset));
        }
        let len = staging.len().min(target.len());
        match file.read(&mut staging[..len], offset + progress.done) {
            Ok(0) => return Err(Failed::ended_early(progress.done)),
            Ok(bytes) => {
                target.copy_from(&staging[..bytes]);
                target.advance(bytes);
                progress.add(bytes);
            }
            Err(Errno::INTR) => {}
            Err(errno) => {
                End::Error(errno).result(progress.done)?;
            }
        }
    }
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

/// Reads until `target` is full or the system gives no more; returns how far it came.
pub(super) fn read(
    file: &impl RawFile,
    offset: u64,
    target: &mut Target<'_>,
    flags: ReadWriteFlags,
) -> (Progress, End) {
    let mut progress = Progress::default();
    loop {
        progress.done += target.skip_gap() as u64;
        if target.len() == 0 {
            return (progress, End::Full);
        }
        match file.read_scattered(target, offset + progress.done, flags) {
            Ok(0) => return (progress, End::Eof),
            Ok(bytes) => {
                progress.add(bytes);
                target.advance(bytes);
            }
            Err(Errno::INTR) => {}
            Err(errno) => return (progress, End::Error(errno)),
        }
    }
}
