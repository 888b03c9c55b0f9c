//! `ckload inspect`.

use ckload::synth::{Blueprint, Element, TensorSpec};

use crate::support::{Model, ckload, json_of, stdout_of};

#[test]
fn lists_tensors_types_and_totals() {
    let model = Model::written(
        &Blueprint::new(vec![
            TensorSpec::random("embedding.weight", Element::F32, [300, 4]),
            TensorSpec::random("scale", Element::Bf16, []),
            TensorSpec::random("nothing", Element::Bf16, [0, 7]),
        ])
        .with_metadata("format", "pt"),
    );
    let text = stdout_of(
        ckload()
            .current_dir(model.folder())
            .args(["inspect", "model.safetensors"]),
    );
    assert_eq!(
        text,
        "\
model.safetensors
safetensors, 1 file, 3 tensors, 1,201 parameters, 4.7 KiB
metadata: format = pt

name              dtype     shape  bytes  file
embedding.weight    F32  [300, 4]  4,800     0
scale              BF16        []      2     0
nothing            BF16    [0, 7]      0     0

dtype  tensors  parameters  bytes
BF16         2           1      2
F32          1       1,200  4,800
"
    );
}

#[test]
fn names_cannot_command_the_terminal() {
    let hostile = "a\u{1b}]0;owned\u{7}\u{202e}b";
    let model = Model::written(
        &Blueprint::new(vec![TensorSpec::random(hostile, Element::F32, [1])])
            .with_metadata("k\u{1b}[2J", "v\r\n"),
    );
    let text = stdout_of(ckload().arg("inspect").arg(model.path()));
    assert!(text.contains(r"a\u{1b}]0;owned\u{7}\u{202e}b"), "{text}");
    assert!(text.contains(r"metadata: k\u{1b}[2J = v\r\n"), "{text}");
    assert!(
        text.chars()
            .all(|character| character == '\n' || !character.is_control()),
        "{text:?}"
    );
}

#[test]
fn a_model_of_several_files_lists_them() {
    let model = Model::tiny();
    let other = Blueprint::new(vec![TensorSpec::random("other", Element::F32, [5])]);
    other
        .write_file(model.folder().join("more.safetensors"), 0)
        .unwrap();
    let text = stdout_of(ckload().arg("inspect").arg(model.folder()));
    assert!(text.contains("2 files, 31 tensors"), "{text}");
    let totals = "\n
file                  tensors  parameters      bytes
0: model.safetensors       30     262,880  1,051,520
1: more.safetensors         1           5         20
";
    assert!(text.ends_with(totals), "{text}");
}

/// Every line, whatever the header holds: a terminal that is not one has 100 columns.
#[test]
fn lines_fit() {
    let long = "x".repeat(1000);
    let model = Model::written(
        &Blueprint::new(vec![
            TensorSpec::random(format!("{long}.weight"), Element::F32, [1]),
            TensorSpec::random("many", Element::F32, vec![1; 1000]),
        ])
        .with_metadata("long", &long)
        .with_metadata(&long, "short"),
    );
    let text = stdout_of(
        ckload()
            .current_dir(model.folder())
            .args(["inspect", "model.safetensors"]),
    );
    for line in text.lines() {
        assert!(line.chars().count() <= 100, "{line}");
    }
    assert!(text.contains("xxxx.weight    F32"), "{text}");
    assert!(text.contains("metadata: long = xxxx"), "{text}");
    assert!(
        text.contains("[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1…  "),
        "{text}"
    );
}

#[test]
fn what_is_ignored_is_told() {
    let model = Model::tiny();
    for name in [
        "pytorch_model.bin",
        "model.fp16.safetensors",
        "optimizer.pt",
    ] {
        std::fs::write(model.folder().join(name), "not looked at").unwrap();
    }
    let warning = "also holds model.fp16.safetensors, pytorch_model.bin; ignored";
    for arguments in [
        &["inspect"][..],
        &["inspect", "--json"],
        &[],
        &["--dry-run"],
    ] {
        let run = ckload()
            .args(arguments)
            .arg(model.folder())
            .assert()
            .code(0);
        let stderr = String::from_utf8_lossy(&run.get_output().stderr).into_owned();
        assert!(stderr.starts_with("warning: "), "{stderr}");
        assert!(stderr.contains(warning), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
    for arguments in [&["inspect", "-q"][..], &["-q"]] {
        assert_eq!(stdout_of(ckload().args(arguments).arg(model.folder())), "");
    }
    let run = ckload()
        .args(["inspect", "--json"])
        .arg(model.folder())
        .assert();
    let json: serde_json::Value = serde_json::from_slice(&run.get_output().stdout).unwrap();
    assert_eq!(json["ignored"].as_array().unwrap().len(), 2);
}

/// 100,100 tensors in 160 files in the published size; here a hundredth of it, and every tensor is listed.
#[test]
fn many_tensors_in_many_files() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("moe");
    ckload()
        .args(["synth", "moe", "--size", "tiny", "-q"])
        .arg(&out)
        .assert()
        .success();
    let text = stdout_of(ckload().arg("inspect").arg(&out));
    let json = json_of(ckload().args(["inspect", "--json"]).arg(&out));
    let tensors = json["tensors"].as_array().unwrap();
    let files = json["files"].as_array().unwrap();
    for tensor in tensors {
        let name = tensor["name"].as_str().unwrap();
        assert!(text.contains(&format!("\n{name} ")), "{name} in {text}");
    }
    let last = format!("\n{}: ", files.len() - 1);
    assert!(text.contains(&last), "{text}");
}

#[test]
fn a_checkpoint_of_nothing_is_fine() {
    let model = Model::written(&Blueprint::new(Vec::new()));
    let text = stdout_of(ckload().arg("inspect").arg(model.path()));
    assert!(text.contains("0 tensors, 0 parameters, 0 B"), "{text}");
}

#[test]
fn quiet_checks_without_printing() {
    let model = Model::tiny();
    assert_eq!(
        stdout_of(ckload().args(["inspect", "-q"]).arg(model.path())),
        ""
    );
}
