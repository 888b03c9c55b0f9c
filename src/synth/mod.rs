//! Writes checkpoints with a known model's tensor names and shapes, filled with reproducible random values.
//!
//! A benchmark or a test that wants the layout of a real model need not download it: [`gpt2`] describes the
//! published GPT-2 checkpoint tensor by tensor, and [`Blueprint::write_file`] writes it.
//!
//! ```
//! use ckload::synth::{self, Gpt2};
//!
//! assert_eq!(synth::gpt2().data_bytes(), 548_090_880);
//!
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("model.safetensors");
//! Gpt2::TINY.blueprint().write_file(&path, 0)?;
//! assert_eq!(ckload::Checkpoint::open(&path)?.tensors().len(), 30);
//!
//! // Larger models are published in several files with an index.
//! let path = folder.path().join("llama");
//! let llama = synth::Llama::TINY.blueprint();
//! llama.write_folder_with(&path, 0, synth::IfExists::Refuse, |_| std::ops::ControlFlow::Continue(()))?;
//! assert_eq!(ckload::Checkpoint::open(&path)?.files().len(), 4);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod blueprint;
mod decoder;
mod error;
mod fill;
mod gpt2;
mod sharded;
mod write;

pub use blueprint::{Blueprint, Element, Fill, TensorSpec};
pub use decoder::{Llama, Moe, llama, moe};
pub use error::Error;
pub use gpt2::{Gpt2, gpt2};
pub use sharded::ShardedBlueprint;
pub use write::IfExists;
