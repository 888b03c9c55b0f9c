//! Into candle's tensors.

use std::collections::HashMap;
use std::error::Error;
use std::path::{Path, PathBuf};

use candle_core::safetensors::{self, MmapedSafetensors};
use candle_core::{CpuStorage, DType, Device, Result, Storage, Tensor};
use ckload::candle::{Recycled, Storages};
use ckload::{ByteSize, Checkpoint, Dtype, Loader};
use rayon::prelude::*;

use super::{Loaded, Loading, digest_of};

type Tensors = HashMap<String, Tensor>;

/// Maps the files and copies each tensor, by one thread or by rayon's.
pub(super) fn mmap(files: &[PathBuf], parallel: bool) -> Loading {
    let files = files.to_vec();
    Box::new(move || {
        // SAFETY: the benchmark's files are not written to while they are mapped.
        #[allow(unsafe_code)]
        let mapped = unsafe { MmapedSafetensors::multi(&files)? };
        let names: Vec<String> = mapped.tensors().into_iter().map(|(name, _)| name).collect();
        let copy = |name: String| Ok((name.clone(), mapped.load(&name, &Device::Cpu)?));
        let tensors: Result<Tensors> = if parallel {
            names.into_par_iter().map(copy).collect()
        } else {
            names.into_iter().map(copy).collect()
        };
        Ok(Box::new(tensors?))
    })
}

/// Reads each file whole, then copies each tensor.
pub(super) fn load(files: &[PathBuf]) -> Loading {
    let files = files.to_vec();
    Box::new(move || {
        let mut tensors = Tensors::new();
        for file in &files {
            tensors.extend(safetensors::load(file, &Device::Cpu)?);
        }
        Ok(Box::new(tensors))
    })
}

/// Through ckload, into memory that candle allocates.
pub(super) fn ckload(path: &Path) -> Loading {
    let path = path.to_owned();
    let loader = Loader::new();
    Box::new(move || {
        let checkpoint = Checkpoint::open(&path)?;
        Ok(Box::new(ckload::candle::load(
            &loader,
            &checkpoint,
            &Device::Cpu,
        )?))
    })
}

/// Through ckload, into memory that an earlier model has left.
pub(super) fn ckload_storages(path: &Path) -> std::result::Result<Loading, Box<dyn Error>> {
    let path = path.to_owned();
    let loader = Loader::new();
    let storages = Storages::new(ByteSize::b(u64::MAX));
    let dtype = match Checkpoint::open(&path)?
        .tensors()
        .first()
        .map(|info| info.dtype)
    {
        Some(Dtype::BF16) => DType::BF16,
        _ => DType::F32,
    };
    Ok(Box::new(move || {
        let checkpoint = Checkpoint::open(&path)?;
        let built = storages.build(&loader, &checkpoint, dtype, |vb| {
            let names = checkpoint.tensors().iter().map(|info| info.name.clone());
            names
                .map(|name| Ok((name.clone(), vb.get_unchecked(&name)?)))
                .collect::<Result<Tensors>>()
        });
        Ok(Box::new(built?))
    }))
}

impl Loaded for Tensors {
    fn digest(&self) -> std::result::Result<u64, Box<dyn Error>> {
        let digests: Result<Vec<u64>> = self
            .par_iter()
            .map(|(name, tensor)| digest(name, tensor))
            .collect();
        Ok(digests?.into_iter().fold(0, u64::wrapping_add))
    }
}

impl Loaded for Recycled<Tensors> {
    fn digest(&self) -> std::result::Result<u64, Box<dyn Error>> {
        Tensors::digest(self)
    }
}

fn digest(name: &str, tensor: &Tensor) -> Result<u64> {
    let (storage, layout) = tensor.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("{name} is not contiguous");
    };
    let Storage::Cpu(storage) = &*storage else {
        candle_core::bail!("{name} is not in memory");
    };
    match storage {
        CpuStorage::F32(values) => Ok(digest_of(name, bytemuck::cast_slice(&values[start..end]))),
        CpuStorage::BF16(values) => Ok(digest_of(name, bytemuck::cast_slice(&values[start..end]))),
        _ => candle_core::bail!("{name} is of neither type that the benchmark's models have"),
    }
}
