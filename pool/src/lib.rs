#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod asymmetric;
mod block;
mod buffer;
mod builder;
mod error;
mod evict;
mod fit;
mod gate;
mod local;
#[cfg(all(test, pool_loom))]
mod loom_tests;
mod pin;
mod pool;
mod pool_id;
mod shard;
mod slots;
mod stats;
mod store;
mod sync;

pub use buffer::{Origin, PooledBuffer};
pub use builder::Builder;
pub use error::GetError;
pub use evict::EvictionPolicy;
pub use pin::PinMemory;
pub use pool::{BufferPool, Request, Turn};
pub use stats::Stats;
