//! Reading: the only place that does I/O on tensors' bytes.
//!
//! A [`Reader`] fills memory from one file; [`fill()`] carries out a plan's reads on the workers of the current rayon pool.

mod absent;
mod buffered;
mod direct;
mod fill;
mod gather;
mod inflate;
mod mmap;
mod policy;
mod raw;
mod residency;
mod target;
mod uncached;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod gathering;

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use ckload_pool::BufferPool;
use rustix::fs::{Advice, fadvise};

use self::absent::{Absent, Dropping};
use self::buffered::Buffered;
use self::direct::Direct;
pub(crate) use self::fill::{Slot, Watch, fill, fill_here};
use self::inflate::Parked;
pub use self::mmap::MappedFile;
pub use self::policy::ReadPolicy;
pub(crate) use self::policy::is_remote;
use self::raw::RawFile;
use self::target::Target;
use self::uncached::{Auto, Uncached};
use crate::observer::{ReadDone, Source};
use crate::plan::Read;
use crate::source::open_regular;
use crate::{Checkpoint, Error, TensorInfo};

/// How a load reads its files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Io {
    /// For each piece of a file, what is quickest: from the page cache what it has, past it what it has not. The page cache keeps what
    /// was there before, and nothing is added to it, where the file system can read past it; elsewhere as [`Io::Buffered`].
    #[default]
    Auto,
    /// Positioned reads through the page cache, several at once. What was not cached is afterwards.
    Buffered,
    /// Positioned reads past the page cache (`O_DIRECT`), several at once; through it where the file system cannot do that, which the
    /// report tells ([`IoReport::buffered_bytes`](crate::report::IoReport::buffered_bytes)).
    Direct,
    /// Copies out of a map of the file.
    ///
    /// A file that is truncated while it is mapped ends the process (SIGBUS), and memory behind a map is faulted in page by page,
    /// which is slow on a network file system. It is never chosen by [`Io::Auto`].
    Mmap,
}

impl Io {
    /// Every way of reading.
    pub const ALL: [Self; 4] = [Self::Auto, Self::Buffered, Self::Direct, Self::Mmap];
}

impl fmt::Display for Io {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Buffered => "buffered",
            Self::Direct => "direct",
            Self::Mmap => "mmap",
        })
    }
}

/// The word is not a way of reading.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a way of reading; there are auto, buffered, direct and mmap")]
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
    /// Fills `target` with the file's bytes from `offset` on, and tells `done` of each part, in order, when it is there.
    fn read_exact_at(&self, offset: u64, target: Target<'_>, done: Done<'_>) -> Result<(), Failed>;

    /// Looks, without reading, whether the file's bytes of `range` will have to be waited for, and notes it if so.
    fn look_at(&self, _range: Range<u64>) {}
}

/// Is told where the next stretch of a file came from.
type Done<'a> = &'a mut dyn FnMut(Source, Stretch);

/// A stretch of a file that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    /// Its first byte.
    offset: u64,
    /// What there is of it, with what was left out.
    span: u64,
    /// The bytes that were read.
    bytes: u64,
}

/// A read that did not bring all its bytes.
#[derive(Debug)]
struct Failed {
    /// The bytes that came before it failed.
    done: u64,
    source: io::Error,
}

impl Failed {
    /// The same failure, of a read that had brought `before` bytes already.
    fn after(self, before: u64) -> Self {
        Self {
            done: before + self.done,
            ..self
        }
    }

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
    policy: ReadPolicy,
    /// Whether reads wait for more than the page cache.
    waits: Arc<AtomicBool>,
    /// Lends what bytes pass through.
    staging: BufferPool,
    /// Where pieces of compressed tensors may be read on.
    inflaters: Parked,
}

struct OpenFile {
    /// For looking at the file's identity; readers have handles of their own.
    file: File,
    reader: Box<dyn Reader>,
}

