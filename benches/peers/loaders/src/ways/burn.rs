//! Into burn's `TensorData`, of which its backends make tensors (`flex` without another copy).

use std::collections::HashMap;
use std::error::Error;
use std::path::{Path, PathBuf};

use burn_core::tensor::TensorData;
use burn_store::{ModuleStore, SafetensorsStore, bridge};
use ckload::{Checkpoint, Loader};

use super::{Loaded, Loading, digest_of};

type Tensors = HashMap<String, TensorData>;

/// By burn's own store, which maps a file and copies each tensor.
pub(super) fn store(files: &[PathBuf]) -> Loading {
    let files = files.to_vec();
    Box::new(move || {
        let mut tensors = Tensors::new();
        for file in &files {
            let mut store = SafetensorsStore::from_file(file);
            let all = store.get_all_tensors().map_err(|error| error.to_string())?;
            for (name, tensor) in all {
                tensors.insert(name.clone(), bridge::to_data(tensor)?);
            }
        }
        Ok(Box::new(tensors))
    })
}

/// Through ckload.
pub(super) fn ckload(path: &Path) -> Loading {
    let path = path.to_owned();
    let loader = Loader::new();
    Box::new(move || {
        let model = loader.load(&Checkpoint::open(&path)?)?;
        let tensors = model.tensors().iter();
        let tensors = tensors
            .map(|tensor| Ok((tensor.name().to_owned(), ckload::burn::tensor_data(tensor)?)));
        Ok(Box::new(
            tensors.collect::<Result<Tensors, ckload::burn::Error>>()?,
        ))
    })
}

impl Loaded for Tensors {
    fn digest(&self) -> Result<u64, Box<dyn Error>> {
        let digests = self
            .iter()
            .map(|(name, data)| digest_of(name, data.as_bytes()));
        Ok(digests.fold(0, u64::wrapping_add))
    }
}
