//! Patterns: what a person quotes, so that the shell does not expand it.

use std::fs;

use ckload_loaders::Checkpoint;

use crate::{Folder, load, refused};

fn models() -> Folder {
    Folder::new()
        .shard("x/model-2.safetensors", &["b"])
        .shard("x/model-1.safetensors", &["a"])
        .shard("x/model-10.safetensors", &["c"])
        .shard("x/.model-3.safetensors", &["hidden"])
        .shard("x/below/model-4.safetensors", &["below"])
        .shard("y/model.safetensors", &["y"])
        .file("x/model-5.json", "{}")
}

#[test]
fn the_files_that_match_are_one_checkpoint() {
    let folder = models();
    assert_eq!(load(folder.path("x/*.safetensors")), "a c b");
    assert_eq!(load(folder.path("x/model-[12].safetensors")), "a b");
    assert_eq!(load(folder.path("x/model-?.safetensors")), "a b");
    assert_eq!(load(folder.path("x/model-{1,10}.safetensors")), "a c");
    assert_eq!(load(folder.path("x/**/model-[14].safetensors")), "below a");
    assert_eq!(load(folder.path("x/.model*.safetensors")), "hidden");
    assert_eq!(load(folder.path("?/model*.safetensors")), "a c b y");
    let checkpoint = Checkpoint::open(folder.path("x/*.safetensors")).expect("it matches");
    assert_eq!(checkpoint.files().len(), 3);
    assert!(checkpoint.ignored().is_empty());
}

#[test]
fn one_match_is_what_it_is() {
    let folder = models();
    assert_eq!(load(folder.path("[y]")), "y");
    assert_eq!(load(folder.path("y/*")), "y");
}

#[test]
fn a_file_of_that_very_name_wins() {
    let folder = models().shard("x/model-[12].safetensors", &["literal"]);
    assert_eq!(load(folder.path("x/model-[12].safetensors")), "literal");
}

#[test]
fn what_matches_nothing_or_too_much() {
    let folder = models();
    refused(folder.path("x/*.gguf"), "no_checkpoint", "matches no file");
    refused(
        folder.path("nowhere/*.safetensors"),
        "no_checkpoint",
        "nowhere/*",
    );
    refused(folder.path("[xy]"), "ambiguous", "x, y");
    // Not a pattern, so a name.
    refused(folder.path("x/model-[12.safetensors"), "io", "model-[12");
    refused(folder.path("x/model-1.safetensors/*"), "no_checkpoint", "*");
    refused(folder.path("*/**"), "ambiguous", "below");
}

/// `**` follows no links, and would never come to an end if it did.
#[test]
fn links_that_go_in_circles() {
    let folder = models();
    for number in 0..20 {
        std::os::unix::fs::symlink(".", folder.path(&format!("x/loop{number}"))).expect("a link");
    }
    assert_eq!(load(folder.path("**/model-4.safetensors")), "below");
    assert_eq!(load(folder.path("**/**/**/model-4.safetensors")), "below");
    assert_eq!(load(folder.path("x/loop[3]/loop?4/model-2.*")), "b");
    let twice = folder.path("x/loop?/model-2.safetensors");
    refused(twice, "duplicate_tensor", "x/loop1/model-2.safetensors");
    fs::remove_file(folder.path("x/loop0")).expect("it was there");
    std::os::unix::fs::symlink("loop1", folder.path("x/loop0")).expect("a link");
    assert_eq!(load(folder.path("x/loop0/model-2.safe*")), "b");
}
