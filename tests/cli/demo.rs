//! `ckload demo`, with a model small enough for tests.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::support::{assert_keys, ckload, json_of, stdout_of};

fn demo(folder: &Path) -> assert_cmd::Command {
    let mut command = ckload();
    command
        .args(["demo", "--size", "tiny", "--repeat", "3", "--dir"])
        .arg(folder);
    command
}

#[test]
fn compares_the_ways_of_loading() {
    let folder = tempfile::tempdir().unwrap();
    let text = stdout_of(&mut demo(folder.path()));
    for part in [
        "written now, kept for the next time: 30 tensors",
        "3 loads each, in turn, after one that warms up; medians",
        "file in the page cache",
        "fs::read + SafeTensors",
        "without the pool",
        "pool: first load",
        "pool: recycled",
        "pool: streamed",
        "faults",
        "\nPool      ",
        "\nProcess   ",
        "\nSaved     ",
    ] {
        assert!(text.contains(part), "{part:?} is missing:\n{text}");
    }
    let widest = text
        .lines()
        .skip(1)
        .map(|line| line.chars().count())
        .max()
        .unwrap();
    assert!(widest <= 80, "{widest} columns:\n{text}");
    assert!(stdout_of(&mut demo(folder.path())).contains("kept from an earlier demo"));
}

#[test]
fn json_is_that_of_a_comparison() {
    let folder = tempfile::tempdir().unwrap();
    let report = json_of(demo(folder.path()).arg("--json"));
    assert_keys(
        &report,
        "schema models runs baseline_runs savings pool peak_rss_bytes",
    );
    assert_eq!(report["baseline_runs"].as_array().unwrap().len(), 3);
    assert_eq!(
        report["runs"].as_array().unwrap().len(),
        4,
        "a first load and three recycled ones"
    );
    assert!(report["runs"][0]["allocation"]["fresh"].as_u64().unwrap() > 0);
    assert_eq!(report["savings"]["method"], "measured");
}

#[test]
fn quiet_prints_nothing() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(stdout_of(demo(folder.path()).arg("-q")), "");
}

#[test]
fn the_checkpoint_is_used_again_unless_it_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gpt2-tiny.safetensors");
    let inode = || fs::metadata(&path).unwrap().ino();
    stdout_of(&mut demo(folder.path()));
    let (first, whole) = (inode(), fs::read(&path).unwrap());
    stdout_of(&mut demo(folder.path()));
    assert_eq!(inode(), first);

    fs::write(&path, &whole[..1000]).unwrap();
    stdout_of(&mut demo(folder.path()));
    assert!(fs::read(&path).unwrap() == whole);
}

#[test]
fn the_checkpoint_is_kept_in_the_cache_folder() {
    let cache = tempfile::tempdir().unwrap();
    let text = stdout_of(
        ckload()
            .args(["demo", "--size", "tiny", "--repeat", "1"])
            .env("XDG_CACHE_HOME", cache.path()),
    );
    let path = cache.path().join("ckload/gpt2-tiny.safetensors");
    assert!(path.exists());
    assert!(text.starts_with(&*path.to_string_lossy()), "{text}");
}
