//! Loading with this project, and the limit that it is measured against.

use std::hint::black_box;
use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use ckload::pool::Builder;
use ckload::{BufferPool, Checkpoint, Io, Loader, Observer, Report, usage};

use super::results::{Phases, Sample};
use crate::cli::Error;
use crate::cli::limit::{Limit, Loop};
use crate::cli::options::{Pin, Reading};
use crate::cli::report::allocate_and_read;
use crate::cli::runner::pins;

/// A loader that has a pool.
pub(super) struct Warm {
    loader: Loader,
    is_resident: bool,
}

/// Pools that lock their memory where the command does.
pub(super) struct Pools {
    resident: BufferPool,
    /// Of the size that a stream has, if nobody says otherwise.
    stream: BufferPool,
}

impl Pools {
    pub(super) fn of(checkpoint: &Checkpoint) -> Self {
        let most = usize::try_from(stream_bytes(checkpoint)).unwrap_or(usize::MAX);
        Self {
            resident: builder().build(),
            stream: builder().max_bytes(most).build(),
        }
    }
}

/// What a stream of `checkpoint` holds at most.
pub(super) fn stream_bytes(checkpoint: &Checkpoint) -> u64 {
    Loader::new().default_budget(checkpoint).as_u64()
}

fn builder() -> Builder {
    BufferPool::builder().pinned_memory(pins(Pin::Auto))
}

impl Warm {
    /// Loads everything into memory of the pool for that.
    pub(super) fn resident(io: Io, threads: Option<NonZeroUsize>, pools: &Pools) -> Self {
        Self {
            loader: loader(io, threads).pool(&pools.resident),
            is_resident: true,
        }
    }

    /// Streams through the pool for that.
    pub(super) fn stream(io: Io, threads: Option<NonZeroUsize>, pools: &Pools) -> Self {
        Self {
            loader: loader(io, threads).pool(&pools.stream),
            is_resident: false,
        }
    }

    /// Opens and loads the checkpoint once.
    pub(super) fn load(&self, path: &Path) -> Result<(Sample, Report), Error> {
        let mut times = Times::start();
        let checkpoint = Checkpoint::open(path)?;
        times.opened();
        let (model, report) = if self.is_resident {
            let model = self.loader.load(&checkpoint)?;
            let report = model.report().clone();
            (Some(model), report)
        } else {
            let mut stream = self.loader.stream(&checkpoint)?;
            for tensor in stream.by_ref() {
                black_box(tensor?);
            }
            (None, stream.report())
        };
        let sample = times.stop(&report);
        drop(model);
        Ok((sample, report))
    }

    /// The same loader, watched.
    pub(super) fn observed(&self, observer: Arc<dyn Observer>) -> Self {
        Self {
            loader: self.loader.clone().observer(observer),
            is_resident: self.is_resident,
        }
    }
}

/// Makes a loader and a pool, and loads the checkpoint with them, resident; `observer` watches, if there is one.
pub(super) fn load_new(
    path: &Path,
    threads: Option<NonZeroUsize>,
    observer: Option<Arc<dyn Observer>>,
) -> Result<Sample, Error> {
    let mut times = Times::start();
    let checkpoint = Checkpoint::open(path)?;
    times.opened();
    let mut loader = loader(Io::Auto, threads).pool(&builder().build());
    if let Some(observer) = observer {
        loader = loader.observer(observer);
    }
    let model = loader.load(&checkpoint)?;
    let sample = times.stop(model.report());
    drop(black_box(model));
    Ok(sample)
}

/// Reads all that a load reads, in the quickest plain loop.
pub(super) fn limit(limit: &mut Limit, how: Loop) -> io::Result<Sample> {
    let faults_before = usage::page_faults();
    let seconds = limit.read(how)?.as_secs_f64();
    Ok(Sample {
        seconds,
        phases: None,
        page_faults: usage::page_faults().saturating_sub(faults_before),
    })
}

fn loader(io: Io, threads: Option<NonZeroUsize>) -> Loader {
    let reading = Reading {
        io,
        threads,
        ..Reading::default()
    };
    reading.loader()
}

/// Takes the time of a load.
struct Times {
    faults: u64,
    start: Instant,
    open: f64,
}

impl Times {
    fn start() -> Self {
        Self {
            faults: usage::page_faults(),
            start: Instant::now(),
            open: 0.0,
        }
    }

    fn opened(&mut self) {
        self.open = self.start.elapsed().as_secs_f64();
    }

    fn stop(self, report: &Report) -> Sample {
        let seconds = self.start.elapsed().as_secs_f64();
        let page_faults = usage::page_faults().saturating_sub(self.faults);
        let (allocate, read) = allocate_and_read(report);
        Sample {
            seconds,
            phases: Some(Phases::of(seconds, self.open, allocate, read)),
            page_faults,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_no_longer_than_the_load() {
        let times = Times::start();
        let mut report = Report::default();
        report.seconds = 1e-9;
        report.io.threads = 2;
        report.read_seconds = 7200.0;
        report.allocation.fresh_seconds = 60.0;
        let sample = times.stop(&report);
        let phases = sample.phases.unwrap();
        assert!(phases.read > phases.allocate, "{phases:?}");
        assert!(
            phases.read + phases.allocate <= sample.seconds,
            "{phases:?}"
        );
    }
}
