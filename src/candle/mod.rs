//! Checkpoints as [candle](candle_core)'s tensors, loaded in parallel and ahead of the model that asks for them.
//!
//! | candle's | ours |
//! |---|---|
//! | `VarBuilder::from_mmaped_safetensors` (`unsafe`), `from_pth`, `from_npz` | [`var_builder`], for every format |
//! | `ShardedSafeTensors::var_builder` (`unsafe`) | [`sharded_var_builder`] |
//! | `candle_core::safetensors::load` | [`load`] |
//! | `gguf_file::Content::read`, then `tensor` for each | [`load_quantized`] |
//! | nothing | [`Storages`]: the memory of the model before, for the next one |
//!
//! # Storages
//!
//! On the CPU tensors of one type share storages of up to 64 MiB, as views that `narrow` gives do: fewer and larger pieces of memory cost
//! fewer page faults, with huge pages hardly any. A storage is freed with the last tensor in it, so a model that leaves out tensors should
//! not load them ([`Checkpoint::select`]). Tensors are contiguous and aligned for their type. What is of the right type in its file is read
//! straight into place; the rest is converted on its way, piece by piece, to the same bits that candle's `to_dtype` gives.
//!
//! # Onto a GPU
//!
//! Tensors are copied one by one, as they arrive from a stream, and are there when they can be had. The feature `cuda` makes these copies several times as fast:
//! its `HostRegister` has the pool's buffers known to the driver.
//!
//! # What candle cannot hold
//!
//! Types that candle lacks are errors when the tensor is asked for; the others load. These are `BOOL`, `I8`, `U64`, complex numbers, and most 8-bit
//! floats. Quantised blocks are for [`load_quantized`]. `U16` becomes `U32`, as in candle's own loader. A file in the other byte order is refused.

mod backend;
mod convert;
mod crew;
mod dtype;
mod error;
mod fill;
mod layout;
mod loading;
mod memory;
mod quantized;
mod sharded;
mod storages;
mod upload;

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;

use self::backend::{Ahead, Resident};
pub use self::error::cause;
use self::loading::{Job, Loading};
pub use self::quantized::load_quantized;
pub use self::sharded::{Sharded, sharded_var_builder};
pub use self::storages::{Recycled, Storages, StoragesStats};
use crate::{Checkpoint, Loader, Model};

/// A `VarBuilder` over the tensors of `checkpoint`, which begin to load at once, in the background, as `dtype` on `device`.
///
/// `get` waits until the tensor is there. A tensor that is asked for as another type than `dtype` comes from the values in the file, not from
/// rounded ones, for the price of a second read. Dropping the builder and its clones ends the load.
///
/// # Errors
///
/// The thread cannot be started. What goes wrong later, with the file, the tensor and the remedy, comes out of every `get`.
///
/// ```
/// use candle_core::{DType, Device};
/// use ckload::{Checkpoint, Loader};
/// # let folder = tempfile::tempdir()?;
/// # ckload::synth::Gpt2::TINY.blueprint().write_file(folder.path().join("model.safetensors"), 0)?;
/// # let path = folder.path();
///
/// let checkpoint = Checkpoint::open(path)?;
/// let vb = ckload::candle::var_builder(&Loader::new(), &checkpoint, DType::F32, &Device::Cpu)?;
/// let norm = candle_nn::layer_norm(96, 1e-5, vb.pp("h.0.ln_1"))?;
/// # assert_eq!(norm.weight().dims(), [96]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn var_builder(
    loader: &Loader,
    checkpoint: &Checkpoint,
    dtype: DType,
    device: &Device,
) -> Result<VarBuilder<'static>> {
    let loading = Loading::start(Job {
        loader: loader.clone(),
        checkpoint: checkpoint.clone(),
        dtype: Some(dtype),
        device: device.clone(),
        storages: None,
    })?;
    let backend = Box::new(Ahead::new(Arc::new(loading)));
    Ok(VarBuilder::from_backend(backend, dtype, device.clone()))
}

/// A `VarBuilder` over a model that is in memory already; each `get` copies a tensor, and converts it if need be.
///
/// It keeps the model's memory until it is dropped.
///
/// ```
/// use candle_core::{DType, Device};
/// use ckload::{Checkpoint, Loader};
/// # let folder = tempfile::tempdir()?;
/// # ckload::synth::Gpt2::TINY.blueprint().write_file(folder.path().join("model.safetensors"), 0)?;
/// # let path = folder.path();
///
/// let model = Loader::new().load(&Checkpoint::open(path)?)?;
/// let vb = ckload::candle::var_builder_of(&model, DType::F16, &Device::Cpu);
/// assert_eq!(vb.get((257, 96), "wte.weight")?.dtype(), DType::F16);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn var_builder_of(model: &Model, dtype: DType, device: &Device) -> VarBuilder<'static> {
    let backend = Box::new(Resident(model.clone()));
    VarBuilder::from_backend(backend, dtype, device.clone())
}

/// Loads all tensors, each of its own type, by name.
///
/// # Errors
///
/// The checkpoint cannot be loaded, or candle cannot hold one of its tensors; see [above](self#what-candle-cannot-hold).
///
/// ```
/// use candle_core::Device;
/// use ckload::{Checkpoint, Loader};
/// # let folder = tempfile::tempdir()?;
/// # ckload::synth::Gpt2::TINY.blueprint().write_file(folder.path().join("model.safetensors"), 0)?;
/// # let path = folder.path();
///
/// let tensors = ckload::candle::load(&Loader::new(), &Checkpoint::open(path)?, &Device::Cpu)?;
/// assert_eq!(tensors["wte.weight"].dims(), [257, 96]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn load(
    loader: &Loader,
    checkpoint: &Checkpoint,
    device: &Device,
) -> Result<HashMap<String, Tensor>> {
    for info in checkpoint.tensors() {
        dtype::held_as(info, None)?;
    }
    let loading = Loading::whole(Job {
        loader: loader.clone(),
        checkpoint: checkpoint.clone(),
        dtype: None,
        device: device.clone(),
        storages: None,
    })?;
    let tensors = checkpoint.tensors().iter();
    tensors
        .map(|info| Ok((info.name.clone(), loading.tensor(info)?)))
        .collect()
}

/// A tensor that is loaded as one of candle's on `device`, with one copy.
///
/// # Errors
///
/// Candle cannot hold the tensor; see [above](self#what-candle-cannot-hold).
///
/// ```
/// use candle_core::Device;
/// use ckload::{Checkpoint, Loader};
/// # let folder = tempfile::tempdir()?;
/// # ckload::synth::Gpt2::TINY.blueprint().write_file(folder.path().join("model.safetensors"), 0)?;
/// # let path = folder.path();
///
/// for tensor in Loader::new().stream(&Checkpoint::open(path)?)? {
///     let tensor = ckload::candle::tensor(&tensor?, &Device::Cpu)?;
///     println!("{tensor:?}");
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn tensor(tensor: &crate::Tensor, device: &Device) -> Result<Tensor> {
    let info = tensor.info();
    dtype::held_as(info, None)?;
    let copied = convert::raw(info.dtype, tensor.bytes(), &dtype::dims(info), device)?;
    upload::finish(device)?;
    Ok(copied)
}
