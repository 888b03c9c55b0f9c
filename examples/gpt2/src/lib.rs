//! GPT-2 in candle.

mod config;
mod model;

pub use config::Config;
pub use model::{Gpt2, KeysAndValues};
