//! Targets whose input is a file.

use std::collections::BTreeMap;

use ckload_loaders::{Checkpoint, Format};
use safetensors::SafeTensors;

use crate::checks::{check_checkpoint, check_error};
use crate::file::MemoryFile;
use crate::memory::limited;

/// Opens a file with this content, and checks what opened.
fn open(content: &[u8], check: impl FnOnce(&Checkpoint)) {
    let file = MemoryFile::new(content, 0);
    match limited(|| Checkpoint::open(file.path())) {
        Ok(checkpoint) => {
            check_checkpoint(&checkpoint, content);
            check(&checkpoint);
        }
        Err(error) => check_error(&error),
    }
}

/// A safetensors file: what opens, the format's reference implementation reads alike.
pub fn safetensors(content: &[u8]) {
    open(content, |checkpoint| {
        if checkpoint.format() != Format::Safetensors {
            return;
        }
        let oracle = SafeTensors::deserialize(content).expect("what we open, the oracle reads");
        let tensors: BTreeMap<_, _> = oracle.iter().collect();
        assert_eq!(tensors.len(), checkpoint.tensors().len());
        for info in checkpoint.tensors() {
            let view = &tensors[info.name.as_str()];
            assert_eq!(info.dtype.to_safetensors(), Some(view.dtype()));
            let shape: Vec<u64> = view.shape().iter().map(|&dim| dim as u64).collect();
            assert_eq!(info.shape, shape);
            let start = info.offset as usize;
            assert_eq!(&content[start..start + info.bytes as usize], view.data());
        }
    });
}

/// A GGUF file.
pub fn gguf(content: &[u8]) {
    open(content, |_| {});
}
