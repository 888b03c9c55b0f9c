//! A file, whatever its name, and links to it; and what is no file.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use ckload_loaders::Checkpoint;

use crate::common::{failure, watched};
use crate::{Folder, load, refused};

#[test]
fn a_file_whatever_its_name() {
    let folder = Folder::new()
        .shard("model.safetensors", &["a", "b"])
        .shard("no suffix", &["c"]);
    assert_eq!(load(folder.path("model.safetensors")), "a b");
    assert_eq!(load(folder.path("no suffix")), "c");
}

#[test]
fn a_link_to_a_file_or_a_folder() {
    let folder = Folder::new().shard("real/model.safetensors", &["a"]);
    symlink("real", folder.path("folder")).expect("a link");
    symlink("real/model.safetensors", folder.path("file")).expect("a link");
    assert_eq!(load(folder.path("folder")), "a");
    assert_eq!(load(folder.path("file")), "a");
    symlink("gone/model.safetensors", folder.path("broken")).expect("a link");
    let error = refused(folder.path("broken"), "broken_link", "broken");
    let target = "gone/model.safetensors";
    assert!(error.to_string().contains(target), "{error}");
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

#[test]
fn paths_that_hold_no_checkpoint() {
    let folder = Folder::new().file("config.json", "{}");
    refused(folder.0.path(), "no_checkpoint", "holds no checkpoint");
    refused(
        folder.path("nothing.safetensors"),
        "io",
        "nothing.safetensors",
    );
    refused("/dev/null", "no_checkpoint", "/dev/null");
    refused("", "io", "cannot open");
}

/// What the files hold does not matter here: a format is told by the bytes.
#[test]
fn any_part_of_a_gguf_model_stands_for_all() {
    let folder = Folder::new()
        .shard("m-Q4_0-00001-of-00003.gguf", &["a"])
        .shard("m-Q4_0-00003-of-00003.gguf", &["c"]);
    let missing = "\"m-Q4_0-00002-of-00003.gguf\"";
    let first = folder.path("m-Q4_0-00001-of-00003.gguf");
    refused(&first, "missing_shard", missing);
    refused(folder.0.path(), "missing_shard", missing);
    let folder = folder.shard("m-Q4_0-00002-of-00003.gguf", &["b"]);
    assert_eq!(load(&first), "a b c");
    assert_eq!(load(folder.0.path()), "a b c");
    assert_eq!(load(folder.path("m-Q4_0-00002-of-00003.gguf")), "a b c");
}
