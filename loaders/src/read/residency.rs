//! What of a file the page cache has.
//!
//! A non-blocking read (`RWF_NOWAIT`) would tell, too, but where it misses it makes the kernel read ahead all that was asked for: the disk
//! then reads the same bytes twice. So the kernel is asked without reading: `cachestat(2)`, since Linux 6.5. It may be refused for
//! files that the user could not write; then single pages, drawn at random, are read without blocking.

#![allow(unsafe_code)] // a system call that no library wraps yet; this is the only place that makes it

use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use rustix::io::ReadWriteFlags;

use super::Target;
use super::buffered::{self, End};
use super::raw::RawFile;

/// Stretches that are cached in part are not divided below this many bytes.
const LEAST_STRETCH: u64 = 256 << 10;

/// As many pages are tried where the kernel does not count them: all must be cached.
const SAMPLES: u64 = 3;

/// Asks what the page cache has of one file.
#[derive(Debug, Default)]
pub(super) struct Residency {
    /// The kernel does not say.
    is_refused: AtomicBool,
    samples: AtomicU64,
}

impl Residency {
    /// Cuts off the front of `range` a stretch that is cached, or one that is not, and says which; a guess where it is mixed and small.
    pub(super) fn stretch(&self, file: &impl RawFile, range: Range<u64>) -> (u64, bool) {
        match self.cut(file, &range, LEAST_STRETCH) {
            Some((len, cached, pages)) => (len, cached * 2 > pages),
            None => (range.end - range.start, self.sample(file, &range)),
        }
    }

    /// Cuts off the front of `range` a stretch that is cached, or one that is not, to the page, and says whether it is absent; `None` if
    /// the kernel does not say.
    pub(super) fn absent(&self, file: &impl RawFile, range: &Range<u64>) -> Option<(u64, bool)> {
        let page = rustix::param::page_size() as u64;
        let (len, cached, _) = self.cut(file, range, page)?;
        Some((len, cached == 0))
    }

    /// Cuts off the front of `range` a stretch that is cached whole, or not at all, or is no longer than `least` bytes; says its length,
    /// and how many of how many pages are cached.
    fn cut(&self, file: &impl RawFile, range: &Range<u64>, least: u64) -> Option<(u64, u64, u64)> {
        let mut len = range.end - range.start;
        loop {
            let (cached, pages) = self.count(file, &(range.start..range.start + len))?;
            if cached == 0 || cached >= pages || len <= least {
                return Some((len, cached, pages));
            }
            len = (len / 2).next_multiple_of(least).min(len - 1);
        }
    }

    /// Whether all of `range` is cached, as far as the kernel says.
    pub(super) fn is_cached(&self, file: &impl RawFile, range: &Range<u64>) -> bool {
        self.count(file, range)
            .is_none_or(|(cached, pages)| cached >= pages)
    }

    /// How many pages of `range` are cached, and how many there are; `None` if the kernel does not say.
    fn count(&self, file: &impl RawFile, range: &Range<u64>) -> Option<(u64, u64)> {
        if self.is_refused.load(Relaxed) {
            return None;
        }
        match file.cached_pages(range) {
            Some(cached) => {
                let page = rustix::param::page_size() as u64;
                Some((cached, range.end.div_ceil(page) - range.start / page))
            }
            None => {
                self.is_refused.store(true, Relaxed);
                None
            }
        }
    }

    /// Whether some pages of `range`, drawn at random, are all cached.
    ///
    /// Each miss leaves one page in the cache; next time others are drawn.
    fn sample(&self, file: &impl RawFile, range: &Range<u64>) -> bool {
        (0..SAMPLES).all(|_| {
            let mut hasher = RandomState::new().build_hasher();
            hasher.write_u64(self.samples.fetch_add(1, Relaxed));
            let at = range.start + hasher.finish() % (range.end - range.start);
            let mut byte = [0];
            let mut target: Target<'_> = [&mut byte[..]].into_iter().collect();
            let (_, end) = buffered::read(file, at, &mut target, ReadWriteFlags::NOWAIT);
            end == End::Full
        })
    }
}

/// Pages of `range` that are in the page cache; `None` if the kernel does not tell.
#[cfg(target_os = "linux")]
pub(super) fn cachestat(file: &File, range: &Range<u64>) -> Option<u64> {
    use linux_raw_sys::general as kernel;

    let mut asked = kernel::cachestat_range {
        off: range.start,
        len: range.end - range.start,
    };
    let mut counts = kernel::cachestat {
        nr_cache: 0,
        nr_dirty: 0,
        nr_writeback: 0,
        nr_evicted: 0,
        nr_recently_evicted: 0,
    };
    // SAFETY: the call reads the one struct and writes the other, as the kernel's headers declare them, and both live until it
    // returns. A kernel without the call says so and touches neither.
    let result = unsafe {
        libc::syscall(
            libc::c_long::from(kernel::__NR_cachestat),
            libc::c_long::from(file.as_raw_fd()),
            &raw mut asked,
            &raw mut counts,
            0 as libc::c_long,
        )
    };
    (result == 0).then_some(counts.nr_cache)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn cachestat(_file: &File, _range: &Range<u64>) -> Option<u64> {
    None
}
