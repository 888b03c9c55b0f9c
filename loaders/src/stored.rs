//! How a tensor's elements lie in its file.

use std::fmt;
use std::sync::Arc;

/// How a tensor's elements lie in its file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stored {
    /// One behind the other in row-major order, from the tensor's offset on, as they will lie in memory.
    #[default]
    InPlace,
    /// In runs of `run` bytes, the first at the tensor's offset, each `stride` bytes behind the start of the one before: a slice of a
    /// tensor that is in place.
    Runs { run: u64, stride: u64 },
    /// Otherwise: they have to be gathered, or inflated first.
    Scattered(Arc<Scattered>),
}

/// A view of a storage, as PyTorch and NumPy keep tensors: a start, and a distance for each dimension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scattered {
    pub(crate) storage: Storage,
    /// The first element, in bytes from the storage's start.
    pub(crate) start: u64,
    /// The distance between neighbours along each dimension of the tensor's shape, in elements; 0 where an element is repeated.
    pub(crate) strides: Vec<u64>,
}

/// Bytes of a file that tensors view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Storage {
    /// They stand in the file as they are.
    Plain {
        /// The first byte, from the start of the file.
        offset: u64,
        bytes: u64,
    },
    /// They are deflated (RFC 1951).
    Deflated {
        /// The first compressed byte, from the start of the file.
        offset: u64,
        /// Compressed bytes.
        packed: u64,
        /// Inflated bytes.
        bytes: u64,
    },
}

impl Stored {
    pub(crate) fn arrangement(&self) -> Arrangement {
        match self {
            Self::InPlace => Arrangement::InPlace,
            Self::Runs { .. } => Arrangement::Strided,
            Self::Scattered(view) => match view.storage {
                Storage::Plain { .. } => Arrangement::Strided,
                Storage::Deflated { .. } => Arrangement::Compressed,
            },
        }
    }
}

/// What a load has to do to a tensor's bytes besides reading them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Arrangement {
    /// Nothing: they lie in the file as they will in memory.
    #[default]
    InPlace,
    /// Gather them: they lie apart, or in another order, as those of a transposed PyTorch tensor.
    Strided,
    /// Inflate them.
    Compressed,
}

impl fmt::Display for Arrangement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::InPlace => "in place",
            Self::Strided => "strided",
            Self::Compressed => "compressed",
        })
    }
}

impl Storage {
    /// The bytes that tensors view, inflated if they are compressed.
    pub(crate) fn bytes(&self) -> u64 {
        let (Self::Plain { bytes, .. } | Self::Deflated { bytes, .. }) = self;
        *bytes
    }
}

/// In which order the bytes of an element lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ByteOrder {
    /// The least significant byte first, as in almost every checkpoint.
    #[default]
    Little,
    /// The most significant byte first: GGUF, PyTorch and NumPy files that were written on, or for, such a machine.
    Big,
}

impl ByteOrder {
    /// This machine's.
    pub const NATIVE: Self = if cfg!(target_endian = "little") {
        Self::Little
    } else {
        Self::Big
    };
}

impl fmt::Display for ByteOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Little => "little-endian",
            Self::Big => "big-endian",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_in_place_says_so() {
        let view = |storage| {
            Stored::Scattered(Arc::new(Scattered {
                storage,
                start: 0,
                strides: vec![1, 2],
            }))
        };
        let plain = Storage::Plain {
            offset: 64,
            bytes: 24,
        };
        let deflated = Storage::Deflated {
            offset: 64,
            packed: 9,
            bytes: 24,
        };
        let runs = Stored::Runs { run: 4, stride: 8 };
        for (stored, name) in [
            (Stored::InPlace, "in place"),
            (runs, "strided"),
            (view(plain), "strided"),
            (view(deflated), "compressed"),
        ] {
            assert_eq!(stored.arrangement().to_string(), name);
        }
    }
}
