//! What a load did, in numbers that were measured.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use ckload_pool::{BufferPool, Origin};
use serde::Serialize;

use crate::observer::{Leased, ReadDone, Source, Touched};
use crate::usage;

/// What a load did. Sizes are bytes, times are seconds; everything is measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// From the call to the last byte; reading the headers is not in it.
    pub seconds: f64,
    /// Finding the files and reading their headers, when the checkpoint was opened.
    pub open_seconds: f64,
    /// The bytes of the tensors that were loaded.
    pub bytes: u64,
    /// `bytes / seconds`; 0 if nothing was loaded.
    pub bytes_per_second: f64,
    /// How the bytes were read.
    pub io: IoReport,
    /// What memory cost.
    pub allocation: AllocationReport,
    /// Time spent on SHA-256, summed over the threads that hashed at the same time; `None`, and not serialised, where nothing was
    /// hashed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest_seconds: Option<f64>,
    /// The most threads that hashed at the same time. Not serialised.
    #[serde(skip)]
    pub digest_threads: u64,
    /// Time spent in reads, summed over the threads that read at the same time. Not serialised.
    #[serde(skip)]
    pub read_seconds: f64,
    /// Page faults of the whole process while the load ran, minor and major.
    pub page_faults: u64,
    /// The most memory that the pool held while the load ran, leased and idle together.
    pub peak_pool_bytes: u64,
}

impl Report {
    /// This report, of all the time, with what another one did of it.
    pub(crate) fn and(mut self, other: &Self) -> Self {
        self.bytes += other.bytes;
        self.bytes_per_second = self.bytes as f64 / self.seconds.max(f64::MIN_POSITIVE);
        self.read_seconds += other.read_seconds;
        if let Some(seconds) = other.digest_seconds {
            *self.digest_seconds.get_or_insert(0.0) += seconds;
        }
        self.digest_threads = self.digest_threads.max(other.digest_threads);
        self.io.buffered_bytes += other.io.buffered_bytes;
        self.io.direct_bytes += other.io.direct_bytes;
        self.io.mmap_bytes += other.io.mmap_bytes;
        self.io.reads += other.io.reads;
        self.io.threads = self.io.threads.max(other.io.threads);
        self.allocation.fresh += other.allocation.fresh;
        self.allocation.reused += other.allocation.reused;
        self.allocation.fresh_bytes += other.allocation.fresh_bytes;
        self.allocation.reused_bytes += other.allocation.reused_bytes;
        self.allocation.fresh_seconds += other.allocation.fresh_seconds;
        self.allocation.reuse_seconds += other.allocation.reuse_seconds;
        self.allocation.threads = self.allocation.threads.max(other.allocation.threads);
        self.peak_pool_bytes = self.peak_pool_bytes.max(other.peak_pool_bytes);
        self
    }
}

/// How a load's bytes were read: what was asked of files, which is more than [`Report::bytes`] where gaps were read as well, and less where
/// tensors are compressed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct IoReport {
    /// Bytes from reads through the page cache.
    pub buffered_bytes: u64,
    /// Bytes from reads past the page cache (`O_DIRECT`).
    pub direct_bytes: u64,
    /// Bytes copied out of a map of the file.
    pub mmap_bytes: u64,
    /// The number of reads, or of copies.
    pub reads: u64,
    /// The most threads that read at the same time. Not serialised: the JSON of a report has the sizes and times alone.
    #[serde(skip)]
    pub threads: u64,
}

/// What a load's memory cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct AllocationReport {
    /// Blocks of memory that were new: mapped and touched for this load.
    pub fresh: u64,
    /// Blocks that came out of the pool.
    pub reused: u64,
    /// The capacity of the new blocks.
    pub fresh_bytes: u64,
    /// The capacity of the blocks that came out of the pool.
    pub reused_bytes: u64,
    /// Time spent to make the new blocks, summed over the threads that did it at the same time.
    pub fresh_seconds: f64,
    /// Time spent to get the others out of the pool, summed in the same way.
    pub reuse_seconds: f64,
    /// The most threads that did either at the same time. Not serialised.
    #[serde(skip)]
    pub threads: u64,
}

/// Counts while a load runs, from any thread.
#[derive(Debug)]
pub(crate) struct Meter {
    start: Instant,
    open_time: Duration,
    faults: u64,
    bytes: AtomicU64,
    buffered_bytes: AtomicU64,
    direct_bytes: AtomicU64,
    mmap_bytes: AtomicU64,
    reads: AtomicU64,
    read_time: Nanoseconds,
    digest_time: Nanoseconds,
    /// The most that read at the same time.
    threads: AtomicU64,
    /// The most that did nothing but hash, at the same time; 0 if those hash that read.
    digest_threads: AtomicU64,
    /// The most that did nothing but take or lock memory, at the same time.
    allocation_threads: AtomicU64,
    fresh: Allocations,
    reused: Allocations,
    peak_pool_bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct Allocations {
    count: AtomicU64,
    bytes: AtomicU64,
    time: Nanoseconds,
}

/// Time, summed over threads.
#[derive(Debug, Default)]
struct Nanoseconds(AtomicU64);

impl Nanoseconds {
    fn add(&self, time: Duration) {
        self.0.fetch_add(time.as_nanos() as u64, Relaxed);
    }

