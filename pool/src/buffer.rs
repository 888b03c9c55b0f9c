//! The lease: a buffer that goes back to its pool when it is dropped.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    time::Duration,
};

use crate::{block::Block, store};

/// Where the memory of a lease came from, and what that cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// The memory was mapped for this lease.
    Fresh {
        /// Time that the operating system took to map the memory, fault every page in (unless it was asked for
        /// [untouched](crate::Request::untouched)) and lock it.
        time: Duration,
    },
    /// The memory was there already: it served an earlier lease, was preallocated, or none was needed.
    Recycled,
}

/// A buffer leased from a [`BufferPool`](crate::BufferPool); dropping it gives the memory back.
///
/// It dereferences to exactly the bytes asked for. They are always initialised: zero in fresh memory, and whatever
/// the last holder left in recycled memory, unless the pool zeroes
/// ([`Builder::zero_on_return`](crate::Builder::zero_on_return), [`BufferPool::get_zeroed`](crate::BufferPool::get_zeroed)).
///
/// The memory starts on a page boundary, and on a 2 MiB boundary from 2 MiB up if the pool uses huge pages. A buffer is
/// owned and `'static`: it may outlive the pool, cross threads and lie in thread-local storage.
///
/// ```
/// let pool = ckload_pool::BufferPool::new();
/// let mut buffer = pool.get(3 << 20);
/// buffer[..5].copy_from_slice(b"hello");
/// let read = std::thread::spawn(move || buffer[..5].to_vec()).join().unwrap();
/// assert_eq!(read, b"hello");
/// ```
pub struct PooledBuffer {
    /// Absent when `len` is 0.
    block: Option<Box<Block>>,
    len: usize,
}

impl PooledBuffer {
    pub(crate) fn empty() -> Self {
        Self {
            block: None,
            len: 0,
        }
    }

    #[inline]
    pub(crate) fn new(block: Box<Block>, len: usize) -> Self {
        Self {
            block: Some(block),
            len,
        }
    }

    /// Bytes asked for; what the buffer dereferences to.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no bytes were asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of memory that this lease occupies: the length rounded up to pages, or at most an eighth more than the
    /// length where a larger buffer was recycled.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.block.as_ref().map_or(0, |block| block.capacity())
    }

    /// Whether the memory is locked, so that it cannot be swapped out, or pinned as [`pin_with`](crate::Builder::pin_with) says.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        self.block.as_ref().is_some_and(|block| block.is_pinned())
    }

    /// Pins memory that was asked for [untouched](crate::Request::untouched), once the caller has written to it: then it takes next to
    /// nothing, while locking pages that are missing faults them in one by one.
    ///
    /// It does nothing if the memory is pinned, if that was refused before, or if the pool does not [pin](crate::Builder::pinned_memory).
    ///
    /// ```
    /// # use std::time::Duration;
    /// let pool = ckload_pool::BufferPool::builder().pinned_memory(true).build();
    /// let mut buffer = pool.request(1 << 20).untouched().get(Duration::ZERO)?;
    /// buffer.fill(1);
    /// buffer.pin();
    /// assert!(buffer.is_pinned() || pool.stats().pin_failures == 1);
    /// # Ok::<(), ckload_pool::GetError>(())
    /// ```
    pub fn pin(&mut self) {
        if let Some(block) = &mut self.block {
            block.pin();
        }
    }

    /// What this lease cost.
    ///
    /// ```
    /// use ckload_pool::{BufferPool, Origin};
    ///
    /// let pool = BufferPool::new();
    /// assert!(matches!(pool.get(1 << 20).origin(), Origin::Fresh { .. }));
    /// assert_eq!(pool.get(1 << 20).origin(), Origin::Recycled);
    /// ```
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.block
            .as_ref()
            .map_or(Origin::Recycled, |block| block.origin)
    }
}

impl Deref for PooledBuffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.block {
            Some(block) => &block.bytes()[..self.len],
            None => &[],
        }
    }
}

impl DerefMut for PooledBuffer {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.block {
            Some(block) => &mut block.bytes_mut()[..self.len],
            None => &mut [],
        }
    }
}

impl AsRef<[u8]> for PooledBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl AsMut<[u8]> for PooledBuffer {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl fmt::Debug for PooledBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PooledBuffer")
            .field("len", &self.len)
            .field("capacity", &self.capacity())
            .field("pinned", &self.is_pinned())
            .field("origin", &self.origin())
            .finish()
    }
}

impl Drop for PooledBuffer {
    #[inline]
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            store::give_back(block, self.len);
        }
    }
}
