//! The memory that tensors are loaded into.

use bytemuck::allocation::try_zeroed_vec;
use ckload_pool::{Origin, PooledBuffer};

use crate::read::Slot;

/// Memory for one tensor of a stream.
pub(crate) enum Memory {
    /// A buffer of the pool.
    Pooled(PooledBuffer),
    /// Memory of its own, for a tensor too small to be worth a pool's buffer.
    ///
    /// What lives long and what is recycled must not share a buffer: a consumer may keep a bias of 3 KB for hours.
    Small(SmallBuffer),
}

impl AsRef<[u8]> for Memory {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Pooled(buffer) => buffer,
            Self::Small(buffer) => buffer.as_ref(),
        }
    }
}

impl Memory {
    pub(crate) fn as_slot(&mut self) -> Slot<'_> {
        match self {
            Self::Pooled(buffer) => Slot {
                is_untouched: buffer.origin() != Origin::Recycled,
                memory: buffer,
            },
            Self::Small(buffer) => buffer.as_mut().into(),
        }
    }
}

/// Bytes on the heap, aligned for every dtype.
pub(crate) struct SmallBuffer {
    words: Vec<u64>,
    len: usize,
}

impl SmallBuffer {
    /// `None` if the allocator has no memory; most ways of asking it would end the process then.
    pub(crate) fn new(len: usize) -> Option<Self> {
        let words = try_zeroed_vec(len.div_ceil(size_of::<u64>())).ok()?;
        Some(Self { words, len })
    }
}

impl AsRef<[u8]> for SmallBuffer {
    fn as_ref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.len]
    }
}

impl AsMut<[u8]> for SmallBuffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[..self.len]
    }
}
