//! A tensor that is loaded.

use std::any::type_name;
use std::fmt;
use std::path::Path;

use bytes::Bytes;

use crate::{ByteOrder, Checkpoint, Digest, Dtype, Element, Error, TensorInfo};

/// A tensor in memory: what the checkpoint says of it, and its bytes.
///
/// Cloning is cheap and shares the bytes. They are aligned for the dtype, and in the file's [byte order](TensorInfo::byte_order), which is
/// little-endian but for rare files. Dropping the last tensor of a buffer gives the buffer back to its pool.
#[derive(Clone)]
pub struct Tensor {
    checkpoint: Checkpoint,
    index: usize,
    bytes: Bytes,
    /// Boxed: a model can have a hundred thousand tensors.
    sha256: Option<Box<Digest>>,
}

impl Tensor {
    /// The tensor at `index` of the checkpoint's tensors.
    pub(crate) fn new(checkpoint: &Checkpoint, index: usize, bytes: Bytes) -> Self {
        debug_assert_eq!(bytes.len() as u64, checkpoint.tensors()[index].bytes);
        Self {
            checkpoint: checkpoint.clone(),
            index,
            bytes,
            sha256: None,
        }
    }

    /// The same tensor, with the digest of its bytes.
    pub(crate) fn hashed(self) -> Self {
        let sha256 = Some(Box::new(Digest::of(&self.bytes)));
        Self { sha256, ..self }
    }

    /// Its number among the checkpoint's tensors.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// What the checkpoint says of the tensor.
    #[must_use]
    pub fn info(&self) -> &TensorInfo {
        &self.checkpoint.tensors()[self.index]
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.info().name
    }

    /// The file that it was loaded from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.checkpoint.files()[self.info().file].path
    }

    /// The type of its elements.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.info().dtype
    }

    /// Its dimensions, outermost first; empty for a scalar.
    #[must_use]
    pub fn shape(&self) -> &[u64] {
        &self.info().shape
    }

    /// Its bytes, in row-major order, aligned for its dtype.
    ///
    /// A clone or a slice of them keeps the whole buffer in which they lie: in a [`Model`](crate::Model) that may be many tensors', in
    /// a [`Stream`](crate::Stream) it is this tensor's alone.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Its bytes, without the rest.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// The SHA-256 of its bytes as they were loaded; `None` unless the loader was asked for [`digests`](crate::Loader::digests).
    #[must_use]
    pub fn sha256(&self) -> Option<&Digest> {
        self.sha256.as_deref()
    }

    /// Its elements, without a copy.
    ///
    /// # Errors
    ///
    /// `T` is not the type of its elements; see [`Element`]. The bytes are in another order than this machine's.
    pub fn as_slice<T: Element>(&self) -> Result<&[T], Error> {
        if !T::DTYPES.contains(&self.dtype()) {
            return Err(Error::WrongDtype {
                tensor: self.name().to_owned(),
                dtype: self.dtype(),
                requested: type_name::<T>(),
            });
        }
        if size_of::<T>() > 1 && self.info().byte_order != ByteOrder::NATIVE {
            return Err(Error::ForeignByteOrder {
                tensor: self.name().to_owned(),
                byte_order: self.info().byte_order,
            });
        }
        if self.bytes.is_empty() {
            return Ok(&[]); // an empty `Bytes` is not aligned
        }
        Ok(bytemuck::cast_slice(&self.bytes))
    }

    /// The tensor as a view of the safetensors crate, without a copy.
    ///
    /// # Errors
    ///
    /// safetensors has no such type; the bytes are big-endian, which its views never are.
    #[cfg(feature = "safetensors")]
    pub fn view(&self) -> Result<safetensors::tensor::TensorView<'_>, Error> {
        let not_held = || Error::NotInSafetensors {
            path: self.path().to_owned(),
            tensor: self.name().to_owned(),
            dtype: self.dtype(),
        };
        let dtype = self.dtype().to_safetensors().ok_or_else(not_held)?;
        if self.dtype().alignment() > 1 && self.info().byte_order != ByteOrder::Little {
            return Err(Error::ForeignByteOrder {
                tensor: self.name().to_owned(),
                byte_order: self.info().byte_order,
            });
        }
        let shape = self.shape().iter().map(|&dim| dim as usize).collect();
        // Sizes were checked when the header was read: this cannot fail.
        safetensors::tensor::TensorView::new(dtype, shape, &self.bytes).map_err(|_| not_held())
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tensor")
            .field("name", &self.name())
            .field("dtype", &self.dtype())
            .field("shape", &self.shape())
            .finish_non_exhaustive()
    }
}
