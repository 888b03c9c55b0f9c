//! What the fuzz targets check: that no bytes make ckload panic, hang, take memory without bound, or load what a file does not hold.
//!
//! A target turns its input into a file that exists in memory alone, and opens that as anybody would; nothing private is reached.

mod archive;
mod bytes;
mod checks;
mod file;
mod index;
mod manifest;
mod memory;
mod places;
mod plan;
mod slices;

pub use self::bytes::{gguf, numpy, pickle, pytorch_legacy, pytorch_zip, safetensors};
pub use self::index::index;
pub use self::manifest::manifest;
pub use self::plan::{Planned, plan};
