//! What a pool did and holds.

use std::{fmt, sync::atomic::Ordering, time::Duration};

use crate::{shard::Shard, store::Store};

/// What a pool did since it was built, and what it holds now; see [`BufferPool::stats`](crate::BufferPool::stats).
///
/// Sizes are bytes. The numbers are gathered from all threads without stopping them: while others use the pool each is
/// right for some moment of the call, but not all for the same. Requests for 0 bytes are not counted.
///
/// ```
/// let pool = ckload_pool::BufferPool::new();
/// drop(pool.get(2 << 20));
/// drop(pool.get(2 << 20));
/// let stats = pool.stats();
/// assert_eq!((stats.gets, stats.fresh, stats.hits()), (2, 1, 1));
/// println!("{stats}");
/// ```
///
/// With the feature `serde` it can be serialised: fields under their names, times in seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Stats {
    /// Buffers handed out: [`hits`](Self::hits) and [`fresh`](Self::fresh) together.
    pub gets: u64,
    /// Of these, found in the thread's own cache.
    pub thread_hits: u64,
    /// Of these, found in the thread's home shard.
    pub shard_hits: u64,
    /// Of these, taken from another shard or from another thread's cache.
    pub stolen_hits: u64,
    /// Of these, mapped anew: the misses.
    pub fresh: u64,
    /// Buffers that [`preallocate`](crate::BufferPool::preallocate) mapped ahead.
    pub preallocated: u64,
    /// Idle buffers that were freed to make room, by [`trim`](crate::BufferPool::trim), or for their age.
    pub evictions: u64,
    /// Bytes in use: capacity of all living buffers.
    pub leased_bytes: usize,
    /// Bytes kept for reuse.
    pub idle_bytes: usize,
    /// Of the idle bytes, those that only the thread which returned them can reach; always 0 with `max_bytes`.
    pub private_bytes: usize,
    /// Bytes that are locked into memory, or pinned as [`pin_with`](crate::Builder::pin_with) says.
    pub pinned_bytes: usize,
    /// The most bytes that were leased and idle together.
    pub peak_bytes: usize,
    /// Blocks that could not be pinned.
    pub pin_failures: u64,
    /// What the operating system, or who pins instead, said to the last of these.
    pub last_pin_error: Option<String>,
    /// Bytes that were taken from the operating system, for requests and ahead of them.
    pub fresh_bytes: u64,
    /// Capacity handed out that was there already.
    pub reused_bytes: u64,
    /// Of the capacity handed out, fresh or reused, what nobody asked for: the waste of page rounding and of larger recycled buffers.
    pub excess_bytes: u64,
    /// Time spent taking memory from the operating system: mapping it, faulting its pages in and pinning it. Serialised in seconds, as
    /// `fresh_seconds`.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "fresh_seconds", serialize_with = "seconds")
    )]
    pub fresh_time: Duration,
    /// Time spent finding recycled buffers outside the threads' own caches: an estimate, from one in 64 searches of a thread. What a
    /// thread's own cache serves is not in it: reading the clock would take longer. Serialised in seconds, as `reuse_seconds`.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "reuse_seconds", serialize_with = "seconds")
    )]
    pub reuse_time: Duration,
    /// Requests that wait for room now.
    pub waiting: usize,
    /// Requests that had to wait for room and are through with it, served or not.
    pub waits: u64,
    /// Time that they waited, summed up. Serialised in seconds, as `wait_seconds`.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "wait_seconds", serialize_with = "seconds")
    )]
    pub wait_time: Duration,
    /// The most bytes that the pool may hold.
    pub max_bytes: Option<usize>,
    /// Whether the pool asks for huge pages.
    pub huge_pages: bool,
}

#[cfg(feature = "serde")]
fn seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

impl Stats {
    pub(crate) fn of(store: &Store) -> Self {
        let tally = &store.tally;
        let (thread_hits, thread_bytes, thread_excess, private_bytes) =
            store.with_threads(|threads| {
                let live = || threads.live.iter().map(|slots| &slots.counters);
                (
                    threads.past_hits + live().map(|thread| thread.hits()).sum::<u64>(),
                    threads.past_reused_bytes
                        + live().map(|thread| thread.reused_bytes()).sum::<u64>(),
                    threads.past_excess_bytes
                        + live().map(|thread| thread.excess_bytes()).sum::<u64>(),
                    live().map(|thread| thread.private_bytes()).sum(),
                )
            });
        let shards: Vec<_> = store.shards().map(Shard::hits).collect();
        let shard_hits = shards.iter().map(|hits| hits.home).sum();
        let stolen_hits = shards.iter().map(|hits| hits.stolen).sum::<u64>()
            + tally.stolen.load(Ordering::Relaxed);
        let fresh = tally.fresh.load(Ordering::Relaxed);
        let held_bytes = store.held_bytes();
        // A slot that another thread has just emptied may still be counted.
        let idle_bytes = store.idle_bytes().min(held_bytes);
        Self {
            gets: thread_hits + shard_hits + stolen_hits + fresh,
            thread_hits,
            shard_hits,
            stolen_hits,
            fresh,
            preallocated: tally.preallocated.load(Ordering::Relaxed),
            evictions: tally.evictions.load(Ordering::Relaxed),
            leased_bytes: held_bytes - idle_bytes,
            idle_bytes,
            private_bytes,
            pinned_bytes: store.pinned_bytes(),
            peak_bytes: store.peak_bytes(),
            pin_failures: tally.pin_failures.load(Ordering::Relaxed),
            last_pin_error: store.last_pin_error(),
            fresh_bytes: tally.fresh_bytes.load(Ordering::Relaxed),
            reused_bytes: thread_bytes
                + shards.iter().map(|hits| hits.bytes).sum::<u64>()
                + tally.stolen_bytes.load(Ordering::Relaxed),
            excess_bytes: thread_excess + tally.excess_bytes.load(Ordering::Relaxed),
            fresh_time: Duration::from_nanos(tally.fresh_nanos.load(Ordering::Relaxed)),
            reuse_time: Duration::from_nanos(tally.reuse_nanos.load(Ordering::Relaxed)),
            waiting: store.waiting(),
            waits: tally.waits.load(Ordering::Relaxed),
            wait_time: Duration::from_nanos(tally.wait_nanos.load(Ordering::Relaxed)),
            max_bytes: store.config.max_bytes,
            huge_pages: store.config.advised.huge,
        }
    }

