//! What of a file the page cache has.
//!
//! A non-blocking read (`RWF_NOWAIT`) would tell, too, but where it misses it makes the kernel read ahead all that was asked for: the disk
//! then reads the same bytes twice. So the kernel is asked without reading: `cachestat(2)`, since Linux 6.5. It may be refused for
//! files that the user could not write; then single pages, drawn at random, are read without blocking.
//!
//! Reading what is cached makes the kernel read ahead what is not, whatever it was advised. So the kernel is asked of a *window* before
//! anything of it is read, and anything of the window before it: otherwise a load would find that it has just brought into the page cache
//! what it was going to read past it.

#![allow(unsafe_code)] // a system call that no library wraps yet; this is the only place that makes it

use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use rustix::io::ReadWriteFlags;

use super::Target;
use super::buffered::{self, End};
use super::raw::RawFile;

/// Stretches that are cached in part are not divided below this many bytes.
const LEAST_STRETCH: u64 = 256 << 10;

/// As many pages are tried where the kernel does not count them: all must be cached.
const SAMPLES: u64 = 3;

/// The size of a window, in bytes: more than any kernel reads ahead.
const WINDOW_BYTES: u64 = 64 << 20;

/// Asks what the page cache has of one file, or had before the load came there.
#[derive(Debug)]
pub(super) struct Residency {
    /// Of the file, in bytes.
    size: u64,
    /// By number; `None` for a window that was not looked at.
    windows: Mutex<Vec<Option<Window>>>,
    /// The kernel does not say.
    is_refused: AtomicBool,
    samples: AtomicU64,
}

/// Stretches of a window, in order: where each ends, from the start of the file, and whether it was cached.
type Window = Vec<(u64, bool)>;

impl Residency {
    /// Of a file of `size` bytes.
    pub(super) fn of(size: u64) -> Self {
        Self {
            size,
            windows: Mutex::default(),
            is_refused: AtomicBool::new(false),
            samples: AtomicU64::new(0),
        }
    }

    /// Cuts off the front of `range` a stretch that was cached, or one that was not, and says which; a guess where it was mixed and small.
    pub(super) fn stretch(&self, file: &impl RawFile, range: Range<u64>) -> (u64, bool) {
        match self.window_stretch(file, range.start) {
            Some((end, cached)) => (end.min(range.end) - range.start, cached),
            None => (range.end - range.start, self.sample(file, &range)),
        }
    }

    /// The end of the stretch that holds offset `at`, and whether it was cached; `None` if the kernel does not say.
    fn window_stretch(&self, file: &impl RawFile, at: u64) -> Option<(u64, bool)> {
        let number = (at / WINDOW_BYTES) as usize;
        let mut windows = self.windows.lock();
        if windows.len() < number + 2 {
            windows.resize(number + 2, None);
        }
        for number in [number, number + 1] {
            if windows[number].is_none() {
                windows[number] = Some(self.look(file, number as u64)?);
            }
        }
        let window = windows[number].as_ref()?;
        let stretch = window.partition_point(|&(end, _)| end <= at);
        window.get(stretch).copied()
    }

    /// Looks at a window, as far as the file goes.
    fn look(&self, file: &impl RawFile, number: u64) -> Option<Window> {
        let mut window = Window::new();
        let end = ((number + 1) * WINDOW_BYTES).min(self.size);
        let mut at = number * WINDOW_BYTES;
        while at < end {
            let (len, cached, pages) = self.cut(file, &(at..end), LEAST_STRETCH)?;
            at += len;
            let cached = cached * 2 > pages;
            match window.last_mut() {
                Some(last) if last.1 == cached => last.0 = at,
                _ => window.push((at, cached)),
            }
        }
        Some(window)
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
