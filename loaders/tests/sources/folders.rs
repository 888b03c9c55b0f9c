//! Which files of a folder are the checkpoint, and what is left out.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use ckload_loaders::Checkpoint;

use crate::common::{index, write};
use crate::{Folder, INDEX, ignored, load, refused, shard};

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

/// No partial model: a shard that is linked but not there is not passed over.
#[test]
fn a_link_to_nothing_in_a_folder_without_an_index() {
    let folder = Folder::new().shard("one.safetensors", &["a"]);
    symlink("../blobs/gone", folder.path("two.safetensors")).expect("a link");
    let error = refused(folder.0.path(), "broken_link", "two.safetensors");
    assert!(error.to_string().contains("../blobs/gone"), "{error}");
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
    refused(folder.0.path(), "ambiguous", "other.safetensors.index.json");
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

/// No partial model, by the names alone: the third part did not come.
#[test]
fn a_part_that_is_missing_without_an_index() {
    let folder = Folder::new()
        .shard("model-00001-of-00003.safetensors", &["a"])
        .shard("model-00002-of-00003.safetensors", &["b"]);
    let missing = "\"model-00003-of-00003.safetensors\"";
    refused(folder.0.path(), "missing_shard", missing);
    assert_eq!(load(folder.path("model-00002-of-00003.safetensors")), "b");

    let folder = folder.shard("model-00003-of-00003.safetensors", &["c"]);
    assert_eq!(load(folder.0.path()), "a b c");
    let counted_from_zero = Folder::new()
        .shard("model-0-of-2.safetensors", &["a"])
        .shard("model-1-of-2.safetensors", &["b"]);
    assert_eq!(load(counted_from_zero.0.path()), "a b");
    // As many files as there should be, but not those.
    let another = Folder::new()
        .shard("model-00001-of-00002.safetensors", &["a"])
        .shard("model-00007-of-00002.safetensors", &["b"]);
    let missing = "\"model-00002-of-00002.safetensors\"";
    refused(another.0.path(), "missing_shard", missing);
    let absurd = Folder::new().shard("model-1-of-4294967295.safetensors", &["a"]);
    let missing = "\"model-2-of-4294967295.safetensors\"";
    refused(absurd.0.path(), "missing_shard", missing);
}

#[test]
fn variants_are_left_out_where_the_model_is_there_without_one() {
    let folder = Folder::new()
        .shard("model.safetensors", &["a", "b"])
        .shard("model.fp16.safetensors", &["a", "b"])
        .shard("model.non_ema-00001-of-00002.safetensors", &["a"]);
    assert_eq!(load(folder.0.path()), "a b");
    assert_eq!(
        ignored(folder.0.path()),
        "model.fp16.safetensors model.non_ema-00001-of-00002.safetensors"
    );
    assert_eq!(load(folder.path("model.fp16.safetensors")), "a b");
    assert_eq!(ignored(folder.path("model.fp16.safetensors")), "");

    let alone = Folder::new().shard("model.fp16.safetensors", &["a"]);
    assert_eq!(load(alone.0.path()), "a");
    let alike = Folder::new()
        .shard("model.fp16.safetensors", &["a"])
        .shard("model.bf16.safetensors", &["a"]);
    refused(alike.0.path(), "duplicate_tensor", "point at one");
}

#[test]
fn the_index_of_a_variant_does_not_count_beside_the_model() {
    let folder = Folder::new()
        .shard("model.safetensors", &["a"])
        .file("model.safetensors.index.fp16.json", "not even JSON")
        .shard("model.fp16-00001-of-00001.safetensors", &["a"]);
    assert_eq!(load(folder.0.path()), "a");
    let folder = Folder::new()
        .shard("model.fp16-00001-of-00001.safetensors", &["a"])
        .file(
            "model.safetensors.index.fp16.json",
            &index([("a", "model.fp16-00001-of-00001.safetensors")]),
        );
    assert_eq!(load(folder.0.path()), "a");
}

#[test]
fn safetensors_come_first_and_the_rest_is_said_to_be_ignored() {
    let folder = Folder::new()
        .shard("model.safetensors", &["a"])
        .shard("consolidated.safetensors", &["layers.a"])
        .file("pytorch_model.bin", "a pickle")
        .file("pytorch_model.bin.index.json", "an index")
        .file("model-Q4_K_M.gguf", "GGUF")
        .file("consolidated.00.pth", "a pickle")
        .file("weights.npz", "a zip archive")
        .file("training_args.bin", "no model")
        .file("optimizer.pt", "no model")
        .file("rng_state_0.pth", "no model")
        .file("tokenizer.json", "{}")
        .shard("below/more.safetensors", &["b"]);
    assert_eq!(load(folder.0.path()), "a");
    assert_eq!(
        ignored(folder.0.path()),
        "consolidated.00.pth consolidated.safetensors model-Q4_K_M.gguf pytorch_model.bin weights.npz"
    );
}

#[test]
fn what_an_index_does_not_name_is_ignored() {
    let folder = Folder::new()
        .shard("one.safetensors", &["a"])
        .shard("two.safetensors", &["b"])
        .index(&[("a", "./one.safetensors")]);
    assert_eq!(load(folder.0.path()), "a");
    assert_eq!(ignored(folder.0.path()), "two.safetensors");
    assert_eq!(ignored(folder.path(INDEX)), "");
}

#[test]
fn links_that_go_in_circles() {
    let folder = Folder::new().link("model.safetensors", "model.safetensors");
    refused(folder.0.path(), "io", "model.safetensors");
    refused(folder.path("model.safetensors"), "io", "model.safetensors");
    let folder = Folder::new()
        .link("one", "two")
        .link("two", "one")
        .link("here/again", "../here")
        .shard("here/model.safetensors", &["a"]);
    refused(folder.path("one"), "io", "one");
    assert_eq!(load(folder.path("here/again/again/again")), "a");
    let folder = Folder::new()
        .link("one.safetensors", "one.safetensors")
        .index(&[("a", "one.safetensors")]);
    refused(folder.0.path(), "io", "one.safetensors");
}

/// Headers are read several at a time; which error is told must not depend on who comes first.
#[test]
fn of_several_broken_files_the_first_is_named() {
    let mut folder = Folder::new();
    for number in 10..40 {
        folder = folder.shard(&format!("{number}.safetensors"), &[&number.to_string()]);
    }
    let names: Vec<String> = (10..40).map(|number| number.to_string()).collect();
    assert_eq!(load(folder.0.path()), names.join(" "));
    for number in [17, 18, 25, 39] {
        let name = format!("{number}.safetensors");
        write(&folder.path(&name), &shard(&["x"])[..60]);
    }
    for _ in 0..100 {
        refused(folder.0.path(), "truncated", "17.safetensors");
    }
}
