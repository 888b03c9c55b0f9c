//! `ckload verify`, and `--verify` on a load.

use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use ckload::synth::{Blueprint, Element, TensorSpec};
use serde_json::{Value, json};

use crate::support::{Model, assert_keys, ckload, failure_of, json_of, plain, stdout_of};

const TENSOR: &str = "name dtype shape bytes sha256";

/// What a run that must fail with status 1 says: on standard output, and on standard error.
fn failing(command: &mut assert_cmd::Command) -> (String, String) {
    let output = command.assert().code(1).get_output().clone();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr))
}

/// What coreutils says that the digest of `path` is.
fn sha256sum(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    let line = String::from_utf8(output.stdout).unwrap();
    line[..64].to_owned()
}

/// Records the digests of `model` in a file beside it.
fn record(model: &Model) -> PathBuf {
    let path = model.folder().join("recorded.json");
    let printed = stdout_of(ckload().arg("verify").arg(model.path()).arg("--json"));
    fs::write(&path, printed).unwrap();
    path
}

/// Inverts the last byte: the last tensor's, `wte.weight` of a tiny GPT-2.
fn damage(path: &Path) {
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let last = file.metadata().unwrap().len() - 1;
    let mut byte = [0];
    file.read_exact_at(&mut byte, last).unwrap();
    file.write_all_at(&[!byte[0]], last).unwrap();
}

#[test]
fn json_is_the_contract_and_the_same_each_time() {
    let model = Model::tiny();
    let verify = || json_of(ckload().arg("verify").arg(model.path()).arg("--json"));
    let report = verify();
    assert_keys(&report, "schema path files tensors");
    assert_eq!(report["schema"], 1);
    assert_eq!(report["path"], json!(model.path()));
    let bytes = fs::metadata(model.path()).unwrap().len();
    assert_eq!(
        report["files"],
        json!([{
            "path": model.path(), "bytes": bytes, "sha256": sha256sum(&model.path()),
            "expected_sha256": null,
        }])
    );
    let tensors = report["tensors"].as_array().unwrap();
    assert_eq!(tensors.len(), 30);
    tensors
        .iter()
        .for_each(|tensor| assert_keys(tensor, TENSOR));
    let last = &tensors[29];
    let data = fs::read(model.path()).unwrap();
    let part = model.folder().join("part");
    fs::write(&part, &data[data.len() - 98_688..]).unwrap();
    assert_eq!(
        *last,
        json!({
            "name": "wte.weight", "dtype": "F32", "shape": [257, 96], "bytes": 98_688,
            "sha256": sha256sum(&part),
        })
    );
    assert_eq!(verify(), report);
}

#[test]
fn a_manifest_finds_what_is_damaged() {
    let model = Model::tiny();
    let recorded = record(&model);
    let verify = || {
        let mut command = ckload();
        command.arg("verify").arg(model.path());
        command.arg("--against").arg(&recorded);
        command
    };
    let text = stdout_of(&mut verify());
    assert!(text.contains("Everything is as recorded in"), "{text}");

    damage(&model.path());
    let (report, culprits) = failing(&mut verify());
    assert!(
        report.contains("wte.weight") && report.contains("tensor's SHA-256 differs"),
        "{report}"
    );
    assert!(report.contains("file's SHA-256 differs"), "{report}");
    let lines: Vec<&str> = culprits.lines().collect();
    assert_eq!(lines.len(), 2, "{culprits}");
    assert!(lines[0].starts_with("mismatch: the file ") && lines[0].contains("model.safetensors"));
    assert!(lines[1].starts_with("mismatch: the tensor \"wte.weight\" has the SHA-256 "));

    let (report, quiet) = failing(verify().arg("-q"));
    assert_eq!((report.as_str(), quiet), ("", culprits));

    let (json, _) = failure_of(verify().arg("--json"), 1);
    assert_keys(&json, "schema path files tensors mismatches");
    let [file, tensor] = &json["mismatches"].as_array().unwrap()[..] else {
        panic!("a file and a tensor: {json:#}");
    };
    assert_keys(file, "kind path expected found");
    assert_eq!(file["kind"], "file_digest");
    assert_eq!(file["path"], json!(model.path()));
    assert_eq!(file["found"], json["files"][0]["sha256"]);
    assert_keys(tensor, "kind name expected found");
    assert_eq!(tensor["kind"], "tensor_digest");
    assert_eq!(tensor["name"], "wte.weight");
    assert_eq!(tensor["found"], json["tensors"][29]["sha256"]);
}

/// Whoever reads a result may stop before its end: `ckload verify … | head -1`.
#[test]
fn a_closed_pipe_hides_no_damage() {
    let model = Model::tiny();
    let recorded = record(&model);
    let run = |command: &[&str]| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = plain()
            .args(command)
            .arg(model.path())
            .arg("--against")
            .arg(&recorded)
            .stdout(writer)
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), said)
    };
    let commands: [&[&str]; 4] = [
        &["verify"],
        &["verify", "--json"],
        &["--verify"],
        &["--verify", "--json"],
    ];
    for command in commands {
        assert_eq!(run(command), (Some(0), String::new()), "{command:?}");
    }
    damage(&model.path());
    for command in commands {
        let (status, said) = run(command);
        assert_eq!(status, Some(1), "{command:?}");
        assert!(said.starts_with("mismatch: "), "{command:?}: {said}");
    }
}

