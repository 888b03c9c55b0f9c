//! `ckload inspect`.

use ckload::synth::{Blueprint, Element, TensorSpec};

use crate::support::{Model, ckload, stdout_of};

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
    assert!(
        text.contains("\nfile 0: ") && text.contains("\nfile 1: "),
        "{text}"
    );
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