impl Files {
    pub(crate) fn open(
        checkpoint: &Checkpoint,
        io: Io,
        drop_cache: bool,
        staging: &BufferPool,
        policy: ReadPolicy,
    ) -> Result<Self, Error> {
        let tensors = checkpoint.tensors().iter().filter(|info| info.bytes > 0);
        let wanted = tensors.map(|info| info.file);
        Self::open_those(checkpoint, wanted, io, drop_cache, staging, policy)
    }

    /// As [`open`](Self::open), but the files without tensors too: for who reads headers as well.
    pub(crate) fn open_all(
        checkpoint: &Checkpoint,
        io: Io,
        drop_cache: bool,
        staging: &BufferPool,
        policy: ReadPolicy,
    ) -> Result<Self, Error> {
        let wanted = 0..checkpoint.files().len();
        Self::open_those(checkpoint, wanted, io, drop_cache, staging, policy)
    }

    fn open_those(
        checkpoint: &Checkpoint,
        wanted: impl Iterator<Item = usize>,
        io: Io,
        drop_cache: bool,
        staging: &BufferPool,
        policy: ReadPolicy,
    ) -> Result<Self, Error> {
        // Who asks for a way of reading is taken to know that the page cache does not have it all.
        let waits = Arc::new(AtomicBool::new(io != Io::Auto));
        let mut open: Vec<Option<OpenFile>> = checkpoint.files().iter().map(|_| None).collect();
        for number in wanted {
            if open[number].is_none() {
                let file = OpenFile::open(checkpoint, number, io, drop_cache, staging, &waits)?;
                open[number] = Some(file);
            }
        }
        Ok(Self {
            checkpoint: checkpoint.clone(),
            open,
            policy,
            waits,
            staging: staging.clone(),
            inflaters: Parked::default(),
        })
    }

    pub(crate) fn policy(&self) -> &ReadPolicy {
        &self.policy
    }

    /// Whether reads wait for more than the page cache, or may do so.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waits.load(Relaxed)
    }

    /// How many threads should read now.
    pub(crate) fn wanted_threads(&self) -> usize {
        if self.is_waiting() {
            self.policy.waiting_threads
        } else {
            self.policy.threads
        }
    }

    /// Refuses what was loaded if a file changed since its header was read.
    pub(crate) fn check_unchanged(&self) -> Result<(), Error> {
        (0..self.open.len()).try_for_each(|number| self.check_unchanged_file(number))
    }

    /// As [`check_unchanged`](Self::check_unchanged), for a part of the tensors.
    pub(crate) fn check_unchanged_under(&self, tensors: &[TensorInfo]) -> Result<(), Error> {
        tensors
            .chunk_by(|one, next| one.file == next.file)
            .try_for_each(|neighbours| self.check_unchanged_file(neighbours[0].file))
    }

    fn check_unchanged_file(&self, number: usize) -> Result<(), Error> {
        let Some(open) = &self.open[number] else {
            return Ok(());
        };
        self.checkpoint
            .check_unchanged(number, &open.file)
            .map_err(|changed| self.cut_off(number, &open.file).unwrap_or(changed))
    }

    /// What a file that was truncated lacks first, if it lacks a tensor's bytes.
    fn cut_off(&self, number: usize, file: &File) -> Option<Error> {
        let end = file.metadata().ok()?.len();
        let mut tensors = self.checkpoint.tensors().iter();
        let lacking = |info: &&TensorInfo| {
            info.file == number && info.bytes > 0 && info.file_range().end > end
        };
        let info = tensors.find(lacking)?;
        let range = info.file_range();
        Some(Error::Read {
            path: self.checkpoint.files()[number].path.clone(),
            tensor: info.name.clone(),
            range: end.max(range.start)..range.end,
            source: Failed::ended_early(0).source,
        })
    }

    /// Finds out whether `read` would wait for more than the page cache: then [`wanted_threads`](Self::wanted_threads) says so from now on.
    fn look_at(&self, read: &Read) {
        self.reader(read.file)
            .look_at(read.offset..read.offset + read.len);
    }

    fn reader(&self, file: usize) -> &dyn Reader {
        let open = self.open[file].as_ref();
        &*open.expect("every file that is read is open").reader
    }

    /// Carries out `read` into `target`, and tells `done` of each part with the time that it took.
    fn read(
        &self,
        read: &Read,
        target: Target<'_>,
        mut done: impl FnMut(&ReadDone),
    ) -> Result<(), Error> {
        let target = match &read.gaps {
            Some(gaps) => target.spaced(gaps),
            None => target,
        };
        self.read_at(read.file, read.offset, target, &mut done)
            .map_err(|failed| self.error(read, failed))
    }

    /// Fills `target` with the bytes of file number `file` from `offset` on, and tells `done` of each part with the time that it took.
    fn read_at(
        &self,
        file: usize,
        offset: u64,
        target: Target<'_>,
        done: &mut dyn FnMut(&ReadDone),
    ) -> Result<(), Failed> {
        let mut start = Instant::now();
        let mut timed = |source, stretch: Stretch| {
            let now = Instant::now();
            done(&ReadDone {
                file,
                offset: stretch.offset,
                span: stretch.span,
                bytes: stretch.bytes,
                duration: now - std::mem::replace(&mut start, now),
                source,
            });
        };
        self.reader(file).read_exact_at(offset, target, &mut timed)
    }

    fn error(&self, read: &Read, failed: Failed) -> Error {
        let tensor = self
            .checkpoint
            .tensor_at(read.file, read.offset + failed.done)
            .map_or_else(String::new, |info| info.name.clone());
        Error::Read {
            path: self.checkpoint.files()[read.file].path.clone(),
            tensor,
            range: read.offset + failed.done..read.offset + read.span(),
            source: failed.source,
        }
    }
}

