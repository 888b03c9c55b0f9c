//! What is not as it should be, in words and as data.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Digest, FileDigest, TensorDigest, lossy};

/// A file or a tensor that is not as it should be; displayed, a sentence about it.
///
/// Serialised it has a `kind` in snake case beside its fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Mismatch {
    /// A file's digest is not the name that it has in a Hugging Face cache.
    #[error(
        "the file {} is damaged: its SHA-256 is {found}, and its name in the Hugging Face cache says {expected}; delete it and download it again",
        path.display()
    )]
    BlobName {
        /// The file.
        #[serde(serialize_with = "lossy")]
        path: PathBuf,
        /// Its blob's name.
        expected: Digest,
        /// The digest of what it holds.
        found: Digest,
    },

    /// A file's digest is not the recorded one.
    #[error("the file {} has the SHA-256 {found}, recorded is {expected}", path.display())]
    FileDigest {
        /// The file.
        #[serde(serialize_with = "lossy")]
        path: PathBuf,
        /// What is recorded.
        expected: Digest,
        /// The digest of what it holds.
        found: Digest,
    },

    /// A file's size is not the recorded one.
    #[error("the file {} has {found} bytes, recorded are {expected}", path.display())]
    FileBytes {
        /// The file.
        #[serde(serialize_with = "lossy")]
        path: PathBuf,
        /// What is recorded.
        expected: u64,
        /// The bytes that it has.
        found: u64,
    },

    /// A file is recorded that the checkpoint does not have.
    #[error("the file {path} is recorded, and the checkpoint does not have it")]
    FileMissing {
        /// Its path, as it is recorded.
        path: String,
    },

    /// The checkpoint has a file that is not recorded.
    #[error("the file {} is not recorded", path.display())]
    FileExtra {
        /// The file.
        #[serde(serialize_with = "lossy")]
        path: PathBuf,
    },

    /// A tensor's digest is not the recorded one.
    #[error("the tensor {name:?} has the SHA-256 {found}, recorded is {expected}")]
    TensorDigest {
        /// Its name.
        name: String,
        /// What is recorded.
        expected: Digest,
        /// The digest of its bytes.
        found: Digest,
    },

    /// A tensor's elements are of another type than the recorded one.
    #[error("the tensor {name:?} is {found}, recorded is {expected}")]
    TensorDtype {
        /// Its name.
        name: String,
        /// The name of the recorded type.
        expected: String,
        /// The name of its type.
        found: String,
    },

    /// A tensor's shape is not the recorded one.
    #[error("the tensor {name:?} has the shape {found:?}, recorded is {expected:?}")]
    TensorShape {
        /// Its name.
        name: String,
        /// What is recorded.
        expected: Vec<u64>,
        /// Its dimensions.
        found: Vec<u64>,
    },

    /// A tensor is recorded that the checkpoint does not have.
    #[error("the tensor {name:?} is recorded, and the checkpoint does not have it")]
    TensorMissing {
        /// Its name.
        name: String,
    },

    /// The checkpoint has a tensor that is not recorded.
    #[error("the tensor {name:?} is not recorded")]
    TensorExtra {
        /// Its name.
        name: String,
    },

    /// A tensor has values that are not finite.
    #[error("the tensor {name:?} is not finite: {nan} of its values are NaN, {infinite} infinite")]
    NotFinite {
        /// Its name.
        name: String,
        /// Values that are NaN.
        nan: u64,
        /// Values that are infinite.
        infinite: u64,
    },
}

impl Mismatch {
    /// The name of the tensor that it is about, if it is about one.
    #[must_use]
    pub fn tensor(&self) -> Option<&str> {
        match self {
            Self::TensorDigest { name, .. }
            | Self::TensorDtype { name, .. }
            | Self::TensorShape { name, .. }
            | Self::TensorMissing { name }
            | Self::TensorExtra { name }
            | Self::NotFinite { name, .. } => Some(name),
            _ => None,
        }
    }

    /// The path of the file that it is about, if it is about one.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::BlobName { path, .. }
            | Self::FileDigest { path, .. }
            | Self::FileBytes { path, .. }
            | Self::FileExtra { path } => Some(path),
            Self::FileMissing { path } => Some(Path::new(path)),
            _ => None,
        }
    }

    pub(super) fn with_blob_name(file: &FileDigest) -> Option<Self> {
        let expected = file.expected_sha256?;
        (expected != file.sha256).then(|| Self::BlobName {
            path: file.path.clone(),
            expected,
            found: file.sha256,
        })
    }

    pub(super) fn not_finite(tensor: &TensorDigest) -> Option<Self> {
        let counts = tensor.non_finite.filter(|counts| !counts.is_none())?;
        Some(Self::NotFinite {
            name: tensor.name.clone(),
            nan: counts.nan,
            infinite: counts.infinite,
        })
    }
}