    /// Buffers handed out that were there already.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.thread_hits + self.shard_hits + self.stolen_hits
    }
}

/// Several lines for people; the wording may change.
impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "requests   {}: {} from the thread's cache, {} from its shard, {} from other threads, {} fresh",
            self.gets, self.thread_hits, self.shard_hits, self.stolen_hits, self.fresh
        )?;
        write!(
            f,
            "memory     {} leased, {} idle, {} at most",
            Bytes(self.leased_bytes as u64),
            Bytes(self.idle_bytes as u64),
            Bytes(self.peak_bytes as u64)
        )?;
        match self.max_bytes {
            Some(max) => writeln!(f, " of {} allowed", Bytes(max as u64))?,
            None => writeln!(f)?,
        }
        writeln!(
            f,
            "fresh      {} in {:.3?}, {} reused, {} not asked for, {} preallocated, {} evicted",
            Bytes(self.fresh_bytes),
            self.fresh_time,
            Bytes(self.reused_bytes),
            Bytes(self.excess_bytes),
            self.preallocated,
            self.evictions
        )?;
        write!(f, "pinned     {}", Bytes(self.pinned_bytes as u64))?;
        if self.pin_failures > 0 {
            let reason = self.last_pin_error.as_deref().unwrap_or("unknown");
            write!(f, ", {} blocks refused ({reason})", self.pin_failures)?;
        }
        write!(
            f,
            "\nwaits      {} for {:.3?}, {} waiting",
            self.waits, self.wait_time, self.waiting
        )
    }
}

/// Bytes in the unit that people read best.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let mut value = self.0 as f64 / 1024.0;
        let mut unit = 0;
        while value >= 1024.0 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        write!(f, "{value:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stats_read_like_a_report() {
        let stats = Stats {
            gets: 12,
            thread_hits: 7,
            shard_hits: 2,
            stolen_hits: 1,
            fresh: 2,
            evictions: 1,
            leased_bytes: 3 << 20,
            idle_bytes: 1536,
            peak_bytes: 5 << 30,
            max_bytes: Some(6 << 30),
            fresh_bytes: 4 << 20,
            reused_bytes: 20 << 20,
            excess_bytes: 300,
            fresh_time: Duration::from_millis(12),
            pin_failures: 2,
            last_pin_error: Some("no permission".into()),
            waits: 1,
            wait_time: Duration::from_micros(1500),
            ..Stats::default()
        };
        assert_eq!(
            stats.to_string(),
            "requests   12: 7 from the thread's cache, 2 from its shard, 1 from other threads, 2 fresh\n\
             memory     3.0 MiB leased, 1.5 KiB idle, 5.0 GiB at most of 6.0 GiB allowed\n\
             fresh      4.0 MiB in 12.000ms, 20.0 MiB reused, 300 B not asked for, 0 preallocated, 1 evicted\n\
             pinned     0 B, 2 blocks refused (no permission)\n\
             waits      1 for 1.500ms, 0 waiting"
        );
    }

    #[cfg(feature = "serde")]
    #[test]
    fn stats_serialise_with_times_in_seconds() {
        let stats = Stats {
            gets: 3,
            leased_bytes: 4096,
            fresh_time: Duration::from_millis(1500),
            wait_time: Duration::from_millis(250),
            max_bytes: Some(1 << 30),
            ..Stats::default()
        };
        let json = serde_json::to_value(&stats).expect("numbers and texts");
        for (name, value) in [
            ("gets", serde_json::json!(3)),
            ("leased_bytes", serde_json::json!(4096)),
            ("fresh_seconds", serde_json::json!(1.5)),
            ("reuse_seconds", serde_json::json!(0.0)),
            ("wait_seconds", serde_json::json!(0.25)),
            ("max_bytes", serde_json::json!(1 << 30)),
            ("last_pin_error", serde_json::Value::Null),
        ] {
            assert_eq!(json[name], value, "{name}");
        }
        // One member for each field that is printed in the debug format.
        let fields = format!("{stats:#?}").lines().count() - 2;
        assert_eq!(json.as_object().map(serde_json::Map::len), Some(fields - 2));
    }
}
