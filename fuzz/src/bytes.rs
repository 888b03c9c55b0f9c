//! Targets whose input is a file.

use std::collections::BTreeMap;

use ckload_loaders::{Checkpoint, Format};
use safetensors::SafeTensors;

use crate::archive::Archive;
use crate::checks::{check_checkpoint, check_error};
use crate::file::MemoryFile;
use crate::memory::{FOR_A_PICKLE, LITTLE, limited};

/// Opens a file with this content, in so many bytes of memory, and checks what opened.
fn open(content: &[u8], memory: usize, check: impl FnOnce(&Checkpoint)) {
    let file = MemoryFile::new(content, 0);
    match limited(memory, || Checkpoint::open(file.path())) {
        Ok(checkpoint) => {
            check_checkpoint(&checkpoint, content);
            check(&checkpoint);
        }
        Err(error) => check_error(&error),
    }
}

/// A safetensors file: what opens, the format's reference implementation reads alike.
pub fn safetensors(content: &[u8]) {
    open(content, LITTLE, |checkpoint| {
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
    open(content, LITTLE, |_| {});
}

/// An array of NumPy, or an archive of them.
pub fn numpy(content: &[u8]) {
    open(content, LITTLE, |_| {});
}

/// An archive as `torch.save` writes it.
pub fn pytorch_zip(content: &[u8]) {
    open(content, FOR_A_PICKLE, |_| {});
}

/// A file as torch wrote it before 1.6.
pub fn pytorch_legacy(content: &[u8]) {
    open(content, FOR_A_PICKLE, |_| {});
}

/// The pickle in a PyTorch archive, which has storages called `0`, `1` and `2` for it.
pub fn pickle(content: &[u8]) {
    let mut archive = Archive::default();
    archive.member("m/data.pkl", content);
    for (name, bytes) in [("m/data/0", 64), ("m/data/1", 24), ("m/data/2", 3)] {
        let content: Vec<u8> = (0..bytes).map(|at| at ^ bytes).collect();
        archive.member(name, &content);
    }
    open(&archive.finish(), FOR_A_PICKLE, |_| {});
}
