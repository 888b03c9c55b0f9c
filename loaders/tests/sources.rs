//! What can be opened: a file, a folder, an index, and links to any of them; and what an index must not do.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use ckload_loaders::{Checkpoint, Error, Loader, Tensor};
use common::{Shard, failure, index, octets, watched, write};
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
        write(&self.path(name), content.as_bytes());
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

#[test]
fn a_file_whatever_its_name() {
    let folder = Folder::new()
        .shard("model.safetensors", &["a", "b"])
        .shard("no suffix", &["c"]);
    assert_eq!(load(folder.path("model.safetensors")), "a b");
    assert_eq!(load(folder.path("no suffix")), "c");
}

#[test]
fn a_folder_of_files_in_the_order_of_their_names() {
    let folder = Folder::new()
        .shard("model-2.safetensors", &["c"])
        .shard("model-1.safetensors", &["b", "a"])
        .shard("model-3.safetensors", &[])
        .shard("below/model-0.safetensors", &["not meant"])
        .file("config.json", "{}")
        .file("model-4.safetensors.part", "half a download");
    fs::create_dir(folder.path("folder.safetensors")).expect("a folder");
    assert_eq!(load(folder.0.path()), "b a c");
    let checkpoint = Checkpoint::open(folder.0.path()).expect("a valid checkpoint");
    let files: Vec<&Path> = checkpoint
        .files()
        .iter()
        .map(|file| file.path.as_path())
        .collect();
    let expected = [1, 2, 3].map(|number| folder.path(&format!("model-{number}.safetensors")));
    assert_eq!(files, expected);
    assert_eq!(checkpoint.format().to_string(), "safetensors");
}

#[test]
fn an_index_by_its_name_and_by_its_folder() {
    let folder = Folder::new()
        .shard("one.safetensors", &["a", "b"])
        .shard("two.safetensors", &["c"])
        .shard("consolidated.safetensors", &["a", "b", "c"])
        .index(&[
            ("a", "one.safetensors"),
            ("b", "one.safetensors"),
            ("c", "two.safetensors"),
        ]);
    assert_eq!(load(folder.path(INDEX)), "a b c");
    assert_eq!(load(folder.0.path()), "a b c");
}

#[test]
fn of_several_indexes_the_usual_one() {
    let places = index([("a", "one.safetensors")]);
    let folder = Folder::new()
        .shard("one.safetensors", &["a"])
        .file("diffusion.fp16.safetensors.index.json", "not even JSON")
        .file(INDEX, &places);
    assert_eq!(load(folder.0.path()), "a");
    fs::rename(
        folder.path(INDEX),
        folder.path("other.safetensors.index.json"),
    )
    .expect("a rename");
    refused(folder.0.path(), "no_checkpoint", "several indexes");
}

#[test]
fn the_index_decides_where_a_tensor_is_taken_from() {
    let folder = Folder::new()
        .shard("one.safetensors", &["shared", "a"])
        .shard("two.safetensors", &["b", "shared"])
        .index(&[
            ("a", "one.safetensors"),
            ("b", "two.safetensors"),
            ("shared", "two.safetensors"),
        ]);
    let checkpoint = Checkpoint::open(folder.0.path()).expect("a valid checkpoint");
    let shared = checkpoint.tensor("shared").expect("it is there");
    assert_eq!(
        checkpoint.files()[shared.file].path,
        folder.path("two.safetensors")
    );
    assert_eq!(load(folder.0.path()), "a b shared");
}

#[test]
fn shards_below_the_index() {
    let folder = Folder::new()
        .shard("unet/one.safetensors", &["a"])
        .shard("two.safetensors", &["b"])
        .index(&[("a", "unet/one.safetensors"), ("b", "./two.safetensors")]);
    assert_eq!(load(folder.path(INDEX)), "b a");
}