#[test]
fn a_list_of_sha256sum_is_a_manifest() {
    let model = Model::tiny();
    let list = model.folder().join("SHA256SUMS");
    let printed = Command::new("sha256sum")
        .arg("model.safetensors")
        .current_dir(model.folder())
        .output()
        .unwrap();
    fs::write(&list, printed.stdout).unwrap();
    let verify = || {
        let mut command = ckload();
        command.args(["verify", "-q"]).arg(model.folder());
        command.arg("--against").arg(&list);
        command
    };
    assert_eq!(stdout_of(&mut verify()), "");
    damage(&model.path());
    let (_, culprits) = failing(&mut verify());
    assert!(culprits.starts_with("mismatch: the file "), "{culprits}");
    assert_eq!(culprits.lines().count(), 1);
}

#[test]
fn a_manifest_that_is_none_is_refused_in_one_line() {
    let model = Model::tiny();
    let list = model.folder().join("list");
    fs::write(&list, "{\"schema\": 1, ").unwrap();
    for command in [&["verify"][..], &["--verify"]] {
        let (json, message) = failure_of(
            ckload()
                .args(command)
                .arg(model.path())
                .arg("--json")
                .arg("--against")
                .arg(&list),
            1,
        );
        assert_eq!(json["error"]["kind"], "manifest");
        assert_eq!(json["error"]["path"], json!(list));
        assert_eq!(message.lines().count(), 1, "{message}");
        assert!(message.contains("ckload verify --json"), "{message}");
    }
}

#[test]
fn a_hugging_face_blob_is_compared_with_its_name() {
    let model = Model::tiny();
    let digest = sha256sum(&model.path());
    let blobs = model.folder().join("blobs");
    fs::create_dir(&blobs).unwrap();
    let blob = blobs.join(&digest);
    fs::rename(model.path(), &blob).unwrap();
    symlink(Path::new("blobs").join(&digest), model.path()).unwrap();
    let text = stdout_of(ckload().arg("verify").arg(model.path()));
    assert!(
        text.contains("As its name in the Hugging Face cache says: 1 file."),
        "{text}"
    );

    damage(&blob);
    let (json, culprits) = failure_of(ckload().arg("verify").arg(model.path()).arg("--json"), 1);
    assert_eq!(json["files"][0]["expected_sha256"], json!(digest));
    assert_eq!(json["mismatches"][0]["kind"], "blob_name");
    assert!(
        culprits.contains("is damaged: its SHA-256 is"),
        "{culprits}"
    );
    assert!(culprits.contains("download it again"), "{culprits}");
}

/// A model whose last tensor, `weights`, has these values.
fn of_weights(values: &[f32]) -> Model {
    let model = Model::written(&Blueprint::new(vec![
        TensorSpec::random("finite", Element::F32, [4]),
        TensorSpec::random("weights", Element::F32, [values.len() as u64]),
    ]));
    let file = fs::File::options().write(true).open(model.path()).unwrap();
    let end = file.metadata().unwrap().len();
    let bytes: Vec<u8> = values.iter().copied().flat_map(f32::to_le_bytes).collect();
    file.write_all_at(&bytes, end - bytes.len() as u64).unwrap();
    model
}

#[test]
fn what_is_not_finite_fails_if_it_is_looked_for() {
    let values = [
        1.0,
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        -f32::NAN,
        f32::NAN,
    ];
    let model = of_weights(&values);
    let verify = |options: &[&str]| {
        let mut command = ckload();
        command.arg("verify").arg(model.path()).args(options);
        command
    };
    stdout_of(&mut verify(&[]));
    let (report, culprits) = failing(&mut verify(&["--finite"]));
    assert!(report.contains("3 NaN, 2 infinite"), "{report}");
    assert_eq!(
        culprits,
        "mismatch: the tensor \"weights\" is not finite: 3 of its values are NaN, 2 infinite\n"
    );
    let (json, _) = failure_of(&mut verify(&["--finite", "--json"]), 1);
    for tensor in json["tensors"].as_array().unwrap() {
        assert_keys(tensor, &format!("{TENSOR} nan infinite"));
    }
    assert_eq!(json["tensors"][1]["nan"], 3);
    assert_eq!(json["tensors"][1]["infinite"], 2);
    assert_eq!(
        json["mismatches"],
        json!([{"kind": "not_finite", "name": "weights", "nan": 3, "infinite": 2}])
    );
    let model = of_weights(&[1.0, -2.0]);
    let text = stdout_of(
        ckload()
            .args(["verify", "--finite", "-v"])
            .arg(model.path()),
    );
    assert!(text.contains("Every float is finite."), "{text}");
}

