//! Sentences to vectors: all-MiniLM-L6-v2, or another BERT of its kind, in candle.
//!
//! The model is candle's own, and so is everything around the weights. What loads them is one line in each of
//! [`Embedder::load_with_candle`], [`Embedder::load`] and [`Embedder::load_recycled`].

mod embedder;
mod model_folder;

pub use embedder::Embedder;
pub use model_folder::ModelFolder;
