//! The cache of Hugging Face, as it lies on a disk. (How the environment names it: `tests/cli/hub.rs`.)

use std::fs;
use std::path::PathBuf;

use ckload_loaders::Checkpoint;

use crate::common::index;
use crate::{Folder, INDEX, ignored, load, refused};

const REPOSITORY: &str = "models--org--name";
const COMMIT: &str = "607a30d783dfa663caf39e06633721c8d4cfcd7e";
const OTHER: &str = "11c5a3d5811f50298f278a704980280950aedb10";
const DIGEST: &str = "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707";

/// A repository with two shards, an index, and what `hf download` leaves besides.
fn cached() -> Folder {
    let places = index([("a", "one.safetensors"), ("b", "two.safetensors")]);
    Folder::new()
        .shard(&format!("{REPOSITORY}/blobs/{DIGEST}"), &["a"])
        .shard(&format!("{REPOSITORY}/blobs/2c3d"), &["b"])
        .file(&format!("{REPOSITORY}/blobs/4e5f"), &places)
        .file(&format!("{REPOSITORY}/refs/main"), COMMIT)
        .file(&format!("{REPOSITORY}/.no_exist/{COMMIT}/adapter.json"), "")
        .file(".locks/models--org--name/2c3d.lock", "")
        .link(&in_snapshot("one.safetensors"), &blob(DIGEST))
        .link(&in_snapshot("two.safetensors"), &blob("2c3d"))
        .link(&in_snapshot(INDEX), &blob("4e5f"))
}

fn in_snapshot(name: &str) -> String {
    format!("{REPOSITORY}/snapshots/{COMMIT}/{name}")
}

fn blob(name: &str) -> String {
    format!("../../blobs/{name}")
}

fn set_main(folder: &Folder, content: &str) {
    fs::write(folder.path(REPOSITORY).join("refs/main"), content).expect("a file");
}

fn other_snapshot(folder: &Folder) -> PathBuf {
    let path = folder.path(REPOSITORY).join("snapshots").join(OTHER);
    fs::create_dir(&path).expect("a folder");
    path
}

#[test]
fn a_snapshot_is_a_folder_of_links() {
    let folder = cached();
    assert_eq!(load(folder.path(&in_snapshot(""))), "a b");
    assert_eq!(load(folder.path(&in_snapshot(INDEX))), "a b");
    assert_eq!(load(folder.path(&in_snapshot("two.safetensors"))), "b");
    assert_eq!(ignored(folder.path(&in_snapshot(""))), "");
}

#[test]
fn a_repository_stands_for_its_main() {
    let folder = cached();
    other_snapshot(&folder);
    assert_eq!(load(folder.path(REPOSITORY)), "a b");
    set_main(&folder, &format!("{COMMIT}\n"));
    assert_eq!(load(folder.path(REPOSITORY)), "a b");
    let files = Checkpoint::open(folder.path(REPOSITORY)).expect("a valid checkpoint");
    let snapshot = folder.path(&in_snapshot(""));
    assert!(
        files
            .files()
            .iter()
            .all(|file| file.path.starts_with(&snapshot))
    );
}

#[test]
fn without_a_main_the_only_snapshot() {
    let folder = cached();
    fs::remove_dir_all(folder.path(REPOSITORY).join("refs")).expect("it was there");
    assert_eq!(load(folder.path(REPOSITORY)), "a b");
    other_snapshot(&folder);
    refused(folder.path(REPOSITORY), "ambiguous", OTHER);
    fs::remove_dir_all(folder.path(REPOSITORY).join("snapshots")).expect("it was there");
    fs::create_dir(folder.path(REPOSITORY).join("snapshots")).expect("a folder");
    let error = refused(folder.path(REPOSITORY), "no_snapshot", REPOSITORY);
    assert!(
        error.to_string().contains("`hf download org/name`"),
        "{error}"
    );
}

#[test]
fn a_main_that_is_not_there() {
    let folder = cached();
    set_main(&folder, OTHER);
    refused(folder.path(REPOSITORY), "no_snapshot", OTHER);
}

