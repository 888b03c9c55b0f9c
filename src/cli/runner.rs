//! One pool, and loads with it and without it.

use std::sync::Arc;

use ckload::{BufferPool, ByteSize, Checkpoint, Loader, Observer, Report, TensorDigest};

use super::Error;
use super::options::{Pin, Reading};
use super::report::PoolSummary;

/// What all loads of a command have in common.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) reading: Reading,
    pub(crate) way: Way,
    pub(crate) pin: Pin,
    /// Hash every tensor.
    pub(crate) digests: bool,
    pub(crate) observer: Option<Arc<dyn Observer>>,
}

/// What becomes of the tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// All stay in memory until the load is done.
    Resident,
    /// Each is dropped when it has arrived; no more than the budget is held at a time.
    Streamed { budget: ByteSize },
}

/// Loads checkpoints through one pool, whatever their number, or with memory that no pool keeps.
pub(crate) struct Runner {
    setup: Setup,
    loader: Loader,
    pool: BufferPool,
    pinned_bytes: u64,
    digests: Vec<TensorDigest>,
}

impl Runner {
    /// Loads that take their memory from one pool, which keeps it between them.
    pub(crate) fn with_pool(setup: &Setup) -> Self {
        let builder = BufferPool::builder().pinned_memory(pins(setup.pin));
        let builder = match setup.way {
            Way::Resident => builder,
            Way::Streamed { budget } => {
                builder.max_bytes(usize::try_from(budget.as_u64()).unwrap_or(usize::MAX))
            }
        };
        Self::new(setup, builder.build())
    }

    /// Loads that take fresh memory for every buffer.
    pub(crate) fn without_pool(setup: &Setup) -> Self {
        let setup = Setup {
            pin: Pin::Never,
            ..setup.clone()
        };
        Self::new(&setup, keeps_nothing())
    }

    fn new(setup: &Setup, pool: BufferPool) -> Self {
        let mut loader = setup.reading.loader().pool(&pool).digests(setup.digests);
        if let Way::Streamed { budget } = setup.way {
            loader = loader.budget(budget);
        }
        if let Some(observer) = &setup.observer {
            loader = loader.observer(Arc::clone(observer));
        }
        Self {
            setup: setup.clone(),
            loader,
            pool,
            pinned_bytes: 0,
            digests: Vec::new(),
        }
    }

    /// Loads the checkpoint once, and lets go of it.
    pub(crate) fn run(&mut self, checkpoint: &Checkpoint) -> Result<Report, Error> {
        self.digests.clear();
        match self.setup.way {
            Way::Resident => {
                let model = self.loader.load(checkpoint)?;
                let tensors = model.tensors().iter();
                self.digests.extend(tensors.filter_map(TensorDigest::of));
                self.check_pins()?;
                Ok(model.report().clone())
            }
            Way::Streamed { .. } => {
                let mut stream = self.loader.stream(checkpoint)?;
                for tensor in stream.by_ref() {
                    self.digests.extend(TensorDigest::of(&tensor?));
                }
                self.check_pins()?;
                Ok(stream.report())
            }
        }
    }

    /// The digests of the tensors of the last run, in the order in which they came; none unless they are wanted.
    pub(crate) fn digests(&self) -> &[TensorDigest] {
        &self.digests
    }

    /// Looks while the memory is in use: small buffers are freed right after.
    fn check_pins(&mut self) -> Result<(), Error> {
        let stats = self.pool.stats();
        let pinned = stats.pinned_bytes as u64;
        let held = (stats.leased_bytes + stats.idle_bytes) as u64;
        self.pinned_bytes = self.pinned_bytes.max(pinned);
        if self.setup.pin == Pin::Always && (stats.pin_failures > 0 || pinned < held) {
            return Err(Error::NotPinned {
                pinned,
                held,
                reason: stats
                    .last_pin_error
                    .unwrap_or_else(|| "no reason was given".into()),
            });
        }
        Ok(())
    }

    /// What the pool is and has done.
    pub(crate) fn pool_summary(&self) -> PoolSummary {
        let stats = self.pool.stats();
        PoolSummary {
            max_bytes: stats.max_bytes.map(|bytes| bytes as u64),
            pinned_bytes: self.pinned_bytes,
            pin_failures: stats.pin_failures,
            huge_pages: stats.huge_pages && has_huge_pages(),
            threads: self.setup.reading.threads_or_cores(),
            pins: self.pool.is_pinned(),
            last_pin_error: stats.last_pin_error,
        }
    }
}

/// The pool of loads "without the pool": it keeps nothing.
///
/// Every buffer is fresh memory of ordinary 4 KiB pages, populated and timed when it is allocated, and freed when it is
/// dropped. That is what a loader pays that allocates for each load, and all else about the load is the same.
fn keeps_nothing() -> BufferPool {
    BufferPool::builder()
        .tls_cache_size(0)
        .max_buffers_per_shard(0)
        .min_buffer_size(usize::MAX)
        .huge_pages(false)
        .build()
}

/// Whether a pool locks its memory: that takes time for each page, is nearly free for huge ones, and slows a first load otherwise.
pub(crate) fn pins(pin: Pin) -> bool {
    match pin {
        Pin::Auto => has_huge_pages(),
        Pin::Always => true,
        Pin::Never => false,
    }
}

/// Whether the kernel gives huge pages to those who ask for them.
fn has_huge_pages() -> bool {
    std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled")
        .is_ok_and(|modes| modes.contains("[madvise]") || modes.contains("[always]"))
}
