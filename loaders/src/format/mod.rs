//! Checkpoint formats: a format is a header parser that yields tensor infos, nothing more.

pub(crate) mod index;
pub(crate) mod safetensors;
mod sniff;

use std::fmt;

/// The format of a checkpoint's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// Hugging Face safetensors, one file or several.
    Safetensors,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Safetensors => "safetensors",
        })
    }
}
