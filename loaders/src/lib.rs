//! Checkpoint formats, read planning and parallel reading into pooled buffers: the loader under `ckload`.
//!
//! A tensor's way: a path becomes files (`source`), their headers become [`TensorInfo`]s (`format`), a [`Select`] narrows them, a pure
//! function plans reads and places (`plan`), workers fill buffers of a [`ckload_pool::BufferPool`] (`read`), and a [`Tensor`] owns its
//! bytes until its last clone is dropped and the buffer goes back.
//!
//! See [`Loader`] for an example. The crate names no machine-learning framework and prints nothing.

/// `$loader` for one load of `$checkpoint`: with the feature `tracing`, in a span called `$name`.
#[cfg(feature = "tracing")]
macro_rules! traced {
    ($loader:expr, $name:literal, $checkpoint:expr) => {
        $loader.within(
            tracing::debug_span!(
                $name,
                path = ?$checkpoint.path(),
                tensors = $checkpoint.tensors().len(),
                bytes = $checkpoint.bytes()
            ),
            $checkpoint,
        )
    };
}
#[cfg(not(feature = "tracing"))]
macro_rules! traced {
    ($loader:expr, $name:literal, $checkpoint:expr) => {
        $loader
    };
}

mod cancel;
mod checkpoint;
mod coalesce;
mod dtype;
mod error;
mod format;
mod layout;
mod loader;
mod memory;
mod metadata;
mod model;
mod observer;
mod part;
mod plan;
mod read;
mod report;
mod select;
mod similar;
mod source;
mod stored;
mod stream;
mod tensor;
#[cfg(feature = "tracing")]
mod trace;
pub mod usage;
mod verify;
mod view;

pub use bytes::Bytes;
pub use bytesize::ByteSize;

pub use self::cancel::Cancel;
pub use self::checkpoint::{Checkpoint, FileInfo, TensorInfo};
pub use self::dtype::{Block, Dtype, Element};
pub use self::error::Error;
pub use self::format::Format;
pub use self::loader::Loader;
pub use self::metadata::MetadataValue;
pub use self::model::Model;
pub use self::observer::{Leased, Observer, Planned, ReadDone, Source, Touch, Touched};
pub use self::plan::{Gaps, Gather, Part, Place, Plan, Read};
pub use self::read::{Io, MappedFile, ReadPolicy, UnknownIo};
pub use self::report::{AllocationReport, IoReport, Report};
pub use self::select::{Select, Shard, UnknownShard};
pub use self::similar::Names;
pub use self::stored::{Arrangement, ByteOrder};
pub use self::stream::{Chunk, Chunks, Stream};
pub use self::tensor::Tensor;
pub use self::verify::{
    Digest, FileDigest, Manifest, Mismatch, NonFinite, NotADigest, TensorDigest, Verification,
    VerifyOptions,
};
