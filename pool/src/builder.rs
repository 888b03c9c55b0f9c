//! The pool's knobs and their defaults.

use std::{sync::Arc, time::Duration};

use crate::{
    BufferPool, EvictionPolicy, asymmetric::Asymmetric, block::Advised, local, pin::PinMemory,
};

const DEFAULT_MIN_BUFFER_SIZE: usize = 1 << 20;
/// More slots than this in one thread would make each lookup a scan.
const MAX_TLS_CACHE_SIZE: usize = 256;

/// Sets up a [`BufferPool`]; see [`BufferPool::builder`].
///
/// ```
/// use ckload_pool::BufferPool;
///
/// let pool = BufferPool::builder()
///     .max_bytes(256 << 20)
///     .pinned_memory(true)
///     .build();
/// assert_eq!(pool.max_bytes(), Some(256 << 20));
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Builder {
    tls_cache_size: Option<usize>,
    min_buffer_size: Option<usize>,
    max_buffers_per_shard: Option<usize>,
    num_shards: Option<usize>,
    pinned_memory: bool,
    pin_with: Option<Arc<dyn PinMemory>>,
    eviction_policy: EvictionPolicy,
    max_bytes: Option<usize>,
    max_idle_age: Option<Duration>,
    zero_on_return: bool,
    small_pages: bool,
    dont_dump: bool,
    dont_fork: bool,
}

impl Builder {
    /// How many idle buffers each thread keeps for itself, at most 256.
    ///
    /// A thread finds its own buffers without a lock. `0` keeps none.
    ///
    /// Default: 2 to 8, by the number of CPUs: 2 up to 2, 4 up to 4, 6 up to 16, 8 above.
    pub fn tls_cache_size(mut self, buffers: usize) -> Self {
        self.tls_cache_size = Some(buffers);
        self
    }

    /// The least capacity, in bytes, that is worth keeping: smaller buffers are freed when they come back.
    ///
    /// This holds everywhere, so small requests never take the place of a large buffer. `usize::MAX` keeps nothing.
    ///
    /// Default: 1 MiB.
    pub fn min_buffer_size(mut self, bytes: usize) -> Self {
        self.min_buffer_size = Some(bytes);
        self
    }

    /// How many idle buffers one shard keeps.
    ///
    /// When all shards are full, the [eviction policy](Self::eviction_policy) says which buffer goes. `0` keeps none.
    ///
    /// Default: 16 to 64, by the number of CPUs: 16 up to 15, 32 up to 31, 64 above.
    pub fn max_buffers_per_shard(mut self, buffers: usize) -> Self {
        self.max_buffers_per_shard = Some(buffers);
        self
    }

    /// Into how many parts, each with its own lock, the shared idle buffers are divided.
    ///
    /// Rounded up to a power of two from 4 to 128.
    ///
    /// Default: half the number of CPUs, rounded likewise, but 8 from 8 CPUs up.
    pub fn num_shards(mut self, shards: usize) -> Self {
        self.num_shards = Some(shards);
        self
    }

    /// Whether memory is locked (`mlock`), once for each block, so that it cannot be swapped out.
    ///
    /// A refusal is counted in [`Stats::pin_failures`](crate::Stats::pin_failures) and does no other harm: the buffer
    /// is handed out unlocked. Every new block tries again, since locked memory may have been freed meanwhile; the
    /// vain call costs a fraction of a microsecond, against a hundred and more for the block's pages.
    ///
    /// Default: `false`.
    pub fn pinned_memory(mut self, pinned: bool) -> Self {
        self.pinned_memory = pinned;
        self
    }

    /// What pins memory instead of `mlock`: the driver of a GPU, say, which copies at full speed only from memory that it knows as pinned.
    ///
    /// It turns [`pinned_memory`](Self::pinned_memory) on. What is said there of refusals holds; what pinning takes is up to `pinner`.
    ///
    /// ```
    /// use ckload_pool::{BufferPool, PinMemory};
    ///
    /// /// Tells what a driver would be told.
    /// #[derive(Debug)]
    /// struct Tell;
    ///
    /// impl PinMemory for Tell {
    ///     fn pin(&self, memory: &[u8]) -> std::io::Result<()> {
    ///         println!("register {} bytes at {:p}", memory.len(), memory);
    ///         Ok(())
    ///     }
    ///
    ///     fn unpin(&self, memory: &[u8]) {
    ///         println!("unregister {:p}", memory);
    ///     }
    /// }
    ///
    /// let pool = BufferPool::builder().pin_with(Tell).build();
    /// assert!(pool.get(1 << 20).is_pinned());
    /// ```
    ///
    /// Default: `mlock`.
    pub fn pin_with(mut self, pinner: impl PinMemory + 'static) -> Self {
        self.pin_with = Some(Arc::new(pinner));
        self.pinned_memory(true)
    }

