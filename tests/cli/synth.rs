//! `ckload synth`.

use std::fs;

use ckload::Checkpoint;

use crate::support::{assert_keys, ckload, failure_of, json_of, stdout_of};

#[test]
fn writes_a_checkpoint_that_opens() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.safetensors");
    let text = stdout_of(
        ckload()
            .args(["synth", "gpt2", "--size", "tiny"])
            .arg(&path),
    );
    assert_eq!(text, format!("{}: 30 tensors, 1.0 MiB\n", path.display()));
    assert_eq!(Checkpoint::open(&path).unwrap().bytes(), 1_051_520);
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        1,
        "no temporary file is left"
    );
}

#[test]
fn the_seed_decides_the_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let written = |name: &str, seed: &str| {
        let path = folder.path().join(name);
        stdout_of(
            ckload()
                .args(["synth", "gpt2", "--size", "tiny", "--seed", seed])
                .arg(&path),
        );
        fs::read(path).unwrap()
    };
    let first = written("a", "1");
    assert!(first == written("b", "1"));
    assert!(first != written("c", "2"));
}

#[test]
fn an_existing_file_is_replaced_only_on_purpose() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.safetensors");
    fs::write(&path, "precious").unwrap();
    let synth = || {
        let mut command = ckload();
        command
            .args(["synth", "gpt2", "--size", "tiny", "--json"])
            .arg(&path);
        command
    };
    let (json, message) = failure_of(&mut synth(), 1);
    assert_eq!(json["error"]["kind"], "exists");
    assert!(message.contains("exists already"), "{message}");
    assert_eq!(fs::read(&path).unwrap(), b"precious");

    let json = json_of(synth().arg("--force"));
    assert_keys(&json, "schema path tensors bytes");
    assert_eq!(json["bytes"], fs::metadata(&path).unwrap().len());
}

#[test]
fn quiet_prints_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.safetensors");
    assert_eq!(
        stdout_of(
            ckload()
                .args(["synth", "gpt2", "--size", "tiny", "-q"])
                .arg(&path)
        ),
        ""
    );
    assert!(path.exists());
}

#[test]
fn a_missing_folder_is_named() {
    let run = ckload()
        .args(["synth", "gpt2", "/nowhere/out"])
        .assert()
        .code(1)
        .get_output()
        .clone();
    let message = String::from_utf8(run.stderr).unwrap();
    assert!(message.contains("cannot write /nowhere/out"), "{message}");
}
