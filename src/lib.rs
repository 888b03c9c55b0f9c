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
//! The [`guide`] says how to choose between the ways of loading, how to size pools and budgets, and what the numbers mean. Features, none on
//! by default, bring checkpoints into frameworks: `candle`, `burn`, `safetensors`, and `tokio` for asynchronous code; `cuda` pins
//! buffers for copies to a GPU.
//!
//! The command `ckload` is built on this library (default feature `cli`); [`synth`] writes checkpoints to try it with.

#[cfg(feature = "burn")]
pub mod burn;
#[cfg(feature = "candle")]
pub mod candle;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(feature = "safetensors")]
pub mod safetensors;
pub mod synth;
#[cfg(feature = "tokio")]
pub mod tokio;

pub use ckload_loaders::{
    AllocationReport, Arrangement, Block, ByteOrder, ByteSize, Bytes, Cancel, Checkpoint, Chunk,
    Chunks, Digest, Dtype, Element, Error, FileDigest, FileInfo, Format, Gaps, Gather, Io,
    IoReport, Leased, Loader, Manifest, MappedFile, MetadataValue, Mismatch, Model, Names,
    NonFinite, NotADigest, Observer, Part, Place, Plan, Planned, Read, ReadDone, ReadPolicy,
    Report, Select, Shard, Source, Stream, Tensor, TensorDigest, TensorInfo, Touch, Touched,
    UnknownIo, UnknownShard, Verification, VerifyOptions, usage,
};
pub use ckload_pool::{self as pool, BufferPool, PooledBuffer};

#[doc = include_str!("../docs/guide.md")]
pub mod guide {}

/// What stands in pages, so that it is compiled.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../README.md")]
    struct Readme;

    #[cfg(feature = "burn")]
    #[doc = include_str!("../docs/adopters/burn.md")]
    struct Burn;

    #[cfg(feature = "candle")]
    #[doc = include_str!("../docs/adopters/candle.md")]
    struct Candle;

    #[cfg(feature = "candle")]
    #[doc = include_str!("../docs/adopters/mistral-rs.md")]
    struct MistralRs;

    #[cfg(feature = "candle")]
    #[doc = include_str!("../docs/adopters/text-embeddings-inference.md")]
    struct TextEmbeddingsInference;
}