    /// Which idle buffer goes when one has to.
    ///
    /// Default: [`EvictionPolicy::ClockPro`].
    pub fn eviction_policy(mut self, policy: EvictionPolicy) -> Self {
        self.eviction_policy = policy;
        self
    }

    /// The most bytes that the pool holds, leased and idle together, rounded up to a whole page.
    ///
    /// The limit is hard. A request beyond it frees idle buffers first, and then waits in line
    /// ([`get`](BufferPool::get), [`get_timeout`](BufferPool::get_timeout)) or fails ([`try_get`](BufferPool::try_get)).
    ///
    /// Default: no limit.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = Some(bytes);
        self
    }

    /// How long memory may lie idle before it goes back to the operating system.
    ///
    /// The pool has no thread of its own: the next thread to use it after that time frees what is too old, wherever it
    /// lies. Nobody looks at a clock while requests are served from a thread's own cache, but at every 1,024th of them,
    /// so ages are coarse: a buffer goes between once and twice this time after its last use, if the pool is used by
    /// then. A pool that nobody uses keeps what it has; [`trim`](BufferPool::trim) and [`clear`](BufferPool::clear) free it.
    ///
    /// What a thread holds privately (at most 8 MiB, see the [crate documentation](crate)) and has not used for that long
    /// it frees when it next uses any pool, or ends; other threads are asked for theirs with it.
    ///
    /// Default: no limit.
    pub fn max_idle_age(mut self, age: Duration) -> Self {
        self.max_idle_age = Some(age);
        self
    }

    /// Whether a buffer is overwritten with zeros when it comes back, before anybody else can get it.
    ///
    /// Default: `false`.
    pub fn zero_on_return(mut self, zero: bool) -> Self {
        self.zero_on_return = zero;
        self
    }

    /// Whether blocks use transparent huge pages where the kernel has them, and from 2 MiB up start on a 2 MiB
    /// boundary.
    ///
    /// `false` asks for small pages, also where the system's default is huge ones.
    ///
    /// Default: `true`.
    pub fn huge_pages(mut self, huge: bool) -> Self {
        self.small_pages = !huge;
        self
    }

    /// Whether the pool's memory is left out of core dumps (`MADV_DONTDUMP`): weights and requests of tenants do not end up on a disk.
    ///
    /// Linux only; elsewhere a pool that is to keep secrets refuses every request with [`GetError::Refused`](crate::GetError::Refused).
    ///
    /// Default: `false`.
    pub fn dont_dump(mut self, dont: bool) -> Self {
        self.dont_dump = dont;
        self
    }

    /// Whether forked children do not get the pool's memory (`MADV_DONTFORK`): a fork of a process with tens of gigabytes is quicker,
    /// and writing to them afterwards copies no page.
    ///
    /// In the child the buffers do not exist: it should replace itself (`exec`) or end. It may drop buffers and the pool, but must not look
    /// into a buffer or ask the pool for one: what lay there is gone (SIGSEGV), or is something else of the child's by now. Without this option a child gets copies of all buffers, page by page as one of the two writes to
    /// them, and a pool that works; locked memory is not locked in the child.
    ///
    /// Linux only, as [`dont_dump`](Self::dont_dump).
    ///
    /// Default: `false`.
    pub fn dont_fork(mut self, dont: bool) -> Self {
        self.dont_fork = dont;
        self
    }

    /// Builds the pool. It takes no memory until the first request.
    #[must_use]
    pub fn build(self) -> BufferPool {
        let defaults = Defaults::for_cpus(num_cpus::get());
        let page = region::page::size();
        BufferPool::with_config(Config {
            tls_cache_size: self
                .tls_cache_size
                .unwrap_or(defaults.tls_cache_size)
                .min(MAX_TLS_CACHE_SIZE),
            min_buffer_size: self.min_buffer_size.unwrap_or(DEFAULT_MIN_BUFFER_SIZE),
            max_buffers_per_shard: self
                .max_buffers_per_shard
                .unwrap_or(defaults.max_buffers_per_shard),
            num_shards: self.num_shards.map_or(defaults.num_shards, shards_for),
            pinned_memory: self.pinned_memory,
            pin_with: self.pin_with,
            eviction_policy: self.eviction_policy,
            max_bytes: self
                .max_bytes
                .map(|bytes| bytes.checked_next_multiple_of(page).unwrap_or(usize::MAX)),
            max_idle_age: self.max_idle_age,
            zero_on_return: self.zero_on_return,
            advised: Advised {
                huge: !self.small_pages,
                dont_dump: self.dont_dump,
                dont_fork: self.dont_fork,
            },
            page,
            asymmetric: Asymmetric::of_process(),
        })
    }
}

