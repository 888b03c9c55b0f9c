//! The target whose input is an index, beside files that it may name.

use std::fs;

use ckload_loaders::Checkpoint;
use tempfile::TempDir;

use crate::checks::{LOADER, check_error};
use crate::memory::{LITTLE, limited};
use crate::places::{check_places, in_place};

const INDEX: &str = "model.safetensors.index.json";

/// Two checkpoints in a folder, `model`, and one in a folder of it; beside it one that is none of its business.
fn lay_out() -> TempDir {
    let outside = tempfile::tempdir().expect("a temporary folder");
    let folder = outside.path().join("model");
    fs::create_dir_all(folder.join("d")).expect("an empty folder");
    for (name, tensors) in [
        ("a", &["x", "y"][..]),
        ("b", &["z"]),
        ("d/c", &["x"]),
        ("../e", &["x"]),
    ] {
        fs::write(folder.join(name), one_byte_each(tensors)).expect("there is room");
    }
    outside
}

/// A checkpoint of tensors of one byte.
fn one_byte_each(names: &[&str]) -> Vec<u8> {
    let entry = |(at, name)| {
        let end = at + 1;
        format!(r#""{name}":{{"dtype":"U8","shape":[],"data_offsets":[{at},{end}]}}"#)
    };
    let entries: Vec<String> = names.iter().enumerate().map(entry).collect();
    let json = format!("{{{}}}", entries.join(","));
    let length = (json.len() as u64).to_le_bytes();
    [&length, json.as_bytes(), &vec![7; names.len()]].concat()
}

/// Opens the index: it names only files of its folder, and only tensors that they have.
pub fn index(content: &[u8]) {
    let outside = lay_out();
    let folder = outside.path().canonicalize().expect("it is there");
    let folder = folder.join("model");
    let path = folder.join(INDEX);
    fs::write(&path, content).expect("there is room");
    match limited(LITTLE, || Checkpoint::open(&path)) {
        Ok(checkpoint) => {
            for file in checkpoint.files() {
                let path = fs::canonicalize(&file.path).expect("it was opened");
                assert!(path.starts_with(&folder), "{path:?}");
            }
            check_places(&checkpoint, &LOADER.plan(&checkpoint), in_place);
            let model = LOADER.load(&checkpoint).expect("its files are valid");
            assert!(
                model
                    .tensors()
                    .iter()
                    .all(|tensor| tensor.bytes()[..] == [7])
            );
        }
        Err(error) => check_error(&error),
    }
}
