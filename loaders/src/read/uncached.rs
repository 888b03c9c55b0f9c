//! Reads that leave the page cache alone: always past it, or only for what it does not have.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use ckload_pool::BufferPool;
use rustix::io::Errno;

use super::buffered::{self, End};
use super::direct::{self, Direct};
use super::raw::RawFile;
use super::residency::Residency;
use super::{Done, Failed, Reader, Stretch, Target};
use crate::observer::Source;

/// Reads past the page cache, and through it where the file system cannot.
pub(super) struct Uncached<F = File> {
    buffered: F,
    /// Absent if the file system refused when the file was opened.
    direct: Option<Direct<F>>,
    /// Set if it refuses a read.
    is_refused: AtomicBool,
    staging: BufferPool,
}

impl<F: RawFile> Uncached<F> {
    pub(super) fn new(buffered: F, direct: Option<Direct<F>>, staging: BufferPool) -> Self {
        Self {
            buffered,
            direct,
            is_refused: AtomicBool::new(false),
            staging,
        }
    }

    fn direct(&self) -> Option<&Direct<F>> {
        self.direct
            .as_ref()
            .filter(|_| !self.is_refused.load(Relaxed))
    }
}

impl<F: RawFile> Reader for Uncached<F> {
    fn read_exact_at(
        &self,
        offset: u64,
        mut target: Target<'_>,
        done: Done<'_>,
    ) -> Result<(), Failed> {
        let mut past_cache = 0;
        if let Some(direct) = self.direct() {
            let (progress, end) = direct.read(offset, &mut target, &self.staging);
            past_cache = progress.done;
            if progress.moved > 0 {
                done(Source::Direct, progress.from(offset));
            }
            match end {
                End::Error(errno) if direct::is_refusal(errno) => {
                    self.is_refused.store(true, Relaxed);
                }
                // Reading through the page cache takes no memory for staging.
                End::Error(Errno::NOMEM) => {}
                end => return end.result(progress.done),
            }
        }
        let rest = buffered::read_exact(&self.buffered, offset + past_cache, target);
        let stretch = rest.map_err(|failed| failed.after(past_cache))?;
        done(Source::Buffered, stretch);
        Ok(())
    }
}

/// Takes from the page cache what it has, and reads the rest past it.
pub(super) struct Auto<F = File> {
    uncached: Uncached<F>,
    residency: Residency,
    /// Is set when something has to come from elsewhere.
    waits: Arc<AtomicBool>,
}

impl<F: RawFile> Auto<F> {
    /// Of a file of `size` bytes.
    pub(super) fn new(uncached: Uncached<F>, size: u64, waits: Arc<AtomicBool>) -> Self {
        Self {
            uncached,
            residency: Residency::of(size),
            waits,
        }
    }

    /// Reads through the page cache, what is not there in one go with its gaps.
    fn read_through(&self, offset: u64, target: Target<'_>) -> Result<Stretch, Failed> {
        let file = &self.uncached.buffered;
        let range = offset..offset + target.len() as u64;
        if target.has_gaps()
            && !self.residency.is_cached(file, &range)
            && let Ok(mut buffer) = self.uncached.staging.try_get(direct::STAGING_BYTES)
        {
            return buffered::read_whole(file, offset, target, &mut buffer);
        }
        buffered::read_exact(file, offset, target)
    }
}

impl<F: RawFile> Reader for Auto<F> {
    fn read_exact_at(
        &self,
        offset: u64,
        mut target: Target<'_>,
        done: Done<'_>,
    ) -> Result<(), Failed> {
        let file = &self.uncached.buffered;
        let end = offset + target.len() as u64;
        let mut at = offset;
        while at < end {
            at += target.skip_gap() as u64;
            let failed = |failed: Failed| failed.after(at - offset);
            if self.uncached.direct().is_none() {
                self.look_at(at..end);
                let stretch = self.read_through(at, target).map_err(failed)?;
                done(Source::Buffered, stretch);
                return Ok(());
            }
            let (len, cached) = self.residency.stretch(file, at..end);
            let part = target.split_to(len as usize);
            if cached {
                let stretch = buffered::read_exact(file, at, part).map_err(failed)?;
                done(Source::Buffered, stretch);
            } else {
                self.waits.store(true, Relaxed);
                self.uncached
                    .read_exact_at(at, part, done)
                    .map_err(failed)?;
            }
            at += len;
        }
        Ok(())
    }

    fn look_at(&self, range: Range<u64>) {
        if !self.waits.load(Relaxed) && !self.residency.is_cached(&self.uncached.buffered, &range) {
            self.waits.store(true, Relaxed);
        }
    }
}
