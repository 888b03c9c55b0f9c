//! What can be opened: a file, a folder, an index, a pattern, a cache of Hugging Face, and links to any of them.

#[path = "../common/mod.rs"]
mod common;

mod files;
mod folders;
mod globs;
mod hub;
mod indexes;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use ckload_loaders::{Checkpoint, Error, Loader, Tensor};
use common::{Shard, failure, index, octets, write};
use tempfile::TempDir;

const INDEX: &str = "model.safetensors.index.json";

/// A folder of files, each with tensors of these names.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn shard(self, file: &str, tensors: &[&str]) -> Self {
        let path = self.path(file);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        write(&path, &shard(tensors));
        self
    }

    fn index(self, places: &[(&str, &str)]) -> Self {
        self.file(INDEX, &index(places.iter().copied()))
    }

    fn file(self, name: &str, content: &str) -> Self {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        write(&path, content.as_bytes());
        self
    }

    fn link(self, name: &str, target: &str) -> Self {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        symlink(target, path).expect("a link");
        self
    }
}

fn shard(tensors: &[&str]) -> Vec<u8> {
    Shard::of(tensors.iter().map(|name| octets(name, 50)).collect()).to_bytes()
}

/// The names of what loads from `path`; every tensor's bytes are checked.
#[track_caller]
fn load(path: impl AsRef<Path>) -> String {
    let checkpoint = Checkpoint::open(path.as_ref()).expect("a valid checkpoint");
    let model = Loader::new().load(&checkpoint).expect("a valid checkpoint");
    for tensor in model.tensors() {
        assert!(tensor.bytes() == &octets(tensor.name(), 50).bytes);
    }
    let names: Vec<&str> = model.tensors().iter().map(Tensor::name).collect();
    names.join(" ")
}

/// The error of opening `path`, which has to name `file`.
#[track_caller]
fn refused(path: impl AsRef<Path>, kind: &str, file: &str) -> Error {
    let error = failure(Checkpoint::open(path.as_ref()));
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(file), "{error}");
    assert!(error.path().is_some(), "{error}");
    error
}

/// The names of the files that were left out of what is at `path`.
#[track_caller]
fn ignored(path: impl AsRef<Path>) -> String {
    let checkpoint = Checkpoint::open(path.as_ref()).expect("a valid checkpoint");
    let names = checkpoint.ignored().iter().map(|path| {
        let name = path.file_name().expect("a file");
        name.to_string_lossy().into_owned()
    });
    names.collect::<Vec<_>>().join(" ")
}
