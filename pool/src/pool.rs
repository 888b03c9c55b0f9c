//! The handle that users hold.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::MutexGuard;

use crate::{
    Builder, EvictionPolicy, GetError, PooledBuffer, Stats, builder::Config, fit::Fit,
    gate::Patience, pin::PinMemory, store::Store,
};

/// A pool of recycled buffers; clones share it.
///
/// ```
/// use ckload_pool::BufferPool;
///
/// let pool = BufferPool::new();
/// let mut buffer = pool.get(4 << 20);
/// buffer.fill(7);
/// drop(buffer); // back to the pool
///
/// let again = pool.get(4 << 20); // the same memory
/// assert_eq!(pool.stats().hits(), 1);
/// # drop(again);
/// ```
///
/// When the last clone is dropped, idle memory is freed at once. Buffers that are still out stay good, and are freed when they are dropped.
/// Other threads' private caches (at most 8 MiB each, see the [crate documentation](crate)) follow when those threads next use any pool, or end.
#[derive(Clone)]
pub struct BufferPool {
    store: Arc<Store>,
    /// Only handles hold it, so that the last of them closes the store while blocks still hold that.
    _closer: Arc<Closer>,
}

/// A turn at taking several buffers of a pool, until it is dropped; see [`BufferPool::take_turn`].
#[derive(Debug)]
pub struct Turn<'pool> {
    pub(crate) _guard: MutexGuard<'pool, ()>,
}

/// A request for a buffer; see [`BufferPool::request`].
#[derive(Clone, Copy)]
pub struct Request<'pool> {
    store: &'pool Arc<Store>,
    fit: Fit,
}

impl Request<'_> {
    /// The buffer's capacity is to be [`capacity_for`](BufferPool::capacity_for) its length at most, for callers who have to account
    /// for what they hold: a recycled one may be an eighth larger else.
    #[must_use]
    pub fn exact(mut self) -> Self {
        self.fit = self.fit.exact();
        self
    }

    /// Fresh memory is not faulted in ahead: who writes to a page first does it. So several threads share that work, and share it with
    /// other work, such as waiting for a disk.
    ///
    /// [`Origin::Fresh`](crate::Origin::Fresh) then tells the time for mapping alone. In a pool that pins memory it is not locked before the caller says so
    /// ([`PooledBuffer::pin`]); if that never happens, whoever leases it next without asking for it untouched gets it locked.
    #[must_use]
    pub fn untouched(mut self) -> Self {
        self.fit = self.fit.untouched();
        self
    }

    /// Leases the buffer; waits in line for it no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// As [`BufferPool::get_timeout`].
    pub fn get(self, timeout: Duration) -> Result<PooledBuffer, GetError> {
        self.store.lease(self.fit, Patience::for_at_most(timeout))
    }

    /// As [`get`](Self::get), but waits no longer once `is_over` says so, for callers whose purpose may go while they wait.
    ///
    /// It is asked every 20 milliseconds, and is to be quick: others wait in the same line.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let pool = ckload_pool::BufferPool::builder().max_bytes(8 << 20).build();
    /// let held = pool.get(8 << 20);
    /// let in_vain = pool.request(8 << 20).get_unless(Duration::from_secs(3600), &|| true);
    /// assert!(in_vain.is_err());
    /// # drop(held);
    /// ```
    ///
    /// # Errors
    ///
    /// As [`BufferPool::get_timeout`]; [`GetError::AtCapacity`] as well if it is over.
    pub fn get_unless(
        self,
        timeout: Duration,
        is_over: &dyn Fn() -> bool,
    ) -> Result<PooledBuffer, GetError> {
        // So far away a deadline is none.
        let latest = Duration::from_secs(u32::MAX.into());
        let deadline = Instant::now() + timeout.min(latest);
        self.store
            .lease(self.fit, Patience::Unless { deadline, is_over })
    }
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Request").field(&self.fit).finish()
    }
}

/// Closes a pool.
struct Closer {
    store: Arc<Store>,
}

impl Drop for Closer {
    fn drop(&mut self) {
        self.store.close();
    }
}

impl BufferPool {
    /// A pool with the defaults of [`Builder`].
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Sets up a pool.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn with_config(config: Config) -> Self {
        let store = Arc::new(Store::new(config));
        Self {
            _closer: Arc::new(Closer {
                store: Arc::clone(&store),
            }),
            store,
        }
    }