/// `models--org--name`: `snapshots/<commit>` has links to `blobs/`, named by their digest.
#[test]
fn the_cache_of_hugging_face() {
    let folder = Folder::new()
        .shard("models--org--name/blobs/0a1b", &["a"])
        .shard("models--org--name/blobs/2c3d", &["b"])
        .file(
            "models--org--name/blobs/4e5f",
            &index([("a", "one.safetensors"), ("b", "two.safetensors")]),
        );
    let snapshot =
        folder.path("models--org--name/snapshots/607a30d783dfa663caf39e06633721c8d4cfcd7e");
    fs::create_dir_all(&snapshot).expect("a folder");
    for (name, blob) in [
        ("one.safetensors", "0a1b"),
        ("two.safetensors", "2c3d"),
        (INDEX, "4e5f"),
    ] {
        symlink(Path::new("../../blobs").join(blob), snapshot.join(name)).expect("a link");
    }
    assert_eq!(load(&snapshot), "a b");
    assert_eq!(load(snapshot.join(INDEX)), "a b");
    assert_eq!(load(snapshot.join("two.safetensors")), "b");

    fs::remove_file(folder.path("models--org--name/blobs/2c3d")).expect("it was there");
    refused(&snapshot, "missing_shard", "two.safetensors");
}

#[test]
fn a_link_to_a_file_or_a_folder() {
    let folder = Folder::new().shard("real/model.safetensors", &["a"]);
    symlink("real", folder.path("folder")).expect("a link");
    symlink("real/model.safetensors", folder.path("file")).expect("a link");
    assert_eq!(load(folder.path("folder")), "a");
    assert_eq!(load(folder.path("file")), "a");
}

/// No partial model: a shard that is linked but not there is not passed over.
#[test]
fn a_link_to_nothing_in_a_folder_without_an_index() {
    let folder = Folder::new().shard("one.safetensors", &["a"]);
    symlink("../blobs/gone", folder.path("two.safetensors")).expect("a link");
    let error = failure(Checkpoint::open(folder.0.path()));
    assert!(error.to_string().contains("two.safetensors"), "{error}");
}

#[test]
fn an_index_cannot_name_a_file_outside_its_folder() {
    let folder = Folder::new()
        .shard("secret.safetensors", &["a"])
        .shard("model/one.safetensors", &["a"]);
    let secret = folder.path("secret.safetensors");
    let names = [
        "../secret.safetensors",
        "../model/one.safetensors",
        "./../secret.safetensors",
        "x/../../secret.safetensors",
        "x/../one.safetensors",
        "..",
        "/",
        "",
        "one.safetensors\0",
        secret.to_str().expect("UTF-8"),
    ];
    for name in names {
        write(
            &folder.path("model").join(INDEX),
            index([("a", name)]).as_bytes(),
        );
        for path in [folder.path("model"), folder.path("model").join(INDEX)] {
            refused(path, "shard_outside_folder", INDEX);
        }
    }
}

#[test]
fn a_missing_shard_is_named() {
    let folder = Folder::new()
        .shard("one.safetensors", &["a"])
        .index(&[("a", "one.safetensors"), ("b", "two.safetensors")]);
    let error = refused(folder.0.path(), "missing_shard", "\"two.safetensors\"");
    assert!(error.to_string().contains("download"), "{error}");
    assert_eq!(error.path(), Some(folder.path(INDEX).as_path()));
}

#[test]
fn a_tensor_that_its_shard_does_not_hold() {
    let folder = Folder::new()
        .shard("one.safetensors", &["a"])
        .shard("two.safetensors", &["b"])
        .index(&[("a", "one.safetensors"), ("b", "one.safetensors")]);
    refused(folder.0.path(), "not_in_shard", "\"b\"");

    let folder = folder.index(&[
        ("a", "one.safetensors"),
        ("b", "two.safetensors"),
        ("c", "two.safetensors"),
    ]);
    let error = refused(folder.0.path(), "not_in_shard", "\"c\"");
    assert!(error.to_string().contains("two.safetensors"), "{error}");

    let folder = folder.index(&[("a", "two.safetensors"), ("b", "one.safetensors")]);
    refused(folder.0.path(), "not_in_shard", "download");
}

