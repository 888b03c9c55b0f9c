//! The pools that are compared, each behind the same small trait.

mod array_queue;
mod bytes_mut;
mod ckload;
mod lifeguard;
mod malloc;
mod object_pool;
mod opool;
mod sharded_slab;
mod stack;
mod zeropool_03;
mod zeropool_07;

use std::{hint::black_box, mem::MaybeUninit};

use serde::Serialize;

pub use self::{
    array_queue::ArrayQueuePool,
    bytes_mut::BytesMutArena,
    ckload::Ckload,
    lifeguard::Lifeguard,
    malloc::Malloc,
    object_pool::ObjectPool,
    opool::Opool,
    sharded_slab::{OwnedShardedSlab, ShardedSlab},
    stack::Stack,
    zeropool_03::Zeropool03,
    zeropool_07::Zeropool07,
};

const PAGE: usize = 4 << 10;

/// A pool as the rows see it.
pub trait Pool: Sized + 'static {
    /// Which one it is.
    const PEER: Peer;

    /// A buffer on loan; dropping it ends the loan.
    type Buffer<'p>;

    /// Sets the pool up as a user would for such work.
    fn new(knobs: &Knobs) -> Self;

    /// Borrows a buffer of `len` bytes; its bytes need not be initialised.
    fn get(&self, len: usize) -> Self::Buffer<'_>;

    /// Writes one byte to each of the first `len` bytes' pages.
    fn touch(buffer: &mut Self::Buffer<'_>, len: usize);
}

/// What a row asks of a pool's settings; a pool ignores what it has no setting for.
#[derive(Clone, Debug)]
pub struct Knobs {
    /// Bytes of the largest request: what pools without sizes hold.
    pub largest: usize,
    /// Idle buffers that a thread may keep for itself.
    pub thread_cache: usize,
    /// Idle buffers that threads share.
    pub shared: usize,
    /// The least size that is worth keeping; the pool's default if absent.
    pub min_buffer_size: Option<usize>,
    /// Which idle buffer goes when one has to.
    pub policy: Policy,
}

impl Knobs {
    /// Room for 8 buffers in each thread and 64 besides; keeps everything from a page up.
    #[must_use]
    pub fn up_to(largest: usize) -> Self {
        Self {
            largest,
            thread_cache: 8,
            shared: 64,
            min_buffer_size: Some(PAGE),
            policy: Policy::ClockPro,
        }
    }

    /// Shared buffers per shard, for pools that divide them into [`SHARDS`].
    fn per_shard(&self) -> usize {
        self.shared.div_ceil(SHARDS).max(1)
    }
}

/// The fewest shards that the sharded pools accept.
const SHARDS: usize = 4;

/// Eviction policies of ours and of zeropool 0.3.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// CLOCK-Pro, the default of both.
    ClockPro,
    /// Last in, first out.
    Lifo,
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum Peer {
    /// Ours.
    #[serde(rename = "ckload-pool")]
    Ckload,
    /// The original's last version with its well-known interface.
    #[serde(rename = "zeropool 0.3.1")]
    Zeropool03,
    /// The original's newest version.
    #[serde(rename = "zeropool 0.7.0")]
    Zeropool07,
    /// `opool::Pool`, borrowed guards.
    #[serde(rename = "opool")]
    Opool,
    /// `object_pool::Pool`, borrowed guards.
    #[serde(rename = "object-pool")]
    ObjectPool,
    /// `crossbeam_queue::ArrayQueue` and a guard that pushes.
    #[serde(rename = "ArrayQueue")]
    ArrayQueue,
    /// `lifeguard::Pool`, which is for one thread.
    #[serde(rename = "lifeguard")]
    Lifeguard,
    /// A `bytes::BytesMut` that reclaims its memory.
    #[serde(rename = "BytesMut")]
    BytesMut,
    /// `sharded_slab::Pool`.
    #[serde(rename = "sharded-slab")]
    ShardedSlab,
    /// The C library's allocator.
    #[serde(rename = "malloc")]
    Malloc,
    /// A bare thread-local stack: the floor.
    #[serde(rename = "stack")]
    Stack,
}

impl Peer {
    /// All, in the order of the table's columns.
    pub const ALL: [Self; 11] = [
        Self::Ckload,
        Self::Zeropool03,
        Self::Zeropool07,
        Self::Opool,
        Self::ObjectPool,
        Self::ArrayQueue,
        Self::Lifeguard,
        Self::BytesMut,
        Self::ShardedSlab,
        Self::Malloc,
        Self::Stack,
    ];

    /// The name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ckload => "ckload-pool",
            Self::Zeropool03 => "zeropool 0.3.1",
            Self::Zeropool07 => "zeropool 0.7.0",
            Self::Opool => "opool",
            Self::ObjectPool => "object-pool",
            Self::ArrayQueue => "ArrayQueue",
            Self::Lifeguard => "lifeguard",
            Self::BytesMut => "BytesMut",
            Self::ShardedSlab => "sharded-slab",
            Self::Malloc => "malloc",
            Self::Stack => "stack",
        }
    }

    /// Whether threads can share one pool of it.
    #[must_use]
    pub fn is_shared(self) -> bool {
        !matches!(self, Self::Lifeguard | Self::BytesMut | Self::Stack)
    }
}

/// Writes one byte per page.
fn touch_bytes(bytes: &mut [u8]) {
    for byte in bytes.iter_mut().step_by(PAGE) {
        *byte = 1;
    }
    black_box(bytes);
}

/// Writes one byte per page of memory that nobody has initialised.
fn touch_spare(bytes: &mut [MaybeUninit<u8>]) {
    for byte in bytes.iter_mut().step_by(PAGE) {
        byte.write(1);
    }
    black_box(bytes);
}
