//! Checkpoints as candle's tensors, against candle's own loaders on the same files.

mod builder;
mod faults;
mod quantized;
mod sharded;
mod storages;
mod support;