/// What `refs/main` says becomes a part of a path.
#[test]
fn a_main_that_is_no_commit() {
    let folder = cached().shard("secret/model.safetensors", &["a"]);
    let long = "0".repeat(1 << 20);
    for content in [
        "",
        "main",
        "../../secret",
        "../../../secret",
        "/etc",
        "607a30d783dfa663caf39e06633721c8d4cfcd7/",
        "607a30d783dfa663caf39e06633721c8d4cfcd7e/..",
        "\0",
        &long,
    ] {
        set_main(&folder, content);
        let error = refused(folder.path(REPOSITORY), "no_snapshot", "refs/main");
        assert!(error.to_string().len() < 1000, "{error}");
    }
    fs::remove_file(folder.path(REPOSITORY).join("refs/main")).expect("it was there");
    let folder = folder.link(&format!("{REPOSITORY}/refs/main"), "main");
    refused(folder.path(REPOSITORY), "io", "refs/main");
}

#[test]
fn a_folder_of_one_s_own_is_no_cache() {
    let folder = Folder::new()
        .shard("run/model.safetensors", &["a"])
        .shard("run/snapshots/1/model.safetensors", &["b"])
        .shard("models--org--copied/model.safetensors", &["c"]);
    assert_eq!(load(folder.path("run")), "a");
    assert_eq!(load(folder.path("models--org--copied")), "c");
}

#[test]
fn a_download_that_was_not_finished() {
    let folder = cached();
    let finish = format!("`hf download org/name --revision {COMMIT}`");
    let blobs = folder.path(REPOSITORY).join("blobs");
    let check = |path: &str, names: &str| {
        let error = refused(folder.path(path), "unfinished_download", names);
        assert!(error.to_string().contains(&finish), "{error}");
    };

    // A blob was deleted.
    fs::remove_file(blobs.join("2c3d")).expect("it was there");
    for path in ["", INDEX, "two.safetensors"] {
        check(&in_snapshot(path), "two.safetensors");
    }
    // It is on its way, and not linked yet.
    fs::write(blobs.join("2c3d.incomplete"), "half").expect("a file");
    fs::remove_file(folder.path(&in_snapshot("two.safetensors"))).expect("it was there");
    check(REPOSITORY, "two.safetensors");
    // None has come.
    fs::remove_file(folder.path(&in_snapshot("one.safetensors"))).expect("it was there");
    fs::remove_file(folder.path(&in_snapshot(INDEX))).expect("it was there");
    check(REPOSITORY, "no weights");
    fs::create_dir(folder.path(&in_snapshot("unet"))).expect("a folder");
    check(&in_snapshot("unet"), "no weights");
    fs::remove_file(blobs.join("2c3d.incomplete")).expect("it was there");
    refused(folder.path(REPOSITORY), "no_checkpoint", COMMIT);
}

#[test]
fn blobs_are_named_for_who_verifies_them() {
    let folder = cached().link("shortcut.safetensors", &in_snapshot("one.safetensors"));
    let blobs = |path: &str| -> Vec<Option<String>> {
        let checkpoint = Checkpoint::open(folder.path(path)).expect("a valid checkpoint");
        let files = checkpoint.files().iter();
        files.map(|file| file.hub_blob.clone()).collect()
    };
    let (one, two) = (Some(DIGEST.to_owned()), Some("2c3d".to_owned()));
    assert_eq!(blobs(REPOSITORY), [one.clone(), two]);
    assert_eq!(blobs("shortcut.safetensors"), std::slice::from_ref(&one));
    assert_eq!(blobs(&format!("{REPOSITORY}/blobs/{DIGEST}")), [one]);

    let plain = Folder::new()
        .shard("model.safetensors", &["a"])
        .link("link.safetensors", "model.safetensors");
    for name in ["model.safetensors", "link.safetensors"] {
        let checkpoint = Checkpoint::open(plain.path(name)).expect("a valid checkpoint");
        assert_eq!(checkpoint.files()[0].hub_blob, None);
    }
}