#[test]
fn the_report_has_digests_and_what_they_took() {
    let model = Model::tiny();
    let text = stdout_of(
        ckload()
            .arg("verify")
            .arg(model.path())
            .args(["-v", "--io", "buffered", "-j", "2"]),
    );
    for part in [
        "safetensors, 1 file, 30 tensors, ",
        &sha256sum(&model.path()),
        "tensor                  dtype",
        " read in ",
        "\nhashing took ",
        " and reading ",
        "Nothing to compare with: ",
    ] {
        assert!(text.contains(part), "{part:?} is missing:\n{text}");
    }
    assert_eq!(
        stdout_of(ckload().args(["verify", "-q"]).arg(model.path())),
        ""
    );
}

#[test]
fn names_cannot_command_the_terminal() {
    let hostile = "a\u{1b}]0;owned\u{7}\u{202e}b";
    let model = Model::written(&Blueprint::new(vec![TensorSpec::random(
        hostile,
        Element::F32,
        [1],
    )]));
    let recorded = record(&model);
    damage(&model.path());
    let (report, culprits) = failing(
        ckload()
            .args(["verify", "-v"])
            .arg(model.path())
            .arg("--against")
            .arg(&recorded),
    );
    for text in [report, culprits] {
        assert!(text.contains(r"owned"), "{text}");
        assert!(
            text.chars()
                .all(|character| character == '\n' || !character.is_control()),
            "{text:?}"
        );
        assert!(!text.contains('\u{202e}'), "{text:?}");
    }
}

#[test]
fn a_file_that_is_cut_off_is_an_error_as_in_a_load() {
    let model = Model::tiny();
    let bytes = fs::read(model.path()).unwrap();
    fs::write(model.path(), &bytes[..bytes.len() - 1]).unwrap();
    let (json, _) = failure_of(ckload().arg("verify").arg(model.path()).arg("--json"), 1);
    assert_eq!(json["error"]["kind"], "truncated");
}

/// The digests that a load found, as those of `ckload verify`.
fn digests_of(report: &Value) -> &Value {
    let models = report["digests"].as_array().unwrap();
    assert_eq!(models.len(), 1);
    assert_keys(&models[0], "path tensors");
    &models[0]["tensors"]
}

#[test]
fn a_load_hashes_and_compares_what_it_loads() {
    let model = Model::tiny();
    let recorded = record(&model);
    let expected: Value = serde_json::from_slice(&fs::read(&recorded).unwrap()).unwrap();
    for way in [&["--budget", "8MiB"][..], &["--resident", "--repeat", "2"]] {
        let load = || {
            let mut command = ckload();
            command.arg(model.path()).arg("--verify").args(way);
            command
        };
        let report = json_of(load().arg("--json"));
        assert_keys(
            &report,
            "schema models runs digests savings pool peak_rss_bytes",
        );
        assert_eq!(*digests_of(&report), expected["tensors"]);
        for run in report["runs"].as_array().unwrap() {
            assert!(run["digest_seconds"].as_f64().unwrap() > 0.0);
        }
        let text = stdout_of(load().arg("--against").arg(&recorded));
        assert!(text.contains("SHA-256 of 30 tensors took "), "{text}");
        assert!(text.contains("Everything is as recorded in"), "{text}");
    }

    damage(&model.path());
    let load = || {
        let mut command = ckload();
        command
            .arg(model.path())
            .arg("--verify")
            .arg("--against")
            .arg(&recorded);
        command
    };
    let (report, culprits) = failing(&mut load());
    assert!(report.contains("tensor's SHA-256 differs"), "{report}");
    assert!(
        culprits.starts_with("mismatch: the tensor \"wte.weight\""),
        "{culprits}"
    );
    assert_eq!(culprits.lines().count(), 1);
    let (json, _) = failure_of(load().arg("--json"), 1);
    assert_keys(
        &json,
        "schema models runs digests mismatches savings pool peak_rss_bytes",
    );
    assert_eq!(json["mismatches"][0]["name"], "wte.weight");
    assert_eq!(failing(load().arg("-q")), (String::new(), culprits));
    // What was not asked for is not missed.
    let text = stdout_of(load().args(["--exclude", "wte.weight"]));
    assert!(text.contains("SHA-256 of 29 tensors took "), "{text}");
}

#[test]
fn a_load_cannot_be_compared_with_a_list_of_files() {
    let model = Model::tiny();
    let list = model.folder().join("SHA256SUMS");
    fs::write(&list, format!("{}  model.safetensors\n", "0".repeat(64))).unwrap();
    let (json, message) = failure_of(
        ckload()
            .arg(model.path())
            .args(["--json", "--verify", "--against"])
            .arg(&list),
        1,
    );
    assert_eq!(json["error"]["kind"], "no_tensor_digests");
    assert!(message.contains("ckload verify --against"), "{message}");
}
