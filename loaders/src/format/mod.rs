//! Checkpoint formats: a format is a header parser that yields tensor infos, nothing more.

pub(crate) mod gguf;
pub(crate) mod index;
pub(crate) mod safetensors;
mod sniff;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::{Error, MetadataValue, TensorInfo};

/// What the header of a file says, checked against the file's size.
#[derive(Debug, PartialEq)]
pub(crate) struct Header {
    pub(crate) format: Format,
    /// In the order of their bytes; all of file number 0.
    pub(crate) tensors: Vec<TensorInfo>,
    pub(crate) metadata: BTreeMap<String, MetadataValue>,
}

/// Reads the header of `file`, which has `file_bytes` bytes, in the format that its first bytes are of; `path` is for the errors.
pub(crate) fn read_header(path: &Path, file: &File, file_bytes: u64) -> Result<Header, Error> {
    let mut magic = gguf::MAGIC.map(|_| 0);
    if file_bytes >= magic.len() as u64 {
        file.read_exact_at(&mut magic, 0)
            .map_err(Error::io("read the header of", path))?;
    }
    // As the length of a safetensors header, the magic would be far over that format's limit.
    if magic == gguf::MAGIC {
        gguf::read_header(path, file, file_bytes)
    } else {
        safetensors::read_header(path, file, file_bytes)
    }
}

/// The format of a checkpoint's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// Hugging Face safetensors, one file or several.
    Safetensors,
    /// GGUF, one file or the parts of a split model.
    Gguf,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Safetensors => "safetensors",
            Self::Gguf => "GGUF",
        })
    }
}
