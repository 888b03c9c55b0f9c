//! Memory that becomes a tensor's storage, and comes back from it.

use std::mem;

use bytemuck::allocation::{cast_vec, try_zeroed_vec};
use candle_core::op::BackpropOp;
use candle_core::{CpuStorage, DType, Error, Result, Storage, Tensor};
use float8::F8E4M3;
use rustix::mm::Advice;

use super::dtype::width;

/// From this size on huge pages are asked for: there is room for whole ones.
const HUGE_BYTES: usize = 4 << 20;

/// A vector of the elements' width, so that it can be one of any type that is as wide, without a copy.
pub(super) enum Memory {
    One(Vec<u8>),
    Two(Vec<u16>),
    Four(Vec<u32>),
    Eight(Vec<u64>),
}

impl Default for Memory {
    /// None at all.
    fn default() -> Self {
        Self::One(Vec::new())
    }
}

impl Memory {
    /// `bytes` zeros, up to the next whole element of `dtype`, which no one has touched yet.
    pub(super) fn fresh(dtype: DType, bytes: usize) -> Result<Self> {
        let width = width(dtype);
        let len = bytes.div_ceil(width);
        let memory = match width {
            1 => try_zeroed_vec(len).map(Self::One),
            2 => try_zeroed_vec(len).map(Self::Two),
            4 => try_zeroed_vec(len).map(Self::Four),
            _ => try_zeroed_vec(len).map(Self::Eight),
        };
        let mut memory = memory.map_err(|()| {
            Error::msg(format!(
                "the system has no {bytes} bytes of memory for tensors"
            ))
        })?;
        advise_huge_pages(memory.bytes_mut());
        Ok(memory)
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::One(values) => values,
            Self::Two(values) => bytemuck::cast_slice_mut(values),
            Self::Four(values) => bytemuck::cast_slice_mut(values),
            Self::Eight(values) => bytemuck::cast_slice_mut(values),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::One(values) => values.len(),
            Self::Two(values) => 2 * values.len(),
            Self::Four(values) => 4 * values.len(),
            Self::Eight(values) => 8 * values.len(),
        }
    }

    /// The bytes of one element.
    pub(super) fn width(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Two(_) => 2,
            Self::Four(_) => 4,
            Self::Eight(_) => 8,
        }
    }

    /// A tensor in this memory, of elements of `dtype`, which is as wide.
    pub(super) fn into_tensor(self, dtype: DType, dims: Vec<usize>) -> Tensor {
        let storage = Storage::Cpu(self.into_storage(dtype));
        Tensor::from_storage(storage, dims, BackpropOp::none(), false)
    }

    fn into_storage(self, dtype: DType) -> CpuStorage {
        match (self, dtype) {
            (Self::One(values), DType::F8E4M3) => {
                // Of one size and alignment, so the standard library keeps the memory.
                let values = values.into_iter().map(F8E4M3::from_bits);
                CpuStorage::F8E4M3(values.collect())
            }
            (Self::One(values), DType::F8E8M0) => CpuStorage::F8E8M0(values),
            (Self::One(values), DType::F6E2M3) => CpuStorage::F6E2M3(values),
            (Self::One(values), DType::F6E3M2) => CpuStorage::F6E3M2(values),
            (Self::One(values), DType::F4) => CpuStorage::F4(values),
            (Self::One(values), _) => CpuStorage::U8(values),
            (Self::Two(values), DType::F16) => CpuStorage::F16(cast_vec(values)),
            (Self::Two(values), DType::BF16) => CpuStorage::BF16(cast_vec(values)),
            (Self::Two(values), _) => CpuStorage::I16(cast_vec(values)),
            (Self::Four(values), DType::F32) => CpuStorage::F32(cast_vec(values)),
            (Self::Four(values), DType::I32) => CpuStorage::I32(cast_vec(values)),
            (Self::Four(values), _) => CpuStorage::U32(values),
            (Self::Eight(values), DType::F64) => CpuStorage::F64(cast_vec(values)),
            (Self::Eight(values), _) => CpuStorage::I64(cast_vec(values)),
        }
    }

    /// Takes the memory out of `storage`, in which nothing is left that an operation of candle's would touch.
    ///
    /// What is left is empty, of a type that candle cannot compute with, and not of the tensor's. Operations check the type first, since some
    /// of them go by the tensor's shape alone after that; those that do not check it index, and panic.
    pub(super) fn take_out_of(storage: &mut CpuStorage) -> Self {
        let left = match storage {
            CpuStorage::F6E2M3(_) => CpuStorage::F6E3M2(Vec::new()),
            _ => CpuStorage::F6E2M3(Vec::new()),
        };
        match mem::replace(storage, left) {
            CpuStorage::U8(values)
            | CpuStorage::F8E8M0(values)
            | CpuStorage::F6E2M3(values)
            | CpuStorage::F6E3M2(values)
            | CpuStorage::F4(values) => Self::One(values),
            CpuStorage::F8E4M3(values) => {
                Self::One(values.into_iter().map(|value| value.to_bits()).collect())
            }
            CpuStorage::I16(values) => Self::Two(cast_vec(values)),
            CpuStorage::F16(values) => Self::Two(cast_vec(values)),
            CpuStorage::BF16(values) => Self::Two(cast_vec(values)),
            CpuStorage::U32(values) => Self::Four(values),
            CpuStorage::I32(values) => Self::Four(cast_vec(values)),
            CpuStorage::F32(values) => Self::Four(cast_vec(values)),
            CpuStorage::I64(values) => Self::Eight(cast_vec(values)),
            CpuStorage::F64(values) => Self::Eight(cast_vec(values)),
        }
    }
}

/// Asks for huge pages behind `memory` before it is touched: most of what fresh memory costs is page faults.
fn advise_huge_pages(memory: &mut [u8]) {
    if memory.len() < HUGE_BYTES {
        return;
    }
    let page = rustix::param::page_size();
    let start = memory.as_mut_ptr();
    let lead = start.align_offset(page);
    let len = memory.len().saturating_sub(lead) / page * page;
    // Where the system has none to give, small pages do as well.
    // SAFETY: The range is of whole pages that lie within `memory`, which is borrowed mutably. The advice changes no content: it only
    // says by how large pages the system may back it.
    #[allow(unsafe_code)]
    let _ = unsafe { rustix::mm::madvise(start.add(lead).cast(), len, Advice::LinuxHugepage) };
}
