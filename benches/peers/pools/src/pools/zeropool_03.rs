//! The original, at the version whose interface ours keeps.

use zeropool_03::{BufferPool, EvictionPolicy, PooledBuffer};

use super::{Knobs, Peer, Policy, Pool, SHARDS, touch_bytes};

/// `zeropool::BufferPool` 0.3.1.
pub struct Zeropool03(BufferPool);

impl Pool for Zeropool03 {
    const PEER: Peer = Peer::Zeropool03;
    type Buffer<'p> = PooledBuffer;

    fn new(knobs: &Knobs) -> Self {
        let builder = BufferPool::builder()
            .tls_cache_size(knobs.thread_cache)
            .num_shards(SHARDS)
            .max_buffers_per_shard(knobs.per_shard())
            .eviction_policy(match knobs.policy {
                Policy::ClockPro => EvictionPolicy::ClockPro,
                Policy::Lifo => EvictionPolicy::Lifo,
            });
        Self(match knobs.min_buffer_size {
            Some(bytes) => builder.min_buffer_size(bytes).build(),
            None => builder.build(),
        })
    }

    #[inline]
    fn get(&self, len: usize) -> PooledBuffer {
        self.0.get(len)
    }

    fn touch(buffer: &mut PooledBuffer, len: usize) {
        touch_bytes(&mut buffer[..len]);
    }
}
