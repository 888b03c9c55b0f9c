//! Checkpoints as tensors of [burn](https://docs.rs/burn) 0.22, without a copy.
//!
//! [`CheckpointStore`] takes the place of burn-store's `SafetensorsStore` and `PytorchStore`, for every format that ckload reads:
//!
//! ```no_run
//! use burn_store::ModuleSnapshot;
//! use ckload::burn::CheckpointStore;
//! # fn load<M: ModuleSnapshot>(model: &mut M) -> Result<(), Box<dyn std::error::Error>> {
//!
//! // was: SafetensorsStore::from_file("model.safetensors")
//! model.load_from(&mut CheckpointStore::from_file("model.safetensors"))?;
//!
//! // was: PytorchStore::from_file("pytorch_model.bin")
//! model.load_from(&mut CheckpointStore::from_pytorch("pytorch_model.bin"))?;
//! # Ok(())
//! # }
//! ```
//!
//! Those who have no module take [`tensor_data`] of a [`Tensor`], or a [`pack_tensor`], which burn-store applies to a module and burn-pack
//! writes to a file.
//!
//! # Whose memory it is
//!
//! What burn gets are the bytes that were loaded, in the memory of the [`Loader`](crate::Loader)'s pool, by way of burn's shared `Bytes`.
//! The memory goes back to the pool when burn drops its last handle. What becomes of it depends on the backend:
//!
//! | backend | a tensor made of these bytes |
//! |---|---|
//! | `flex` | keeps them, without a copy; in-place operations copy a tensor first |
//! | `wgpu`, `cuda`, `rocm`, `metal`, `vulkan`, `cpu` | copies them to memory of its own, and drops them |
//! | `ndarray`, `tch` (deprecated) | copies them, and drops them |
//!
//! Adapters that change values copy, whatever the backend: burn-store's `PyTorchToBurnAdapter` transposes the weights of linear layers,
//! on one thread. A `Linear` of `LinearLayout::Col` needs neither: it takes PyTorch's weights as they are and views them transposed.
//!
//! # What burn has no type for
//!
//! The quantised blocks of GGUF, 4, 6 and 8-bit floats and complex numbers are refused by name, if they are asked for; see [`dtype`].
//! burn's own quantised tensors are arranged in another way, and nothing is converted here.

mod error;
mod names;
mod source;
mod store;
mod wanted;

use burn_core::tensor::{AllocationProperty, BoolStore, Bytes as BurnBytes, DType, TensorData};
use burn_store::burn_pack;

pub use self::error::Error;
pub use self::store::CheckpointStore;
use crate::{ByteOrder, Dtype, Tensor, TensorInfo};

/// The same element type in burn's terms; `None` for one that burn lacks.
///
/// ```
/// use burn_core::tensor::DType;
/// use ckload::Dtype;
///
/// assert_eq!(ckload::burn::dtype(Dtype::BF16), Some(DType::BF16));
/// assert_eq!(ckload::burn::dtype(Dtype::Q4_K), None);
/// ```
#[must_use]
pub fn dtype(dtype: Dtype) -> Option<DType> {
    Some(match dtype {
        Dtype::F64 => DType::F64,
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::I64 => DType::I64,
        Dtype::I32 => DType::I32,
        Dtype::I16 => DType::I16,
        Dtype::I8 => DType::I8,
        Dtype::U64 => DType::U64,
        Dtype::U32 => DType::U32,
        Dtype::U16 => DType::U16,
        Dtype::U8 => DType::U8,
        Dtype::BOOL => DType::Bool(BoolStore::Native),
        _ => return None,
    })
}

/// The tensor's elements as burn's `TensorData`, without a copy.
///
/// They keep the memory in which they lie, as a clone of [`Tensor::bytes`] does.
///
/// # Errors
///
/// burn has no such type; the bytes are in another order than this machine's; a boolean is neither 0 nor 1.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("model.safetensors");
/// # ckload::synth::Gpt2::TINY.blueprint().write_file(&path, 0)?;
/// use ckload::{Checkpoint, Loader};
///
/// let model = Loader::new().load(&Checkpoint::open(&path)?)?;
/// let wte = model.tensor("wte.weight")?;
/// let data = ckload::burn::tensor_data(wte)?;
/// assert_eq!(data.shape().as_slice(), [257, 96]);
/// assert_eq!(data.as_slice::<f32>()?, wte.as_slice::<f32>()?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn tensor_data(tensor: &Tensor) -> Result<TensorData, Error> {
    let dtype = checked_dtype(tensor.path(), tensor.info())?;
    let bytes = shared_bytes(tensor)?;
    Ok(TensorData::from_bytes(bytes, dims(tensor.shape()), dtype))
}

/// The tensor as what burn-store applies to a module and burn-pack writes, without a copy.
///
/// Its name is that of the checkpoint, and it has no parameter id: checkpoints know none.
///
/// # Errors
///
/// As [`tensor_data`].
///
/// A GGUF or PyTorch model becomes a burnpack file so:
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("model.safetensors");
/// # ckload::synth::Gpt2::TINY.blueprint().write_file(&path, 0)?;
/// use burn_store::burn_pack::Writer;
/// use ckload::burn::pack_tensor;
/// use ckload::{Checkpoint, Loader};
///
/// let model = Loader::new().load(&Checkpoint::open(&path)?)?;
/// let tensors: Result<Vec<_>, _> = model.tensors().iter().map(pack_tensor).collect();
/// Writer::new(tensors?).write_to_file(folder.path().join("model.bpk"))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn pack_tensor(tensor: &Tensor) -> Result<burn_pack::Tensor, Error> {
    let dtype = checked_dtype(tensor.path(), tensor.info())?;
    let bytes = shared_bytes(tensor)?;
    let shape = dims(tensor.shape());
    let name = tensor.name().to_owned();
    Ok(burn_pack::Tensor::new(name, dtype, shape, None, bytes))
}

/// burn's type of a tensor in the file at `path`, if burn can read its bytes as they are.
fn checked_dtype(path: &std::path::Path, info: &TensorInfo) -> Result<DType, Error> {
    let dtype = dtype(info.dtype).ok_or_else(|| Error::NoSuchDtype {
        path: path.to_owned(),
        tensor: info.name.clone(),
        dtype: info.dtype,
    })?;
    if dtype.size() > 1 && info.byte_order != ByteOrder::NATIVE {
        return Err(Error::Load(crate::Error::ForeignByteOrder {
            tensor: info.name.clone(),
            byte_order: info.byte_order,
        }));
    }
    Ok(dtype)
}

fn shared_bytes(tensor: &Tensor) -> Result<BurnBytes, Error> {
    check_booleans(tensor)?;
    // Not `Other`, which the ndarray backend would keep, only to copy it in each operation.
    let property = AllocationProperty::Native;
    Ok(BurnBytes::from_shared(tensor.bytes().clone(), property))
}

/// Refuses booleans that Rust does not have: some backends read the bytes as `bool` without looking.
fn check_booleans(tensor: &Tensor) -> Result<(), Error> {
    if tensor.dtype() != Dtype::BOOL {
        return Ok(());
    }
    match tensor.bytes().iter().position(|&byte| byte > 1) {
        None => Ok(()),
        Some(at) => Err(Error::NotBoolean {
            path: tensor.path().to_owned(),
            tensor: tensor.name().to_owned(),
            at,
            value: tensor.bytes()[at],
        }),
    }
}

fn dims(shape: &[u64]) -> Vec<usize> {
    shape.iter().map(|&dim| dim as usize).collect()
}