    fn seconds(&self) -> f64 {
        Duration::from_nanos(self.0.load(Relaxed)).as_secs_f64()
    }
}

impl Allocations {
    fn add(&self, bytes: u64, time: Duration) {
        self.count.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
        self.time.add(time);
    }
}

impl Meter {
    pub(crate) fn start(open_time: Duration) -> Self {
        Self {
            start: Instant::now(),
            open_time,
            faults: usage::page_faults(),
            bytes: AtomicU64::new(0),
            buffered_bytes: AtomicU64::new(0),
            direct_bytes: AtomicU64::new(0),
            mmap_bytes: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            read_time: Nanoseconds::default(),
            digest_time: Nanoseconds::default(),
            threads: AtomicU64::new(0),
            digest_threads: AtomicU64::new(0),
            allocation_threads: AtomicU64::new(0),
            fresh: Allocations::default(),
            reused: Allocations::default(),
            peak_pool_bytes: AtomicU64::new(0),
        }
    }

    /// Counts the tensors' bytes that are whole.
    pub(crate) fn loaded(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn read(&self, done: &ReadDone) {
        let counter = match done.source {
            Source::Buffered => &self.buffered_bytes,
            Source::Direct => &self.direct_bytes,
            Source::Mmap => &self.mmap_bytes,
        };
        counter.fetch_add(done.bytes, Relaxed);
        self.reads.fetch_add(1, Relaxed);
        self.read_time.add(done.duration);
    }

    /// Does `work`, and counts its time as spent on digests.
    pub(crate) fn hashing<T>(&self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let done = work();
        self.digest_time.add(start.elapsed());
        done
    }

    /// Notes that so many threads read now.
    pub(crate) fn reading(&self, threads: usize) {
        self.threads.fetch_max(threads as u64, Relaxed);
    }

    /// Notes that so many threads hash now, and do nothing else.
    pub(crate) fn only_hashing(&self, threads: usize) {
        self.digest_threads.fetch_max(threads as u64, Relaxed);
    }

    /// Notes that so many threads take or lock memory now, and do nothing else.
    pub(crate) fn only_allocating(&self, threads: usize) {
        self.allocation_threads.fetch_max(threads as u64, Relaxed);
    }

    /// Counts memory that was taken.
    pub(crate) fn leased(&self, event: &Leased) {
        match event.origin {
            Origin::Fresh { time } => self.fresh.add(event.bytes, time),
            _ => self.reused.add(event.bytes, event.duration),
        }
    }

    /// Notes how much `pool` holds.
    pub(crate) fn held(&self, pool: &BufferPool) {
        self.peak_pool_bytes
            .fetch_max(pool.held_bytes() as u64, Relaxed);
    }

    /// Counts the time of the first touch of memory that was counted without it.
    pub(crate) fn touched(&self, event: &Touched) {
        self.fresh.time.add(event.duration);
    }

    pub(crate) fn report(&self) -> Report {
        let seconds = self.start.elapsed().as_secs_f64();
        let bytes = self.bytes.load(Relaxed);
        let digest_seconds = self.digest_time.seconds();
        let threads = self.threads.load(Relaxed);
        let digest_threads = match self.digest_threads.load(Relaxed) {
            0 => threads,
            several => several,
        };
        Report {
            seconds,
            open_seconds: self.open_time.as_secs_f64(),
            bytes,
            bytes_per_second: bytes as f64 / seconds.max(f64::MIN_POSITIVE),
            io: IoReport {
                buffered_bytes: self.buffered_bytes.load(Relaxed),
                direct_bytes: self.direct_bytes.load(Relaxed),
                mmap_bytes: self.mmap_bytes.load(Relaxed),
                reads: self.reads.load(Relaxed),
                threads,
            },
            allocation: AllocationReport {
                fresh: self.fresh.count.load(Relaxed),
                reused: self.reused.count.load(Relaxed),
                fresh_bytes: self.fresh.bytes.load(Relaxed),
                reused_bytes: self.reused.bytes.load(Relaxed),
                fresh_seconds: self.fresh.time.seconds(),
                reuse_seconds: self.reused.time.seconds(),
                // New memory is touched by those that read.
                threads: threads.max(self.allocation_threads.load(Relaxed)),
            },
            digest_seconds: (digest_seconds > 0.0).then_some(digest_seconds),
            digest_threads,
            read_seconds: self.read_time.seconds(),
            page_faults: usage::page_faults().saturating_sub(self.faults),
            peak_pool_bytes: self.peak_pool_bytes.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sum_has_its_number_of_threads() {
        let meter = Meter::start(Duration::ZERO);
        meter.reading(8);
        let report = meter.report();
        assert_eq!((report.io.threads, report.allocation.threads), (8, 8));
        assert_eq!(report.digest_threads, 8, "who reads hashes");
        meter.only_hashing(2);
        meter.only_allocating(9);
        let report = meter.report();
        assert_eq!((report.io.threads, report.allocation.threads), (8, 9));
        assert_eq!(report.digest_threads, 2);
    }
}
