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

#[test]
fn writes_folders_of_files_with_an_index() {
    for (model, files, tensors) in [("llama", 4, 29), ("moe", 5, 156)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(model);
        let synth = || {
            let mut command = ckload();
            command.args(["synth", model, "--size", "tiny"]).arg(&path);
            command
        };
        let text = stdout_of(&mut synth());
        assert!(text.starts_with(&format!("{}: {tensors} tensors, ", path.display())));
        let checkpoint = Checkpoint::open(&path).unwrap();
        assert_eq!(checkpoint.files().len(), files);
        assert_eq!(checkpoint.tensors().len(), tensors);
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "nothing else is left"
        );
        assert_eq!(fs::read_dir(&path).unwrap().count(), files + 1);

        let index = fs::read(path.join("model.safetensors.index.json")).unwrap();
        let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
        assert_eq!(index["metadata"]["total_size"], checkpoint.bytes());
        assert_eq!(index["weight_map"].as_object().unwrap().len(), tensors);
        for (number, file) in checkpoint.files().iter().enumerate() {
            let bytes = fs::read(&file.path).unwrap();
            let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            for name in theirs.names() {
                let info = checkpoint.tensor(name).unwrap();
                assert_eq!(info.file, number);
                assert!(info.offset.is_multiple_of(2), "the header is padded");
                assert!(
                    file.path
                        .ends_with(index["weight_map"][name].as_str().unwrap())
                );
            }
        }

        let before = fs::read(&checkpoint.files()[0].path).unwrap();
        let (_, refused) = failure_of(synth().arg("--json"), 1);
        assert!(refused.contains("exists already"), "{refused}");
        stdout_of(synth().args(["--force", "--seed", "3"]));
        let after = fs::read(&checkpoint.files()[0].path).unwrap();
        assert!(before != after && before.len() == after.len());
        stdout_of(ckload().arg(&path).args(["-q", "--resident"]));
    }
}

#[test]
fn a_file_is_not_replaced_by_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    fs::write(&path, "mine").unwrap();
    let command = ["synth", "llama", "--size", "tiny", "--force"];
    let (_, refused) = failure_of(ckload().args(command).arg(&path).arg("--json"), 1);
    assert!(refused.contains("is not a folder"), "{refused}");
    assert_eq!(fs::read(&path).unwrap(), b"mine");
}
