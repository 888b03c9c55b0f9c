//! Reads that leave the page cache alone: always past it, or only for what it does not have.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use ckload_pool::BufferPool;
use rustix::io::{Errno, ReadWriteFlags};

use super::buffered::{self, End};
use super::direct::{self, Direct};
use super::raw::RawFile;
use super::residency::Residency;
use super::{Done, Failed, Reader, Target};
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
                done(Source::Direct, progress.moved);
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
        let bytes = rest.map_err(|failed| failed.after(past_cache))?;
        done(Source::Buffered, bytes);
        Ok(())
    }
}

/// Takes from the page cache what it has, and reads the rest past it.
pub(super) struct Auto<F = File> {
    uncached: Uncached<F>,
    residency: Residency,
    /// Whether the last stretch was cached: then so is the next one, probably, and taking it is the quickest way to know.
    was_cached: AtomicBool,
    /// Is set when something has to come from elsewhere.
    waits: Arc<AtomicBool>,
}

impl<F: RawFile> Auto<F> {
    pub(super) fn new(uncached: Uncached<F>, waits: Arc<AtomicBool>) -> Self {
        Self {
            waits,
            uncached,
            residency: Residency::default(),
            was_cached: AtomicBool::new(false),
        }
    }

    /// Takes the cached bytes at the start of `target`, up to the first that is not.
    fn take_cached(
        &self,
        offset: u64,
        target: &mut Target<'_>,
        done: Done<'_>,
    ) -> Result<u64, Failed> {
        let file = &self.uncached.buffered;
        let (progress, end) = buffered::read(file, offset, target, ReadWriteFlags::NOWAIT);
        if progress.moved > 0 {
            done(Source::Buffered, progress.moved);
        }
        match end {
            End::Full => {}
            // A file system without non-blocking reads, or pages that are not there: the rest is read otherwise.
            End::Error(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                self.was_cached.store(false, Relaxed);
            }
            end => end.result(progress.done)?,
        }
        Ok(progress.done)
    }
}

impl<F: RawFile> Auto<F> {
    /// Reads through the page cache, what is not there in one go with its gaps.
    fn read_through(&self, offset: u64, target: Target<'_>) -> Result<u64, Failed> {
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
                if !self.waits.load(Relaxed) && !self.residency.is_cached(file, &(at..end)) {
                    self.waits.store(true, Relaxed);
                }
                let bytes = self.read_through(at, target).map_err(failed)?;
                done(Source::Buffered, bytes);
                return Ok(());
            }
            // With gaps, what is missing of one stretch says little of the next.
            if self.was_cached.load(Relaxed) && !target.has_gaps() {
                let bytes = self.take_cached(at, &mut target, done).map_err(failed)?;
                if at + bytes < end {
                    // The kernel reads the rest of this stretch by now.
                    let rest = buffered::read_exact(file, at + bytes, target);
                    let rest = rest.map_err(|failed| failed.after(at + bytes - offset))?;
                    done(Source::Buffered, rest);
                }
                return Ok(());
            }
            let (len, cached) = self.residency.stretch(file, at..end);
            let part = target.split_to(len as usize);
            if cached {
                let bytes = buffered::read_exact(file, at, part).map_err(failed)?;
                done(Source::Buffered, bytes);
                self.was_cached.store(at + len == end, Relaxed);
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
}
