//! Into views of the safetensors crate.

use std::error::Error;
use std::path::{Path, PathBuf};

use ckload::{Checkpoint, Loader, Model};
use safetensors::SafeTensors;

use super::{Loaded, Loading, digest_of};

/// Files as they are read, to be viewed in place.
struct Files(Vec<Vec<u8>>);

/// Reads each file whole, and views it.
pub(super) fn read(files: &[PathBuf]) -> Loading {
    let files = files.to_vec();
    Box::new(move || {
        let mut read = Vec::new();
        for file in &files {
            let bytes = std::fs::read(file)?;
            SafeTensors::deserialize(&bytes)?;
            read.push(bytes);
        }
        Ok(Box::new(Files(read)))
    })
}

/// Through ckload.
pub(super) fn ckload(path: &Path) -> Loading {
    let path = path.to_owned();
    let loader = Loader::new();
    Box::new(move || {
        let checkpoint = Checkpoint::open(&path)?;
        Ok(Box::new(loader.load(&checkpoint)?))
    })
}

impl Loaded for Files {
    fn digest(&self) -> Result<u64, Box<dyn Error>> {
        let mut sum = 0u64;
        for bytes in &self.0 {
            for (name, view) in SafeTensors::deserialize(bytes)?.iter() {
                sum = sum.wrapping_add(digest_of(name, view.data()));
            }
        }
        Ok(sum)
    }
}

impl Loaded for Model {
    fn digest(&self) -> Result<u64, Box<dyn Error>> {
        let digests = self
            .tensors()
            .iter()
            .map(|tensor| digest_of(tensor.name(), tensor.bytes()));
        Ok(digests.fold(0, u64::wrapping_add))
    }
}