#[test]
fn a_tensor_in_two_shards() {
    let folder = Folder::new()
        .shard("one.safetensors", &["a", "b"])
        .shard("two.safetensors", &["b"]);
    let error = refused(folder.0.path(), "duplicate_tensor", "\"b\"");
    let message = error.to_string();
    assert!(
        message.contains("one.safetensors") && message.contains("two.safetensors"),
        "{message}"
    );
}

#[test]
fn indexes_that_are_malformed() {
    let cases = [
        ("", "EOF"),
        ("[]", ""),
        ("not JSON", ""),
        ("{}", "weight_map"),
        (r#"{"weight_map":null}"#, ""),
        (r#"{"weight_map":["a"]}"#, ""),
        (r#"{"weight_map":{"a":1}}"#, ""),
        (r#"{"weight_map":{"a":["one.safetensors"]}}"#, ""),
        (
            r#"{"weight_map":{"a":"one.safetensors","a":"two.safetensors"}}"#,
            "twice",
        ),
        (r#"{"weight_map":{},"weight_map":{}}"#, "weight_map"),
    ];
    for (text, says) in cases {
        let folder = Folder::new()
            .shard("one.safetensors", &["a"])
            .file(INDEX, text);
        let error = refused(folder.0.path(), "malformed", INDEX);
        assert!(error.to_string().contains(says), "{error}");
    }
    let folder = Folder::new().shard("one.safetensors", &["a"]);
    write(
        &folder.path(INDEX),
        b"{\"weight_map\":{\"\xff\":\"one.safetensors\"}}",
    );
    refused(folder.0.path(), "malformed", INDEX);
}

#[test]
fn an_index_that_is_no_index() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:24\nsize 5\n";
    let folder = Folder::new().file(INDEX, pointer);
    refused(folder.0.path(), "lfs_pointer", INDEX);
    let folder = folder.file(INDEX, "<!DOCTYPE html><html>");
    refused(folder.path(INDEX), "html_page", INDEX);
}

#[test]
fn a_shard_that_is_broken_is_named() {
    let folder = Folder::new()
        .shard("one.safetensors", &["a"])
        .index(&[("a", "one.safetensors"), ("b", "two.safetensors")]);
    let whole = shard(&["b"]);
    write(&folder.path("two.safetensors"), &whole[..whole.len() - 9]);
    let error = refused(folder.0.path(), "truncated", "two.safetensors");
    assert!(error.to_string().contains("9 are missing"), "{error}");
}

#[test]
fn paths_that_hold_no_checkpoint() {
    let folder = Folder::new().file("config.json", "{}");
    refused(folder.0.path(), "no_checkpoint", "no .safetensors file");
    refused(
        folder.path("nothing.safetensors"),
        "io",
        "nothing.safetensors",
    );
    refused("/dev/null", "no_checkpoint", "/dev/null");
    refused("", "io", "cannot open");
}

/// Opening a pipe would wait for somebody to write.
#[test]
fn a_shard_that_is_no_file() {
    let folder = Folder::new().index(&[("a", "one.safetensors")]);
    fs::create_dir(folder.path("one.safetensors")).expect("a folder");
    let error = failure(Checkpoint::open(folder.0.path()));
    assert!(error.to_string().contains("one.safetensors"), "{error}");

    fs::remove_dir(folder.path("one.safetensors")).expect("it was there");
    let made = Command::new("mkfifo")
        .arg(folder.path("one.safetensors"))
        .status();
    assert!(made.expect("coreutils").success());
    watched(move || {
        let error = failure(Checkpoint::open(folder.0.path()));
        assert!(error.to_string().contains("one.safetensors"), "{error}");
    });
}
