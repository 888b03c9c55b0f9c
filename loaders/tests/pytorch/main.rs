//! PyTorch checkpoints: their tensors have the names, places and bytes that torch gives them, and nothing in them is executed.

#[path = "../common/mod.rs"]
mod common;

mod bytes;
mod containers;
mod names;
mod pickles;

use std::path::PathBuf;

use ckload_loaders::Checkpoint;
use common::pickle::Py;
use common::torch::{Saved, Storage};
use common::write;
use tempfile::TempDir;

/// A file in a folder of its own.
struct Sample(TempDir);

impl Sample {
    fn new(bytes: &[u8]) -> Self {
        let sample = Self(tempfile::tempdir().expect("a temporary folder"));
        write(&sample.path(), bytes);
        sample
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("model.pt")
    }

    #[track_caller]
    fn open(&self) -> Checkpoint {
        Checkpoint::open(self.path()).expect("a valid checkpoint")
    }
}

/// The tensors of an archive and of a legacy file of the same.
#[track_caller]
fn both(saved: &Saved) -> [Checkpoint; 2] {
    [saved.archive(), saved.legacy()].map(|bytes| Sample::new(&bytes).open())
}

fn names(checkpoint: &Checkpoint) -> Vec<&str> {
    let mut names: Vec<&str> = checkpoint
        .tensors()
        .iter()
        .map(|info| info.name.as_str())
        .collect();
    names.sort_unstable();
    names
}

/// Checks the names that torch gives the tensors of `object`, in both forms.
#[track_caller]
fn check_names(object: Py, storages: &[Storage], expected: &[&str]) {
    let saved = Saved {
        object,
        storages: storages.to_vec(),
    };
    for checkpoint in both(&saved) {
        assert_eq!(names(&checkpoint), expected);
    }
}

fn storage() -> Storage {
    Storage::floats("0", 6, 1)
}

/// A checkpoint that is refused: what it holds, the kind of the error, and what its message says.
#[track_caller]
fn refuse(what: &str, bytes: &[u8], kind: &str, says: &str) {
    let sample = Sample::new(bytes);
    let Err(error) = Checkpoint::open(sample.path()) else {
        panic!("{what}: accepted");
    };
    let message = error.to_string();
    assert_eq!(error.kind(), kind, "{what}: {message}");
    assert_eq!(error.path(), Some(sample.path().as_path()), "{what}");
    assert!(message.contains(says), "{what}: {message}");
    assert!(!message.contains('\n'), "{what}: {message}");
}
