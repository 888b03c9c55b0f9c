//! Indexes: what they decide, and what they must not do.

use ckload_loaders::{Checkpoint, Format};

use crate::common::npy::npy;
use crate::common::{index, octets, write};
use crate::{Folder, INDEX, ignored, load, refused};

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
fn an_index_of_files_in_several_formats() {
    let folder = Folder::new()
        .shard("one.safetensors", &["a"])
        .index(&[("a", "one.safetensors"), ("array", "two.safetensors")]);
    let array = npy("|u1", false, "(50,)", &octets("array", 50).bytes);
    write(&folder.path("two.safetensors"), &array);
    assert_eq!(load(folder.0.path()), "a array");
    let checkpoint = Checkpoint::open(folder.0.path()).expect("a valid checkpoint");
    assert_eq!(checkpoint.format(), Format::Safetensors);
}

/// What the files hold does not matter here: a format is told by the bytes.
#[test]
fn the_index_of_pytorch_files() {
    let name = "pytorch_model.bin.index.json";
    let folder = Folder::new()
        .shard("pytorch_model-00001-of-00002.bin", &["a"])
        .shard("pytorch_model-00002-of-00002.bin", &["b"])
        .shard("pytorch_model.fp16.bin", &["a", "b"])
        .file("training_args.bin", "no model");
    let places = [
        ("a", "pytorch_model-00001-of-00002.bin"),
        ("b", "pytorch_model-00002-of-00002.bin"),
    ];
    let folder = folder.file(name, &index(places));
    assert_eq!(load(folder.path(name)), "a b");
    assert_eq!(load(folder.0.path()), "a b");
    assert_eq!(ignored(folder.0.path()), "pytorch_model.fp16.bin");
    let folder = folder.file(name, &index([("a", "../a.bin")]));
    refused(folder.0.path(), "shard_outside_folder", "../a.bin");
    let folder = folder.file(name, &index([("a", "pytorch_model-00003-of-00003.bin")]));
    refused(folder.0.path(), "missing_shard", "00003-of-00003");
}
