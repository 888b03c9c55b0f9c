//! The original's newest version: size classes up to 64 MiB, no eviction policy.

use zeropool_07::{BufUninit, ZeroPool};

use super::{Knobs, Peer, Pool, touch_spare};

/// `zeropool::ZeroPool` 0.7.0, by `alloc_uninit`.
pub struct Zeropool07(ZeroPool);

impl Pool for Zeropool07 {
    const PEER: Peer = Peer::Zeropool07;
    type Buffer<'p> = BufUninit<'p>;

    fn new(knobs: &Knobs) -> Self {
        let pool = ZeroPool::new()
            .tls_cache_size(knobs.thread_cache)
            .max_buffers_per_class(knobs.shared);
        Self(match knobs.min_buffer_size {
            Some(bytes) => pool.min_buffer_size(bytes),
            None => pool,
        })
    }

    #[inline]
    fn get(&self, len: usize) -> BufUninit<'_> {
        self.0.alloc_uninit(len)
    }

    fn touch(buffer: &mut BufUninit<'_>, len: usize) {
        touch_spare(&mut buffer.as_uninit_mut()[..len]);
    }
}
