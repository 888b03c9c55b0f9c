//! Targets whose input is a file.

use std::collections::BTreeMap;

use ckload_loaders::{Checkpoint, Format, Model};
use safetensors::SafeTensors;

use crate::archive::Archive;
use crate::checks::{check_checkpoint, check_error};
use crate::file::MemoryFile;
use crate::memory::{FOR_A_PICKLE, LITTLE, limited};

/// No byte of the storages of the target `pickle` is smaller.
const LEAST_STORED: u8 = 0x80;

/// Opens a file with this content, in so many bytes of memory, and checks what opened.
fn open(content: &[u8], memory: usize, check: impl FnOnce(&Checkpoint, Option<&Model>)) {
    let file = MemoryFile::new(content, 0);
    match limited(memory, || Checkpoint::open(file.path())) {
        Ok(checkpoint) => {
            let model = check_checkpoint(&checkpoint, content);
            check(&checkpoint, model.as_ref());
        }
        Err(error) => check_error(&error),
    }
}

/// A safetensors file: what opens, the format's reference implementation reads alike.
pub fn safetensors(content: &[u8]) {
    open(content, LITTLE, |checkpoint, _| {
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
    open(content, LITTLE, |_, _| {});
}

/// An array of NumPy, or an archive of them.
pub fn numpy(content: &[u8]) {
    open(content, LITTLE, |_, _| {});
}

/// An archive as `torch.save` writes it.
pub fn pytorch_zip(content: &[u8]) {
    open(content, FOR_A_PICKLE, |_, _| {});
}

/// A file as torch wrote it before 1.6.
pub fn pytorch_legacy(content: &[u8]) {
    open(content, FOR_A_PICKLE, |_, _| {});
}

/// The pickle in a PyTorch archive, which has storages called `0`, `1` and `2` for it: tensors have their bytes, and no others.
pub fn pickle(content: &[u8]) {
    let mut archive = Archive::default();
    archive.member("m/data.pkl", content);
    // Between them are only the members' headers, of smaller bytes.
    let mut bytes = LEAST_STORED..;
    for (name, len) in [("m/data/0", 64), ("m/data/1", 24), ("m/data/2", 3)] {
        let storage: Vec<u8> = bytes.by_ref().take(len).collect();
        archive.member(name, &storage);
    }
    open(&archive.finish(), FOR_A_PICKLE, |_, model| {
        let tensors = model.into_iter().flat_map(Model::tensors);
        for tensor in tensors {
            assert!(
                tensor.bytes().iter().all(|&byte| byte >= LEAST_STORED),
                "{tensor:?}"
            );
        }
    });
}
