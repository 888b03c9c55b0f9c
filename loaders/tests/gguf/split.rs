//! Models in several files.

use std::path::PathBuf;

use ckload_loaders::{Checkpoint, Loader, MetadataValue, Tensor};
use tempfile::TempDir;

use crate::common::{Content, Gguf, Value, failure, write};
use crate::{bytes, small};

/// Parts of a split model, and what belongs into each.
struct Split {
    folder: TempDir,
    parts: Vec<Gguf>,
}

impl Split {
    /// Three parts: two tensors, none, one.
    fn new() -> Self {
        let tensors = [&["a", "b"][..], &[], &["c"]];
        let parts = (0..).zip(tensors).map(|(number, names)| {
            let tensors: Vec<Content> = names.iter().map(|name| bytes(name, 50)).collect();
            Gguf::of(&tensors)
                .part(number, 3, 3)
                .value("which", Value::U16(number))
        });
        Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
            parts: parts.collect(),
        }
    }

    fn path(&self, number: usize) -> PathBuf {
        let name = format!("a-model-{:05}-of-00003.gguf", number + 1);
        self.folder.path().join(name)
    }

    fn write(&self) {
        for (number, part) in self.parts.iter().enumerate() {
            write(&self.path(number), &part.to_bytes());
        }
    }

    /// Opens with one thing changed, and tells what the error says.
    #[track_caller]
    fn refused(change: impl FnOnce(&mut Self), kind: &str) -> String {
        let mut split = Self::new();
        change(&mut split);
        split.write();
        let error = failure(Checkpoint::open(split.path(1)));
        assert_eq!(error.kind(), kind, "{error}");
        error.to_string()
    }
}

#[test]
fn any_part_of_a_split_model_stands_for_all() {
    let split = Split::new();
    split.write();
    for number in 0..3 {
        let checkpoint = Checkpoint::open(split.path(number)).expect("a valid model");
        let files = checkpoint.files().iter().map(|file| file.path.clone());
        let paths: Vec<PathBuf> = (0..3).map(|number| split.path(number)).collect();
        assert_eq!(files.collect::<Vec<_>>(), paths);
        // The first file's metadata counts.
        assert_eq!(checkpoint.metadata()["which"], MetadataValue::Unsigned(0));
        let model = Loader::new().load(&checkpoint).expect("a valid model");
        let names: Vec<&str> = model.tensors().iter().map(Tensor::name).collect();
        assert_eq!(names, ["a", "b", "c"]);
        for tensor in model.tensors() {
            assert!(tensor.bytes() == &bytes(tensor.name(), 50).bytes);
        }
    }
}

#[test]
fn a_part_alone_under_its_own_name() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model-00001-of-00001.gguf");
    write(&path, &small().to_bytes());
    Checkpoint::open(&path).expect("a valid model");
    write(&path, &small().part(0, 1, 2).to_bytes());
    Checkpoint::open(&path).expect("a valid model");
}

#[test]
fn a_missing_part_is_named() {
    let split = Split::new();
    split.write();
    std::fs::remove_file(split.path(2)).expect("it was there");
    let error = failure(Checkpoint::open(split.path(0)));
    assert_eq!(error.kind(), "missing_shard");
    assert!(
        error
            .to_string()
            .contains("\"a-model-00003-of-00003.gguf\"")
    );
    assert_eq!(error.path(), Some(split.path(0).as_path()));
}

#[test]
fn parts_that_do_not_belong_together() {
    let key = |part: &mut Gguf, key: &str, value: Value| {
        let at = part.values.iter().position(|(of, _)| of == key.as_bytes());
        part.values[at.expect("it is there")].1 = value;
    };
    let refused = |says: &str, change: &dyn Fn(&mut Split)| {
        let message = Split::refused(change, "malformed");
        assert!(message.contains(says), "{message}");
    };
    refused("split.count", &|split| {
        key(&mut split.parts[2], "split.count", Value::U16(4));
    });
    refused("split.no", &|split| split.parts.swap(0, 2));
    refused("split.no", &|split| {
        key(&mut split.parts[1], "split.no", Value::I16(-1));
    });
    refused("the files have 3", &|split| {
        key(&mut split.parts[0], "split.tensors.count", Value::I32(4));
    });
    refused("a-model-00002-of-00003.gguf", &|split| {
        split.parts[1].values.clear();
    });
    let message = Split::refused(
        |split| split.parts[2] = Gguf::of(&[bytes("a", 50)]).part(2, 3, 3),
        "duplicate_tensor",
    );
    assert!(message.contains("\"a\""), "{message}");
}

/// Its other parts cannot be found.
#[test]
fn a_part_under_another_name() {
    let split = Split::new();
    let path = split.folder.path().join("model.gguf");
    write(&path, &split.parts[0].to_bytes());
    let error = failure(Checkpoint::open(&path));
    assert_eq!(error.kind(), "malformed");
    let message = error.to_string();
    assert!(message.contains("NAME-00001-of-00003.gguf"), "{message}");
}
