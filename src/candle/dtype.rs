//! Which of candle's types a tensor becomes, and which tensors candle cannot hold.

use candle_core::{DType, Error, Result};

use super::error;
use crate::{ByteOrder, Dtype, TensorInfo};

/// Why candle cannot hold a tensor.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    #[error(
        "the tensor {tensor:?} is {dtype}, for which candle has no type; leave it out (`Select::exclude`), or take its bytes from \
         `Loader::load`"
    )]
    NoType { tensor: String, dtype: Dtype },

    #[error(
        "the tensor {tensor:?} is {dtype}, which is packed in blocks: `ckload::candle::load_quantized` loads it"
    )]
    Quantized { tensor: String, dtype: Dtype },

    #[error(
        "the dimensions {shape:?} of the tensor {tensor:?} are too large to count its bytes; leave it out (`Select::exclude`)"
    )]
    Overflow { tensor: String, shape: Vec<u64> },

    #[error(
        "the tensor {tensor:?} is {dtype}, which candle cannot convert to {wanted:?}; ask for it as {from:?}"
    )]
    NoConversion {
        tensor: String,
        dtype: Dtype,
        from: DType,
        wanted: DType,
    },
}

/// What candle calls a type, as its loader of safetensors has it: `U16` becomes `U32`.
pub(super) fn of(dtype: Dtype) -> Option<DType> {
    Some(match dtype {
        Dtype::U8 => DType::U8,
        Dtype::U16 | Dtype::U32 => DType::U32,
        Dtype::I16 => DType::I16,
        Dtype::I32 => DType::I32,
        Dtype::I64 => DType::I64,
        Dtype::BF16 => DType::BF16,
        Dtype::F16 => DType::F16,
        Dtype::F32 => DType::F32,
        Dtype::F64 => DType::F64,
        Dtype::F8_E4M3 => DType::F8E4M3,
        Dtype::F8_E8M0 => DType::F8E8M0,
        Dtype::F6_E2M3 => DType::F6E2M3,
        Dtype::F6_E3M2 => DType::F6E3M2,
        Dtype::F4 => DType::F4,
        _ => return None,
    })
}

/// Whether candle keeps such a tensor as bytes that it neither reads nor cuts.
pub(super) fn is_opaque(dtype: DType) -> bool {
    matches!(
        dtype,
        DType::F8E8M0 | DType::F6E2M3 | DType::F6E3M2 | DType::F4
    )
}

/// The type in which a tensor is to be held: `wanted`, or its own.
///
/// # Errors
///
/// Candle has no such type, or cannot convert to it. The tensor's bytes are in another order than this machine's.
pub(super) fn held_as(info: &TensorInfo, wanted: Option<DType>) -> Result<DType> {
    let tensor = || info.name.clone();
    let dtype = info.dtype;
    let from = of(dtype).ok_or_else(|| {
        Error::wrap(if dtype.block().elements > 1 {
            Unfit::Quantized {
                tensor: tensor(),
                dtype,
            }
        } else {
            Unfit::NoType {
                tensor: tensor(),
                dtype,
            }
        })
    })?;
    check_bytes(info)?;
    let wanted = wanted.unwrap_or(from);
    if wanted != from && (is_opaque(wanted) || is_opaque(from)) {
        return Err(Error::wrap(Unfit::NoConversion {
            tensor: tensor(),
            dtype,
            from,
            wanted,
        }));
    }
    Ok(wanted)
}

/// Refuses what candle would misread, of whatever type it is.
///
/// # Errors
///
/// The tensor's bytes are in another order than this machine's, or its dimensions overflow.
pub(super) fn check_bytes(info: &TensorInfo) -> Result<()> {
    if info.dtype.alignment() > 1 && info.byte_order != ByteOrder::NATIVE {
        return Err(error::wrap(crate::Error::ForeignByteOrder {
            tensor: info.name.clone(),
            byte_order: info.byte_order,
        }));
    }
    // Candle multiplies dimensions without a check, from either end; the widest type that they can be converted to takes 8 bytes an element.
    let mut dims = info.shape.iter().map(|&dim| dim.max(1));
    if dims.try_fold(8, u64::checked_mul).is_none() {
        return Err(Error::wrap(Unfit::Overflow {
            tensor: info.name.clone(),
            shape: info.shape.clone(),
        }));
    }
    Ok(())
}

/// Whether a tensor's bytes change when it is held as `dtype`.
pub(super) fn is_converted(info: &TensorInfo, dtype: DType) -> bool {
    info.dtype == Dtype::U16 || of(info.dtype) != Some(dtype)
}

/// The dimensions as candle has them.
pub(super) fn dims(info: &TensorInfo) -> Vec<usize> {
    info.shape.iter().map(|&len| len as usize).collect()
}

/// The bytes of one element in memory; 1 for what is packed.
pub(super) fn width(dtype: DType) -> usize {
    dtype.size_in_bytes().max(1)
}
