//! Files to load, and tensors to compare.

use std::path::Path;

use candle_core::{CpuStorage, DType, Error, Storage, Tensor};
use fastrand::Rng;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize_to_file};

/// What candle has a type for, and converts.
pub(crate) const PLAIN: [(Dtype, DType); 10] = [
    (Dtype::U8, DType::U8),
    (Dtype::U32, DType::U32),
    (Dtype::I16, DType::I16),
    (Dtype::I32, DType::I32),
    (Dtype::I64, DType::I64),
    (Dtype::BF16, DType::BF16),
    (Dtype::F16, DType::F16),
    (Dtype::F32, DType::F32),
    (Dtype::F64, DType::F64),
    (Dtype::F8_E4M3, DType::F8E4M3),
];

/// A tensor to be written.
pub(crate) struct Content {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

impl Content {
    /// Random bytes: every kind of number, also those that are none.
    pub(crate) fn random(name: &str, dtype: Dtype, shape: &[usize], random: &mut Rng) -> Self {
        let elements: usize = shape.iter().product();
        let mut bytes = vec![0; elements * dtype.bitsize() / 8];
        random.fill(&mut bytes);
        Self {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
            bytes,
        }
    }
}

/// Writes `contents` with the published library.
pub(crate) fn write(path: &Path, contents: &[Content]) {
    let views = contents.iter().map(|content| {
        let view = TensorView::new(content.dtype, content.shape.clone(), &content.bytes);
        (&content.name, view.expect("bytes of the shape's size"))
    });
    serialize_to_file(views, None, path).expect("a disk with room");
}

/// Writes the same without padding its header, so that the data begin at an odd offset.
pub(crate) fn write_odd(path: &Path, contents: &[Content]) {
    let padded = path.with_extension("padded");
    write(&padded, contents);
    let file = std::fs::read(&padded).expect("just written");
    let len = u64::from_le_bytes(file[..8].try_into().expect("8 bytes")) as usize;
    let (header, data) = file[8..].split_at(len);
    let mut header = header.trim_ascii_end().to_vec();
    while header.len() % 2 == 0 {
        header.push(b' ');
    }
    let mut odd = (header.len() as u64).to_le_bytes().to_vec();
    odd.extend_from_slice(&header);
    odd.extend_from_slice(data);
    std::fs::write(path, odd).expect("a disk with room");
    std::fs::remove_file(padded).expect("just written");
}

/// The type, the shape and the bytes of a tensor, to compare bit by bit.
pub(crate) fn bits(tensor: &Tensor) -> (DType, Vec<usize>, Vec<u8>) {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        panic!("a tensor on the CPU");
    };
    let (start, end) = layout.contiguous_offsets().expect("it is contiguous");
    let bytes = match storage {
        CpuStorage::U8(values) => values[start..end].to_vec(),
        CpuStorage::U32(values) => bytemuck::cast_slice(&values[start..end]).to_vec(),
        CpuStorage::I16(values) => bytemuck::cast_slice(&values[start..end]).to_vec(),
        CpuStorage::I32(values) => bytemuck::cast_slice(&values[start..end]).to_vec(),
        CpuStorage::I64(values) => bytemuck::cast_slice(&values[start..end]).to_vec(),
        CpuStorage::BF16(values) => bytemuck::cast_slice(&values[start..end]).to_vec(),
        CpuStorage::F16(values) => bytemuck::cast_slice(&values[start..end]).to_vec(),
        CpuStorage::F32(values) => bytemuck::cast_slice(&values[start..end]).to_vec(),
        CpuStorage::F64(values) => bytemuck::cast_slice(&values[start..end]).to_vec(),
        CpuStorage::F8E4M3(values) => values[start..end].iter().map(|v| v.to_bits()).collect(),
        // Candle keeps all bytes of these, and counts elements.
        CpuStorage::F6E2M3(bytes)
        | CpuStorage::F6E3M2(bytes)
        | CpuStorage::F4(bytes)
        | CpuStorage::F8E8M0(bytes) => bytes.clone(),
    };
    (tensor.dtype(), tensor.dims().to_vec(), bytes)
}

/// An error's message, without where it was made.
pub(crate) fn message(error: &Error) -> String {
    match error {
        Error::WithBacktrace { inner, .. } => message(inner),
        error => error.to_string(),
    }
}

/// A seed, which is printed if the test fails.
pub(crate) fn seed() -> u64 {
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("SEED={seed}");
    seed
}