impl OpenFile {
    fn open(
        checkpoint: &Checkpoint,
        number: usize,
        io: Io,
        drop_cache: bool,
        staging: &BufferPool,
        waits: &Arc<AtomicBool>,
    ) -> Result<Self, Error> {
        let path = &checkpoint.files()[number].path;
        let open = || open_unchanged(checkpoint, number);
        let file = open()?;
        let absent = if drop_cache {
            // Before anything else: a map may make the kernel read ahead.
            Some(Absent::new(open()?, checkpoint.files()[number].bytes))
        } else {
            None
        };
        let uncached = || -> Result<Uncached, Error> {
            let direct = Direct::open(path).map_err(Error::io("open", path))?;
            if let Some(direct) = &direct {
                checkpoint.check_unchanged(number, direct.file())?;
            }
            let buffered = open()?;
            if io == Io::Auto {
                // What a non-blocking read misses the kernel reads ahead: no more than that, at least.
                let _ = fadvise(&buffered, 0, None, Advice::Random);
            }
            Ok(Uncached::new(buffered, direct, staging.clone()))
        };
        let reader: Box<dyn Reader> = match io {
            Io::Auto => {
                let bytes = checkpoint.files()[number].bytes;
                Box::new(Auto::new(uncached()?, bytes, Arc::clone(waits)))
            }
            Io::Buffered => {
                let buffered = open()?;
                if drop_cache {
                    // What is read ahead may come after it was to be dropped.
                    let _ = fadvise(&buffered, 0, None, Advice::Random);
                }
                Box::new(Buffered::new(buffered))
            }
            Io::Direct => Box::new(uncached()?),
            Io::Mmap => {
                Box::new(MappedFile::beware_of_truncation(&file).map_err(Error::io("map", path))?)
            }
        };
        let reader = match absent {
            Some(absent) => Box::new(Dropping::new(reader, absent)),
            None => reader,
        };
        Ok(Self { file, reader })
    }
}

/// The pages of `file` that the page cache has, if the kernel tells.
pub(crate) fn cached_pages(file: &File) -> Option<u64> {
    file.cached_pages(&(0..file.metadata().ok()?.len()))
}

/// A handle on file number `number` that no other has.
fn open_unchanged(checkpoint: &Checkpoint, number: usize) -> Result<File, Error> {
    let (file, _) = open_regular(&checkpoint.files()[number].path)?;
    checkpoint.check_unchanged(number, &file)?;
    Ok(file)
}
