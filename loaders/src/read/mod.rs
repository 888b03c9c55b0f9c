//! Reading: the only place that does I/O on tensors' bytes.
//!
//! A [`Reader`] fills memory from one file; [`fill`] carries out a plan's reads on the workers of the current rayon pool.

mod buffered;
mod mmap;

use std::fmt;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use rayon::prelude::*;

use self::buffered::Buffered;
use self::mmap::Mapped;
use crate::observer::{Observer, ReadDone, Source};
use crate::plan::Read;
use crate::report::Meter;
use crate::source::open_regular;
use crate::{Checkpoint, Error};

/// How a load reads its files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Io {
    /// The loader decides; today that is [`Io::Buffered`] everywhere.
    #[default]
    Auto,
    /// Positioned reads through the page cache, several at once.
    Buffered,
    /// Copies out of a map of the file.
    ///
    /// A file that is truncated while it is mapped ends the process (SIGBUS), and memory behind a map is faulted in page by page,
    /// which is slow on a network file system. It is never chosen by [`Io::Auto`].
    Mmap,
}

impl Io {
    /// Every way of reading.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Buffered, Self::Mmap];
}

impl fmt::Display for Io {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Buffered => "buffered",
            Self::Mmap => "mmap",
        })
    }
}

/// The word is not a way of reading.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a way of reading; there are auto, buffered and mmap")]
pub struct UnknownIo(String);

impl FromStr for Io {
    type Err = UnknownIo;

    fn from_str(word: &str) -> Result<Self, UnknownIo> {
        Self::ALL
            .into_iter()
            .find(|io| io.to_string() == word)
            .ok_or_else(|| UnknownIo(word.to_owned()))
    }
}

/// A way of reading one file.
trait Reader: Send + Sync {
    /// Fills `buffers`, one after the other, with the bytes of `file` from `offset` on.
    fn read_exact_at(
        &self,
        file: &File,
        offset: u64,
        buffers: &mut [IoSliceMut<'_>],
    ) -> Result<(), Failed>;

    /// Where the bytes come from.
    fn source(&self) -> Source;
}

/// A read that did not bring all its bytes.
#[derive(Debug)]
struct Failed {
    /// The bytes that came before it failed.
    done: u64,
    source: io::Error,
}

impl Failed {
    fn ended_early(done: u64) -> Self {
        let message = "the file ends there: it was truncated while it was loaded";
        Self {
            done,
            source: io::Error::new(io::ErrorKind::UnexpectedEof, message),
        }
    }
}

/// The files that hold a checkpoint's tensors, open for reading, known to be those whose headers were read.
pub(crate) struct Files {
    checkpoint: Checkpoint,
    /// By number; `None` for a file from which nothing is wanted.
    open: Vec<Option<OpenFile>>,
}

struct OpenFile {
    file: File,
    reader: Box<dyn Reader>,
}

impl Files {
    pub(crate) fn open(checkpoint: &Checkpoint, io: Io) -> Result<Self, Error> {
        let mut open: Vec<Option<OpenFile>> = checkpoint.files().iter().map(|_| None).collect();
        for info in checkpoint.tensors().iter().filter(|info| info.bytes > 0) {
            if open[info.file].is_some() {
                continue;
            }
            let path = &checkpoint.files()[info.file].path;
            let (file, _) = open_regular(path)?;
            checkpoint.check_unchanged(info.file, &file)?;
            let reader: Box<dyn Reader> = match io {
                Io::Auto | Io::Buffered => Box::new(Buffered),
                Io::Mmap => {
                    Box::new(Mapped::beware_of_truncation(&file).map_err(Error::io("map", path))?)
                }
            };
            open[info.file] = Some(OpenFile { file, reader });
        }
        Ok(Self {
            checkpoint: checkpoint.clone(),
            open,
        })
    }

    /// Refuses what was loaded if a file changed since its header was read.
    pub(crate) fn check_unchanged(&self) -> Result<(), Error> {
        let mut open = self.open.iter().enumerate();
        open.try_for_each(|(number, open)| match open {
            Some(open) => self.checkpoint.check_unchanged(number, &open.file),
            None => Ok(()),
        })
    }

    /// Carries out `read` into `buffers`, which are as long as its parts.
    fn read(&self, read: &Read, buffers: &mut [IoSliceMut<'_>]) -> Result<ReadDone, Error> {
        let open = self.open[read.file]
            .as_ref()
            .expect("every file with a tensor that has bytes is open");
        let start = Instant::now();
        open.reader
            .read_exact_at(&open.file, read.offset, buffers)
            .map_err(|failed| self.error(read, failed))?;
        Ok(ReadDone {
            bytes: read.len,
            duration: start.elapsed(),
            source: open.reader.source(),
        })
    }

    fn error(&self, read: &Read, failed: Failed) -> Error {
        let tensor = self
            .checkpoint
            .tensor_at(read.file, read.offset + failed.done)
            .map_or_else(String::new, |info| info.name.clone());
        Error::Read {
            path: self.checkpoint.files()[read.file].path.clone(),
            tensor,
            range: read.offset + failed.done..read.offset + read.len,
            source: failed.source,
        }
    }
}

/// Who watches a load, and may end it.
pub(crate) struct Watch<'a> {
    pub(crate) meter: &'a Meter,
    pub(crate) observer: &'a dyn Observer,
    /// Once set, reads that have not begun are left out: the caller has no use for the memory any more.
    pub(crate) cancelled: &'a AtomicBool,
}

/// Fills `slots` by carrying out `reads`, on all workers of the current rayon pool. Ends with the first error.
pub(crate) fn fill(
    files: &Files,
    reads: &[Read],
    slots: Vec<&mut [u8]>,
    watch: &Watch<'_>,
) -> Result<(), Error> {
    let read_one = |(read, mut buffers): (&Read, Vec<IoSliceMut<'_>>)| {
        if watch.cancelled.load(Relaxed) {
            return Ok(());
        }
        let done = files.read(read, &mut buffers)?;
        watch.meter.read(&done);
        watch.observer.read(&done);
        Ok(())
    };
    let tasks = reads.iter().zip(scatter(reads, slots));
    if reads.len() < 2 {
        tasks.into_iter().try_for_each(read_one)
    } else {
        // One queue in file order: a disk sees nearly sequential reads, and no worker runs dry before the others.
        tasks.par_bridge().try_for_each(read_one)
    }
}

/// Cuts `slots` into the parts of `reads`, for each read in turn.
///
/// # Panics
///
/// Panics if parts overlap or leave their slots, which no plan's do.
fn scatter<'a>(reads: &[Read], slots: Vec<&'a mut [u8]>) -> Vec<Vec<IoSliceMut<'a>>> {
    let mut rest: Vec<(&mut [u8], u64)> = slots.into_iter().map(|slot| (slot, 0)).collect();
    reads
        .iter()
        .map(|read| {
            let parts = read.parts.iter().map(|part| {
                let (slot, cut) = &mut rest[part.slot];
                let tail = std::mem::take(slot)
                    .split_at_mut((part.offset - *cut) as usize)
                    .1;
                let (buffer, tail) = tail.split_at_mut(part.len as usize);
                (*slot, *cut) = (tail, part.offset + part.len);
                IoSliceMut::new(buffer)
            });
            parts.collect()
        })
        .collect()
}
