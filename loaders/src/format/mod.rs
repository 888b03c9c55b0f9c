//! Checkpoint formats: a format is a header parser that yields tensor infos, nothing more.

pub(crate) mod gguf;
pub(crate) mod index;
mod input;
mod numpy;
mod pickle;
mod pytorch;
pub(crate) mod safetensors;
mod sniff;
mod view;
mod zip;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use self::input::Input;
use self::safetensors::looks_like_safetensors;
use self::sniff::SNIFF_BYTES;
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
    let mut head = [0; SNIFF_BYTES];
    let head = &mut head[..file_bytes.min(SNIFF_BYTES as u64) as usize];
    file.read_exact_at(head, 0)
        .map_err(Error::io("read the header of", path))?;
    let input = |format| Input {
        path,
        file,
        bytes: file_bytes,
        format,
    };
    // A safetensors file begins with a length, whose bytes may be those with which another format begins.
    if !looks_like_safetensors(head) {
        if zip::MAGICS.iter().any(|magic| head.starts_with(magic)) {
            return read_archive(input);
        }
        if head.starts_with(&gguf::MAGIC) {
            return gguf::read_header(path, file, file_bytes);
        }
        if head.starts_with(numpy::MAGIC) {
            return numpy::read_header(&input("NumPy"));
        }
        if pytorch::legacy::recognised(&input("PyTorch"))? {
            return pytorch::legacy::read_header(&input("PyTorch"));
        }
    }
    safetensors::read_header(path, file, file_bytes)
}

/// Reads the header of a zip archive: its members tell what it is.
fn read_archive<'a>(input: impl Fn(&'static str) -> Input<'a>) -> Result<Header, Error> {
    let archive = zip::Archive::read(&input("zip"))?;
    if pytorch::recognised(&archive) {
        pytorch::read_header(&input("PyTorch"), &archive)
    } else if numpy::recognised(&archive) {
        numpy::read_archive(&input("NumPy"), &archive)
    } else {
        Err(Error::OtherFormat {
            path: input("zip").path.to_owned(),
            found: "a zip archive with neither PyTorch's data.pkl nor NumPy's arrays",
        })
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
    /// PyTorch: the archives of `torch.save` and `torch.jit.save`, and the files that torch wrote before 1.6.
    PyTorch,
    /// NumPy: an array, or an archive of arrays.
    NumPy,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Safetensors => "safetensors",
            Self::Gguf => "GGUF",
            Self::PyTorch => "PyTorch",
            Self::NumPy => "NumPy",
        })
    }
}