    #[cfg(test)]
    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Leases a buffer of exactly `len` bytes; waits in line while the cap is reached.
    ///
    /// What the bytes are is told at [`PooledBuffer`]. `get(0)` gives an empty buffer and takes no memory.
    ///
    /// Requests that wait are served first come, first served: a small one does not overtake a large one. Whoever
    /// waits while holding buffers of the same pool should know who will return some; use
    /// [`get_timeout`](Self::get_timeout) if nobody might.
    ///
    /// # Panics
    ///
    /// If `len` is more than [`max_bytes`](Self::max_bytes), or the operating system refuses the memory.
    /// [`get_timeout`](Self::get_timeout) and [`try_get`](Self::try_get) return these as errors.
    #[inline]
    #[must_use]
    #[track_caller]
    pub fn get(&self, len: usize) -> PooledBuffer {
        match self.store.lease(self.store.fit(len), Patience::Endless) {
            Ok(buffer) => buffer,
            Err(error) => refused(&error),
        }
    }

    /// As [`get`](Self::get), with all bytes 0.
    ///
    /// Fresh memory is zero already; recycled memory is overwritten, unless the pool zeroes what comes back
    /// ([`Builder::zero_on_return`]).
    ///
    /// ```
    /// let pool = ckload_pool::BufferPool::new();
    /// pool.get(1 << 20).fill(255);
    /// assert!(pool.get_zeroed(1 << 20).iter().all(|&byte| byte == 0));
    /// ```
    ///
    /// # Panics
    ///
    /// As [`get`](Self::get).
    #[must_use]
    #[track_caller]
    pub fn get_zeroed(&self, len: usize) -> PooledBuffer {
        let mut buffer = self.get(len);
        if !self.store.config.zero_on_return && buffer.origin() == crate::Origin::Recycled {
            buffer.fill(0);
        }
        buffer
    }

    /// As [`get`](Self::get), but never waits.
    ///
    /// Idle buffers are freed where that makes enough room. While others wait in line this fails, since the room is theirs.
    ///
    /// ```
    /// use ckload_pool::{BufferPool, GetError};
    ///
    /// let pool = BufferPool::builder().max_bytes(8 << 20).build();
    /// let held = pool.get(6 << 20);
    /// let error = pool.try_get(4 << 20).unwrap_err();
    /// assert!(matches!(error, GetError::AtCapacity { leased, .. } if leased == 6 << 20));
    /// drop(held);
    /// assert!(pool.try_get(4 << 20).is_ok());
    /// ```
    ///
    /// # Errors
    ///
    /// [`GetError::ExceedsMax`] if the request can never be served, [`GetError::AtCapacity`] if it cannot be served now,
    /// [`GetError::Refused`] if the operating system gives no memory.
    pub fn try_get(&self, len: usize) -> Result<PooledBuffer, GetError> {
        self.store.lease(self.store.fit(len), Patience::None)
    }

    /// As [`get`](Self::get), but waits no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// As [`try_get`](Self::try_get); [`GetError::AtCapacity`] after `timeout`.
    pub fn get_timeout(&self, len: usize, timeout: Duration) -> Result<PooledBuffer, GetError> {
        self.store
            .lease(self.store.fit(len), Patience::for_at_most(timeout))
    }

