//! GGUF tensors as candle's `QTensor`s: blocks stay blocks.

use std::borrow::Cow;
use std::collections::HashMap;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{Device, Error, Result};

use super::{crew, dtype, error, upload};
use crate::{Cancel, Checkpoint, Dtype, Loader, Stream, Tensor, TensorInfo};

/// Why candle has no `QTensor` for a tensor.
#[derive(Debug, thiserror::Error)]
#[error(
    "the tensor {tensor:?} is {dtype}, for which candle has no quantised type; leave it out (`Select::exclude`)"
)]
struct NoQuantizedType {
    tensor: String,
    dtype: Dtype,
}

/// Loads all tensors as `QTensor`s, by name: the blocks of a GGUF file as they are, and what is not quantised in it as well.
///
/// # Errors
///
/// The checkpoint cannot be loaded. Candle cannot hold one of its tensors: it lacks the type (of the blocks it has `Q4_0` to `Q8_1` and `Q2_K` to
/// `Q8_K`, of the rest `F32`, `F16` and `BF16`), the tensor is a scalar, or its rows are not whole blocks.
///
/// ```no_run
/// use std::sync::Arc;
///
/// use candle_core::{Device, quantized::QMatMul};
/// use ckload::{Checkpoint, Loader};
///
/// let checkpoint = Checkpoint::open("llama.Q4_K_M.gguf")?;
/// let mut tensors = ckload::candle::load_quantized(&Loader::new(), &checkpoint, &Device::Cpu)?;
/// let query = tensors.remove("blk.0.attn_q.weight").expect("a Llama has it");
/// let query = QMatMul::from_arc(Arc::new(query))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn load_quantized(
    loader: &Loader,
    checkpoint: &Checkpoint,
    device: &Device,
) -> Result<HashMap<String, QTensor>> {
    for info in checkpoint.tensors() {
        block_type(info)?;
    }
    let cancel = Cancel::new();
    let loader = loader.clone().cancel_with(&cancel);
    let stream = loader.stream(checkpoint).map_err(error::wrap)?;
    if device.is_cpu() {
        let others = loader.policy(checkpoint).threads.saturating_sub(1);
        let taken = crew::run(others, &cancel, || take_all(&stream))?;
        return Ok(taken.into_iter().flatten().collect());
    }
    let mut tensors = HashMap::new();
    upload::all(
        &stream,
        device,
        |tensor| named(tensor, device),
        |(name, tensor)| {
            tensors.insert(name, tensor);
        },
    )?;
    Ok(tensors)
}

fn take_all(stream: &Stream) -> Result<HashMap<String, QTensor>> {
    let mut tensors = HashMap::new();
    while let Some(tensor) = stream.receive() {
        let (name, tensor) = named(&tensor.map_err(error::wrap)?, &Device::Cpu)?;
        tensors.insert(name, tensor);
    }
    Ok(tensors)
}

fn named(tensor: &Tensor, device: &Device) -> Result<(String, QTensor)> {
    let name = tensor.name().to_owned();
    let quantized = quantized(tensor, device);
    let quantized = quantized.map_err(|error| error.context(format!("the tensor {name:?}")))?;
    Ok((name, quantized))
}

fn quantized(tensor: &Tensor, device: &Device) -> Result<QTensor> {
    let info = tensor.info();
    let bytes: &[u8] = if tensor.bytes().is_empty() {
        bytemuck::cast_slice::<u64, u8>(&[]) // candle wants it aligned even so
    } else {
        tensor.bytes()
    };
    let storage = QStorage::from_data(Cow::Borrowed(bytes), device, block_type(info)?)?;
    QTensor::new(storage, dtype::dims(info))
}

/// What candle calls the type of a tensor's blocks.
fn block_type(info: &TensorInfo) -> Result<GgmlDType> {
    dtype::check_bytes(info)?;
    Ok(match info.dtype {
        Dtype::F32 => GgmlDType::F32,
        Dtype::F16 => GgmlDType::F16,
        Dtype::BF16 => GgmlDType::BF16,
        Dtype::Q4_0 => GgmlDType::Q4_0,
        Dtype::Q4_1 => GgmlDType::Q4_1,
        Dtype::Q5_0 => GgmlDType::Q5_0,
        Dtype::Q5_1 => GgmlDType::Q5_1,
        Dtype::Q8_0 => GgmlDType::Q8_0,
        Dtype::Q8_1 => GgmlDType::Q8_1,
        Dtype::Q2_K => GgmlDType::Q2K,
        Dtype::Q3_K => GgmlDType::Q3K,
        Dtype::Q4_K => GgmlDType::Q4K,
        Dtype::Q5_K => GgmlDType::Q5K,
        Dtype::Q6_K => GgmlDType::Q6K,
        Dtype::Q8_K => GgmlDType::Q8K,
        dtype => {
            return Err(Error::wrap(NoQuantizedType {
                tensor: info.name.clone(),
                dtype,
            }));
        }
    })
}
