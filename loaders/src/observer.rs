//! What a load tells while it runs.

use std::time::Duration;

use ckload_pool::Origin;

use crate::{Report, TensorInfo};

/// Is told what a load does, as it does it; every method has a default that does nothing.
///
/// The calls come from the loader's threads, from the one that loads, and from those that wait for a stream, several at once, and the load
/// waits for each: keep them short, and take nothing from the same stream in them. A panic in one ends the load with
/// [`Error::WorkerPanicked`](crate::Error::WorkerPanicked).
///
/// What has a duration is told by the thread that did it, right after it: it began that long ago.
pub trait Observer: Send + Sync {
    /// The load is planned and starts.
    fn planned(&self, _event: &Planned) {}

    /// Memory was taken, out of the pool or, for a small tensor of a stream, from the allocator.
    fn leased(&self, _event: &Leased) {}

    /// Memory that was leased as new was made usable.
    ///
    /// Where many threads read, each puts pages behind its part of new memory when it comes to it, and not who leased it.
    fn touched(&self, _event: &Touched) {}

    /// A read is done, or the part of one that came from one source.
    fn read(&self, _event: &ReadDone) {}

    /// A tensor is whole.
    fn tensor(&self, _info: &TensorInfo) {}

    /// The load is done; not called for one that fails, or for a stream that is dropped before its end.
    fn finished(&self, _report: &Report) {}
}

/// The observer of whoever gave none.
pub(crate) struct Silent;

impl Observer for Silent {}

/// What a load is going to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Planned {
    /// The number of tensors.
    pub tensors: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Memory that was taken for tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leased {
    /// The capacity, which may be more than what will lie in it.
    pub bytes: u64,
    /// How long it took, with waiting for others to give memory back.
    pub duration: Duration,
    /// Whether the memory is new, and how long making it took: what page faults still take is told by [`Observer::touched`].
    pub origin: Origin,
}

/// New memory that was made usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Touched {
    /// The size of the part.
    pub bytes: u64,
    /// How long it took.
    pub duration: Duration,
    /// What was done.
    pub step: Touch,
}

/// What makes new memory usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Touch {
    /// The system put pages behind it (page faults).
    Fault,
    /// Its pages were locked, as the pool wants, or that was refused.
    Lock,
}

/// A read that is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadDone {
    /// The number of the file in [`Checkpoint::files`](crate::Checkpoint::files).
    pub file: usize,
    /// Where in the file the read began, in bytes.
    pub offset: u64,
    /// The bytes of the file from there to where it ended. More than `bytes` where some between were left out.
    pub span: u64,
    /// The bytes that were asked of the file: those that it brought, and what was read between them because that is quicker.
    pub bytes: u64,
    /// How long it took.
    pub duration: Duration,
    /// Where the bytes came from.
    pub source: Source,
}

/// Where bytes came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Source {
    /// A positioned read through the page cache.
    Buffered,
    /// A positioned read past the page cache (`O_DIRECT`).
    Direct,
    /// A copy out of a map of the file.
    Mmap,
}