    /// A request that can say more about the buffer than its length.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let pool = ckload_pool::BufferPool::new();
    /// let request = pool.request(30 << 20).exact().untouched();
    /// let buffer = request.get(Duration::from_secs(1))?;
    /// assert_eq!(buffer.capacity(), pool.capacity_for(30 << 20));
    /// # Ok::<(), ckload_pool::GetError>(())
    /// ```
    #[must_use]
    pub fn request(&self, len: usize) -> Request<'_> {
        Request {
            store: &self.store,
            fit: self.store.fit(len),
        }
    }

    /// The capacities of the buffers that lie idle now, in bytes, largest first; not of those that threads hold privately.
    ///
    /// A caller who can divide a large buffer among several uses may plan with these, and take what suits with
    /// [`get_idle`](Self::get_idle): so memory of other sizes is used again, which [`get`](Self::get) would pass over and, at the cap, free.
    /// The list is a hint, since others use the pool meanwhile.
    ///
    /// ```
    /// let pool = ckload_pool::BufferPool::new();
    /// drop((pool.get(32 << 20), pool.get(64 << 20)));
    /// assert_eq!(pool.idle_capacities(), [64 << 20, 32 << 20]);
    ///
    /// let mut large = pool.get_idle(64 << 20).expect("nobody else uses this pool");
    /// let (weights, biases) = large.split_at_mut(40 << 20);
    /// # weights[0] = biases[0];
    /// assert!(pool.get_idle(64 << 20).is_none(), "there was one");
    /// ```
    #[must_use]
    pub fn idle_capacities(&self) -> Vec<usize> {
        self.store.idle_capacities()
    }

    /// Leases an idle buffer of exactly this `capacity`, whole; `None` if there is none, or if requests wait for idle memory.
    ///
    /// It never waits, and takes nothing from the operating system.
    #[must_use]
    pub fn get_idle(&self, capacity: usize) -> Option<PooledBuffer> {
        self.store.lease_idle(capacity)
    }

    /// Waits at most `timeout` for a turn at taking several buffers, of `bytes` together, which are of no use one by one.
    ///
    /// Two that gather buffers from a pool with a cap could each hold a part and wait for the rest for ever. Who gathers only in
    /// its turn, and lets go of what it has before it asks for another, cannot meet that. Single requests need no turn.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let pool = ckload_pool::BufferPool::builder().max_bytes(8 << 20).build();
    /// let turn = pool.take_turn(8 << 20, Duration::from_secs(1))?;
    /// let both = (pool.get(4 << 20), pool.get(4 << 20));
    /// assert!(pool.take_turn(8 << 20, Duration::ZERO).is_err(), "one at a time");
    /// drop(turn);
    /// # drop(both);
    /// # Ok::<(), ckload_pool::GetError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`GetError::ExceedsMax`] if the pool may never hold `bytes`, [`GetError::AtCapacity`] after `timeout`.
    pub fn take_turn(&self, bytes: usize, timeout: Duration) -> Result<Turn<'_>, GetError> {
        self.store.take_turn(bytes, timeout, None)
    }

    /// As [`take_turn`](Self::take_turn), but waits no longer once `is_over` says so; it is asked every 20 milliseconds, and whoever waits without
    /// asking may come first.
    ///
    /// # Errors
    ///
    /// As [`take_turn`](Self::take_turn); [`GetError::AtCapacity`] as well if it is over.
    pub fn take_turn_unless(
        &self,
        bytes: usize,
        timeout: Duration,
        is_over: &dyn Fn() -> bool,
    ) -> Result<Turn<'_>, GetError> {
        self.store.take_turn(bytes, timeout, Some(is_over))
    }

    /// Maps up to `count` buffers of `len` bytes ahead of their use, and says how many.
    ///
    /// They are fewer if the pool may not keep as many: `max_bytes`, `max_buffers_per_shard` and `min_buffer_size` hold
    /// here, too. Nothing idle is freed for them, and nothing waits.
    ///
    /// ```
    /// let pool = ckload_pool::BufferPool::builder().max_bytes(10 << 20).build();
    /// assert_eq!(pool.preallocate(100, 4 << 20).unwrap(), 2);
    /// assert_eq!(pool.held_bytes(), 8 << 20);
    /// ```
    ///
    /// # Errors
    ///
    /// [`GetError::ExceedsMax`] if not one such buffer can ever be had, [`GetError::Refused`] if the operating system
    /// gives no memory; what was mapped until then stays.
    pub fn preallocate(&self, count: usize, len: usize) -> Result<usize, GetError> {
        self.store.preallocate(count, len)
    }

    /// Frees all idle memory: the shared and what threads cache.
    ///
    /// What other threads hold privately, at most 8 MiB each and nothing if the pool has a cap, follows when they next use any pool.
    ///
    /// ```
    /// let pool = ckload_pool::BufferPool::new();
    /// drop(pool.get(32 << 20));
    /// assert_eq!(pool.held_bytes(), 32 << 20);
    /// pool.clear();
    /// assert_eq!(pool.held_bytes(), 0);
    /// ```
    pub fn clear(&self) {
        self.store.clear();
    }

    /// Gives back the bookkeeping memory that is no longer in use: room in lists, and the remembered sizes of evicted buffers.
    ///
    /// No buffer is freed; that is for [`trim`](Self::trim) and [`clear`](Self::clear).
    pub fn shrink_to_fit(&self) {
        self.store.shrink_to_fit();
    }

    /// Frees idle buffers, those that the eviction policy wants least first, until at most `target_bytes` are idle;
    /// returns the bytes freed.
    ///
    /// If what other threads hold privately is too much, they free it when they next use any pool, and it is not in the result.
    ///
    /// ```
    /// let pool = ckload_pool::BufferPool::new();
    /// drop((pool.get(32 << 20), pool.get(64 << 20)));
    /// let freed = pool.trim(70 << 20);
    /// assert!(freed >= 26 << 20);
    /// assert!(pool.stats().idle_bytes <= 70 << 20);
    /// ```
    pub fn trim(&self, target_bytes: usize) -> usize {
        self.store.trim(target_bytes)
    }

    /// What the pool did and holds.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats::of(&self.store)
    }

    /// Bytes leased and idle together. Cheap: one load.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.store.held_bytes()
    }

    /// How many idle buffers the shards may keep together; what threads cache is not counted.
    #[must_use]
    pub fn max_idle_buffers(&self) -> usize {
        let config = &self.store.config;
        config
            .num_shards
            .saturating_mul(config.max_buffers_per_shard)
    }

    /// What a fresh buffer for `len` bytes takes of the pool's memory: its capacity, in bytes. A recycled one may be up to an
    /// eighth larger.
    ///
    /// ```
    /// let pool = ckload_pool::BufferPool::new();
    /// assert_eq!(pool.capacity_for(5 << 20), pool.get(5 << 20).capacity());
    /// assert_eq!(pool.capacity_for(0), 0);
    /// ```
    #[must_use]
    pub fn capacity_for(&self, len: usize) -> usize {
        if len == 0 {
            return 0; // an empty buffer takes no memory
        }
        self.store.fit(len).fresh
    }

    /// The most bytes that the pool may hold, leased and idle together.
    #[must_use]
    pub fn max_bytes(&self) -> Option<usize> {
        self.store.config.max_bytes
    }

    /// How long memory may lie idle before it goes back to the operating system.
    #[must_use]
    pub fn max_idle_age(&self) -> Option<Duration> {
        self.store.config.max_idle_age
    }

    /// Whether the pool tries to pin its memory; [`PooledBuffer::is_pinned`] says whether that succeeded.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        self.store.config.pinned_memory
    }

    /// What pins the pool's memory, if not `mlock`.
    #[must_use]
    pub fn pin_with(&self) -> Option<&dyn PinMemory> {
        self.store.config.pin_with.as_deref()
    }

    /// Whether the pool asks for huge pages.
    #[must_use]
    pub fn huge_pages(&self) -> bool {
        self.store.config.advised.huge
    }

    /// Whether the pool's memory is left out of core dumps.
    #[must_use]
    pub fn dont_dump(&self) -> bool {
        self.store.config.advised.dont_dump
    }

    /// Whether forked children do not get the pool's memory.
    #[must_use]
    pub fn dont_fork(&self) -> bool {
        self.store.config.advised.dont_fork
    }

    /// Whether buffers are zeroed when they come back.
    #[must_use]
    pub fn zero_on_return(&self) -> bool {
        self.store.config.zero_on_return
    }

    /// The least capacity, in bytes, that is kept.
    #[must_use]
    pub fn min_buffer_size(&self) -> usize {
        self.store.config.min_buffer_size
    }

    /// How many buffers each thread may cache.
    #[must_use]
    pub fn tls_cache_size(&self) -> usize {
        self.store.config.tls_cache_size
    }

    /// How many shards there are.
    #[must_use]
    pub fn num_shards(&self) -> usize {
        self.store.config.num_shards
    }

    /// Which idle buffer goes when one has to.
    #[must_use]
    pub fn eviction_policy(&self) -> EvictionPolicy {
        self.store.config.eviction_policy
    }
}

#[cold]
#[track_caller]
fn refused(error: &GetError) -> ! {
    panic!("{error}")
}

impl Default for BufferPool {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferPool")
            .field("held_bytes", &self.held_bytes())
            .field("config", &*self.store.config)
            .finish_non_exhaustive()
    }
}
