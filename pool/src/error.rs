//! Why a buffer could not be had.

use std::{io, time::Duration};

/// Why a request got no buffer.
///
/// All sizes are bytes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GetError {
    /// The request alone is larger than the pool may ever hold.
    #[error(
        "a buffer of {requested} bytes can never fit a pool of at most {max_bytes} bytes: \
         raise max_bytes or ask for less at a time"
    )]
    #[non_exhaustive]
    ExceedsMax {
        /// Bytes asked for.
        requested: usize,
        /// Most bytes that the pool may hold.
        max_bytes: usize,
    },

    /// The pool holds as much as it may, and what is idle would not make enough room.
    #[error(
        "no room for {requested} bytes after waiting {waited:?}: {leased} bytes are leased and {idle} idle \
         of {max_bytes} allowed; drop buffers sooner, raise max_bytes or wait longer"
    )]
    #[non_exhaustive]
    AtCapacity {
        /// Bytes asked for.
        requested: usize,
        /// Bytes held by living [`PooledBuffer`](crate::PooledBuffer)s at that moment.
        leased: usize,
        /// Bytes held for reuse at that moment. They are not enough, or promised to requests that came earlier.
        idle: usize,
        /// Most bytes that the pool may hold.
        max_bytes: usize,
        /// How long the request waited.
        waited: Duration,
    },

    /// The operating system gave no memory.
    #[error(
        "the operating system refused {requested} bytes: {source}; free memory or set max_bytes below what is available"
    )]
    #[non_exhaustive]
    Refused {
        /// Bytes asked for.
        requested: usize,
        /// What the operating system said.
        source: io::Error,
    },
}
