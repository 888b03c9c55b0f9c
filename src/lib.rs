//! Loads model checkpoints in parallel into recycled, page-aligned, pinnable memory, and says what allocation cost and
//! what pooling saved.
//!
//! A load of a model that is in the page cache is mostly not reading: its time goes into the page faults of fresh
//! memory. A [`BufferPool`] pays for memory once and lends it to one load after the other; a [`Loader`] fills it with
//! all threads at once.
//!
//! ```
//! use ckload::{BufferPool, ByteSize, Checkpoint, Loader};
//! # fn upload(tensor: &ckload::Tensor) { assert!(!tensor.bytes().is_empty()); }
//! # let folder = tempfile::tempdir()?;
//! # ckload::synth::Gpt2::TINY.blueprint().write_file(folder.path().join("model.safetensors"), 0)?;
//! # let path = folder.path();
//!
//! let pool = BufferPool::builder().pinned_memory(true).build();
//! let checkpoint = Checkpoint::open(path)?; // headers only
//! let loader = Loader::new().pool(&pool);
//!
//! let model = loader.load(&checkpoint)?; // everything, resident
//! let wte = model.tensor("wte.weight")?.as_slice::<f32>()?; // aligned, no copy
//! assert_eq!(wte.len(), 257 * 96);
//! drop(model); // its memory goes back to the pool
//!
//! for tensor in loader.budget(ByteSize::mib(256)).stream(&checkpoint)? {
//!     upload(&tensor?); // bounded: no more than 256 MiB at a time
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The command `ckload` is built on this library; [`synth`] writes checkpoints to try it with.

#[cfg(feature = "candle")]
pub mod candle;
pub mod synth;
#[cfg(feature = "tokio")]
pub mod tokio;

pub use ckload_loaders::{
    AllocationReport, Arrangement, Block, ByteOrder, ByteSize, Bytes, Cancel, Checkpoint, Chunk,
    Chunks, Digest, Dtype, Element, Error, FileDigest, FileInfo, Format, Gaps, Gather, Io,
    IoReport, Loader, Manifest, MetadataValue, Mismatch, Model, NonFinite, NotADigest, Observer,
    Part, Place, Plan, Planned, Read, ReadDone, ReadPolicy, Report, Select, Shard, Source, Stream,
    Tensor, TensorDigest, TensorInfo, UnknownIo, UnknownShard, Verification, VerifyOptions, usage,
};
pub use ckload_pool::{self as pool, BufferPool, PooledBuffer};

/// The README's example, so that it is compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