/// A pool's settled knobs.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) tls_cache_size: usize,
    pub(crate) min_buffer_size: usize,
    pub(crate) max_buffers_per_shard: usize,
    pub(crate) num_shards: usize,
    pub(crate) pinned_memory: bool,
    /// What pins memory, if not `mlock`.
    pub(crate) pin_with: Option<Arc<dyn PinMemory>>,
    pub(crate) eviction_policy: EvictionPolicy,
    pub(crate) max_bytes: Option<usize>,
    pub(crate) max_idle_age: Option<Duration>,
    pub(crate) zero_on_return: bool,
    pub(crate) advised: Advised,
    /// Size of a small page, bytes.
    pub(crate) page: usize,
    pub(crate) asymmetric: Asymmetric,
}

impl Config {
    /// Bytes that one thread may keep where no other thread reaches them.
    ///
    /// A capped pool allows none: a waiting request must be able to reach all idle memory.
    pub(crate) fn private_bytes(&self) -> usize {
        match self.max_bytes {
            None => local::PRIVATE_BYTES,
            Some(_) => 0,
        }
    }

    /// Whether a thread may keep a buffer of this capacity where no other thread reaches it.
    pub(crate) fn keeps_privately(&self, capacity: usize) -> bool {
        (self.min_buffer_size..=local::PRIVATE_BUFFER).contains(&capacity)
            && self.private_bytes() > 0
    }
}

/// The defaults that follow from the number of CPUs.
#[derive(Debug, PartialEq, Eq)]
struct Defaults {
    tls_cache_size: usize,
    num_shards: usize,
    max_buffers_per_shard: usize,
}

impl Defaults {
    fn for_cpus(cpus: usize) -> Self {
        Self {
            tls_cache_size: match cpus {
                0..=2 => 2,
                3..=4 => 4,
                5..=16 => 6,
                _ => 8,
            },
            num_shards: shards_for(cpus / 2).max(if cpus >= 8 { 8 } else { 4 }),
            max_buffers_per_shard: match cpus {
                0..=15 => 16,
                16..=31 => 32,
                _ => 64,
            },
        }
    }
}

fn shards_for(wanted: usize) -> usize {
    wanted.clamp(4, 128).next_power_of_two()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_follow_the_published_table() {
        for (cpus, tls_cache_size, num_shards, max_buffers_per_shard) in [
            (1, 2, 4, 16),
            (2, 2, 4, 16),
            (4, 4, 4, 16),
            (8, 6, 8, 16),
            (16, 6, 8, 32),
            (32, 8, 16, 64),
            (64, 8, 32, 64),
            (128, 8, 64, 64),
        ] {
            let expected = Defaults {
                tls_cache_size,
                num_shards,
                max_buffers_per_shard,
            };
            assert_eq!(Defaults::for_cpus(cpus), expected, "{cpus} CPUs");
        }
    }

    #[test]
    fn shards_are_a_power_of_two_within_bounds_on_any_machine() {
        for cpus in 0..2000 {
            let shards = Defaults::for_cpus(cpus).num_shards;
            assert!(
                shards.is_power_of_two() && (4..=128).contains(&shards),
                "{cpus} CPUs: {shards}"
            );
        }
        assert_eq!(
            [0, 5, 16, 129, usize::MAX].map(shards_for),
            [4, 8, 16, 128, 128]
        );
    }

    #[test]
    fn an_odd_cap_counts_whole_pages() {
        let pool = BufferPool::builder().max_bytes(1).build();
        assert_eq!(pool.max_bytes(), Some(region::page::size()));
        assert_eq!(
            BufferPool::builder()
                .max_bytes(usize::MAX)
                .build()
                .max_bytes(),
            Some(usize::MAX)
        );
    }
}
