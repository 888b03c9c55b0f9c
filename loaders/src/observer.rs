//! What a load tells while it runs.

use std::time::Duration;

use crate::{Report, TensorInfo};

/// Is told what a load does, as it does it; every method has a default that does nothing.
///
/// The calls come from the loader's threads, from the one that loads, and from those that wait for a stream, several at once, and the load
/// waits for each: keep them short, and take nothing from the same stream in them. A panic in one ends the load with
/// [`Error::WorkerPanicked`](crate::Error::WorkerPanicked).
pub trait Observer: Send + Sync {
    /// The load is planned and starts.
    fn planned(&self, _event: &Planned) {}

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

/// A read that is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadDone {
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
