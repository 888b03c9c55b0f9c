//! Elements of one type into elements of another, bit for bit as candle does it.

use candle_core::{CpuStorage, DType, Device, Result, Storage, Tensor};
use float8::F8E4M3;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::dtype;
use crate::Dtype;

/// What candle converts is copied in and out in pieces of so many elements, which stay in the CPU's cache.
const PIECE: usize = 16 << 10;

/// Converts `from` into `to`, which has room for exactly as many elements; both are aligned for theirs.
///
/// # Errors
///
/// Candle does not convert between these types.
pub(super) fn convert(
    from_dtype: Dtype,
    from: &[u8],
    to_dtype: DType,
    to: &mut [u8],
) -> Result<()> {
    if from.is_empty() {
        return Ok(()); // an empty slice need not be aligned
    }
    match (from_dtype, to_dtype) {
        (Dtype::BF16, DType::F32) => {
            let from: &[bf16] = bytemuck::cast_slice(from);
            from.convert_to_f32_slice(bytemuck::cast_slice_mut(to));
        }
        (Dtype::F16, DType::F32) => {
            let from: &[f16] = bytemuck::cast_slice(from);
            from.convert_to_f32_slice(bytemuck::cast_slice_mut(to));
        }
        (Dtype::F32, DType::BF16) => {
            let to: &mut [bf16] = bytemuck::cast_slice_mut(to);
            to.convert_from_f32_slice(bytemuck::cast_slice(from));
        }
        (Dtype::F32, DType::F16) => {
            let to: &mut [f16] = bytemuck::cast_slice_mut(to);
            to.convert_from_f32_slice(bytemuck::cast_slice(from));
        }
        (Dtype::U16, DType::U32) => widen(bytemuck::cast_slice(from), bytemuck::cast_slice_mut(to)),
        (Dtype::F8_E4M3, DType::F64) => spread(from, bytemuck::cast_slice_mut(to)),
        _ => by_candle(from_dtype, from, to_dtype, to)?,
    }
    Ok(())
}

fn widen(from: &[u16], to: &mut [u32]) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to = u32::from(from);
    }
}

fn spread(from: &[u8], to: &mut [f64]) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to = F8E4M3::from_bits(from).to_f64();
    }
}

/// Whether candle's `to_dtype` comes back: version 0.11 calls itself without end for this one pair, on the CPU.
pub(super) fn is_safe(from: DType, to: DType) -> bool {
    (from, to) != (DType::F8E4M3, DType::F64)
}

/// Has candle convert, so that every pair that it knows comes out as its own.
fn by_candle(from_dtype: Dtype, from: &[u8], to_dtype: DType, to: &mut [u8]) -> Result<()> {
    let from_width = from_dtype.block().bytes as usize;
    let from = from.chunks(PIECE * from_width);
    let to = to.chunks_mut(PIECE * dtype::width(to_dtype));
    for (from, to) in from.zip(to) {
        let shape = [from.len() / from_width];
        let piece = raw(from_dtype, from, &shape, &Device::Cpu)?.to_dtype(to_dtype)?;
        let (storage, _) = piece.storage_and_layout();
        if let Storage::Cpu(storage) = &*storage {
            copy_out(storage, to);
        }
    }
    Ok(())
}

/// A tensor on `device` of these bytes, with one copy, which may go on: see [`upload::finish`](super::upload::finish).
pub(super) fn raw(
    from_dtype: Dtype,
    bytes: &[u8],
    shape: &[usize],
    device: &Device,
) -> Result<Tensor> {
    match (from_dtype, dtype::of(from_dtype)) {
        (Dtype::U16, _) => {
            let values: &[u16] = if bytes.is_empty() {
                &[] // an empty slice need not be aligned
            } else {
                bytemuck::cast_slice(bytes)
            };
            let values: Vec<u32> = values.iter().map(|&value| u32::from(value)).collect();
            Tensor::from_vec(values, shape, device)
        }
        (_, Some(dtype)) => Tensor::from_raw_buffer(bytes, dtype, shape, device),
        (_, None) => candle_core::bail!("candle has no type for {from_dtype}"),
    }
}

fn copy_out(storage: &CpuStorage, to: &mut [u8]) {
    let bytes: &[u8] = match storage {
        CpuStorage::U8(values)
        | CpuStorage::F8E8M0(values)
        | CpuStorage::F6E2M3(values)
        | CpuStorage::F6E3M2(values)
        | CpuStorage::F4(values) => values,
        CpuStorage::I16(values) => bytemuck::cast_slice(values),
        CpuStorage::F16(values) => bytemuck::cast_slice(values),
        CpuStorage::BF16(values) => bytemuck::cast_slice(values),
        CpuStorage::U32(values) => bytemuck::cast_slice(values),
        CpuStorage::I32(values) => bytemuck::cast_slice(values),
        CpuStorage::F32(values) => bytemuck::cast_slice(values),
        CpuStorage::I64(values) => bytemuck::cast_slice(values),
        CpuStorage::F64(values) => bytemuck::cast_slice(values),
        CpuStorage::F8E4M3(values) => {
            for (to, value) in to.iter_mut().zip(values) {
                *to = value.to_bits();
            }
            return;
        }
    };
    to.copy_from_slice(bytes);
}
