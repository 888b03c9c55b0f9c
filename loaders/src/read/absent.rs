//! Drops from the page cache what a load brought there, and only that.

use std::fs::File;
use std::num::NonZeroU64;
use std::ops::Range;
use std::thread;
use std::time::Duration;

use rustix::fs::{Advice, fadvise};

use super::raw::RawFile;
use super::residency::Residency;
use super::{Done, Failed, Reader, Target};
use crate::observer::Source;

/// An offset that no file reaches, and the system takes: the cache's last piece of a file may be larger than the rest of the file.
const FAR_BEHIND: u64 = i64::MAX as u64;

/// A reader that leaves the page cache as it found it.
pub(super) struct Dropping {
    /// Declared before `absent`: a map has to go before its pages can.
    inner: Box<dyn Reader>,
    absent: Absent,
}

impl Dropping {
    pub(super) fn new(inner: Box<dyn Reader>, absent: Absent) -> Self {
        Self { inner, absent }
    }
}

impl Reader for Dropping {
    fn read_exact_at(&self, offset: u64, target: Target<'_>, done: Done<'_>) -> Result<(), Failed> {
        let end = offset + target.len() as u64;
        let mut cached = false;
        let mut noting = |source, stretch| {
            cached |= source != Source::Direct;
            done(source, stretch);
        };
        let result = self.inner.read_exact_at(offset, target, &mut noting);
        if cached || result.is_err() {
            self.absent.drop_pages(&(offset..end));
        }
        result
    }

    fn look_at(&self, range: Range<u64>) {
        self.inner.look_at(range);
    }
}

/// The stretches of a file that the page cache did not have. They leave it when this is dropped.
pub(super) struct Absent {
    file: File,
    /// In file order, whole pages each.
    stretches: Vec<Range<u64>>,
}

impl Absent {
    /// Looks at what the page cache has of `file`.
    pub(super) fn new(file: File, bytes: u64) -> Self {
        let mut stretches: Vec<Range<u64>> = Vec::new();
        let residency = Residency::of(bytes);
        let mut at = 0;
        while at < bytes {
            let Some((len, absent)) = residency.absent(&file, &(at..bytes)) else {
                // Nobody can tell what was there before, and that has to stay.
                stretches.clear();
                break;
            };
            let end = if at + len == bytes {
                FAR_BEHIND
            } else {
                at + len
            };
            match stretches.last_mut() {
                // What the cache holds in one piece is to lie in one stretch: it does not drop parts.
                Some(last) if absent && last.end == at => last.end = end,
                _ if absent => stretches.push(at..end),
                _ => {}
            }
            at += len;
        }
        Self { file, stretches }
    }

    /// Drops the pages that lie in `range` as a whole.
    fn drop_pages(&self, range: &Range<u64>) {
        for stretch in &self.stretches {
            let start = stretch.start.max(range.start);
            let end = stretch.end.min(range.end);
            if let Some(len) = end.checked_sub(start).and_then(NonZeroU64::new) {
                // Advice; a file system that does not take it keeps its pages.
                let _ = fadvise(&self.file, start, Some(len), Advice::DontNeed);
            }
        }
    }
}

impl Drop for Absent {
    /// Also drops pages that two reads shared, and pages that were on their way when their read ended.
    fn drop(&mut self) {
        for pause in [0, 1, 4, 16] {
            thread::sleep(Duration::from_millis(pause));
            self.drop_pages(&(0..FAR_BEHIND));
            let cached = |stretch: &Range<u64>| self.file.cached_pages(stretch) != Some(0);
            if !self.stretches.iter().any(cached) {
                break;
            }
        }
    }
}
