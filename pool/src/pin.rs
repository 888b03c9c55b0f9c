//! Pinning by others than the operating system.

use std::{fmt, io};

/// Who can pin the memory of a pool: the driver of a device that copies from and to it; see [`Builder::pin_with`](crate::Builder::pin_with).
///
/// The pool calls it from whichever thread maps, leases or frees a block, at times while it holds locks of its own: an implementation must not
/// use the pool, and must not panic.
pub trait PinMemory: fmt::Debug + Send + Sync {
    /// Pins a block: once for each, after it was mapped and, as a rule, its pages were faulted in.
    ///
    /// The block stays at its address, which is that of a page, until [`unpin`](Self::unpin). In between its bytes are read and written by
    /// those who lease it.
    ///
    /// # Errors
    ///
    /// The memory cannot be pinned. The pool counts that, and hands the block out as it is.
    fn pin(&self, memory: &[u8]) -> io::Result<()>;

    /// Ends what a successful [`pin`](Self::pin) of the same block began: once, before the block is unmapped.
    ///
    /// A forked child inherits no registration, so it is not called there for what the parent pinned.
    fn unpin(&self, memory: &[u8]);
}
