//! Loading with this project, and the limit that it is measured against.

use std::hint::black_box;
use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use ckload::{BufferPool, Checkpoint, Io, Loader, Observer, Report, usage};

use super::results::{Phases, Sample};
use crate::cli::Error;
use crate::cli::limit::{Limit, Loop};
use crate::cli::options::{Pin, Reading};
use crate::cli::runner::pins;

/// A loader that has a pool.
pub(super) struct Warm {
    loader: Loader,
    is_resident: bool,
}

/// A pool that locks its memory where the command does.
pub(super) fn pool() -> BufferPool {
    BufferPool::builder().pinned_memory(pins(Pin::Auto)).build()
}

impl Warm {
    /// Loads everything into memory of `pool`, which other loaders may share.
    pub(super) fn resident(io: Io, threads: Option<NonZeroUsize>, pool: &BufferPool) -> Self {
        Self {
            loader: loader(io, threads).pool(pool),
            is_resident: true,
        }
    }

    /// Streams `checkpoint` through a pool of its own.
    pub(super) fn stream(io: Io, threads: Option<NonZeroUsize>, checkpoint: &Checkpoint) -> Self {
        let loader = loader(io, threads);
        let budget = loader.default_budget(checkpoint).as_u64();
        let pool = BufferPool::builder()
            .pinned_memory(pins(Pin::Auto))
            .max_bytes(usize::try_from(budget).unwrap_or(usize::MAX))
            .build();
        Self {
            loader: loader.pool(&pool),
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
    let mut loader = loader(Io::Auto, threads).pool(&pool());
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
        // The report's times are sums over threads that did the same at the same time.
        let threads = report.io.threads.max(1) as f64;
        let memory = &report.allocation;
        let allocate = (memory.fresh_seconds + memory.reuse_seconds) / threads;
        let read = report.read_seconds / threads;
        Sample {
            seconds,
            phases: Some(Phases::of(seconds, self.open, allocate, read)),
            page_faults,
        }
    }
}
