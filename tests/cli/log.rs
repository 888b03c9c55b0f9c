//! `RUST_LOG`.

use ckload::synth::{Blueprint, Element, TensorSpec};
use serde_json::Value;

use crate::support::{Model, ckload};

/// The JSON of a load, and what it logs.
fn logged(model: &Model, wanted: &str, arguments: &[&str]) -> (Value, String) {
    let run = ckload()
        .env("RUST_LOG", wanted)
        .arg(model.path())
        .arg("--json")
        .args(arguments)
        .assert()
        .success();
    let output = run.get_output();
    let json = serde_json::from_slice(&output.stdout).unwrap();
    (json, String::from_utf8(output.stderr.clone()).unwrap())
}

#[test]
fn phases_are_told_on_standard_error() {
    let model = Model::tiny();
    for (arguments, span) in [(&[][..], "stream{"), (&["--resident"], "load{")] {
        let (json, log) = logged(&model, "ckload=debug", arguments);
        assert_eq!(json["models"][0]["tensors"], 30);
        for part in ["open{", "opened", "planned", "finished", span] {
            assert!(log.contains(part), "{part} is missing:\n{log}");
        }
        assert!(
            !log.contains(": read ") && !log.contains(": leased "),
            "{log}"
        );
        assert!(!log.contains('\u{1b}'), "no terminal, no colours: {log:?}");
    }
}

#[test]
fn every_read_and_lease_is_told_at_trace() {
    let model = Model::of_large_tensors(5);
    let (json, log) = logged(&model, "trace", &["--threads", "2"]);
    let lines = |what: &str| log.lines().filter(|line| line.contains(what)).count() as u64;
    let run = &json["runs"][0];
    assert_eq!(
        lines(": read file="),
        run["io"]["reads"].as_u64().unwrap(),
        "{log}"
    );
    let allocation = &run["allocation"];
    let leases = allocation["fresh"].as_u64().unwrap() + allocation["reused"].as_u64().unwrap();
    assert_eq!(lines(": leased bytes="), leases, "{log}");
    assert_eq!(lines(": whole name="), 5, "{log}");
    let name = model.path();
    assert_eq!(
        lines(&format!("stream{{path={name:?} tensors=5 bytes=10485760}}")),
        log.lines().filter(|line| !line.contains("open{")).count() as u64,
        "all of it belongs to the load: {log}"
    );
}

#[test]
fn what_is_not_asked_for_is_not_told() {
    let model = Model::tiny();
    for wanted in ["", "off", "error", "hyper=trace"] {
        assert_eq!(logged(&model, wanted, &[]).1, "", "{wanted:?}");
    }
}

/// It may be meant for another program.
#[test]
fn what_is_not_understood_is_told_and_harmless() {
    let (json, log) = logged(&Model::tiny(), "ckload=loud", &[]);
    assert_eq!(json["models"][0]["tensors"], 30);
    assert!(log.starts_with("warning: RUST_LOG=ckload=loud"), "{log}");
    assert_eq!(log.lines().count(), 1);
}

#[test]
fn names_cannot_command_the_terminal() {
    let tensor = TensorSpec::random("a\u{1b}[2Jb\u{202e}\n", Element::F32, [4]);
    let model = Model::written(&Blueprint::new(vec![tensor]));
    let (_, log) = logged(&model, "trace", &[]);
    assert!(log.contains(": whole name="), "{log}");
    assert!(!log.contains(['\u{1b}', '\u{202e}']), "{log:?}");
    let (_, coloured) = logged(&model, "trace", &["--color", "always"]);
    assert!(
        coloured.contains('\u{1b}'),
        "colours where they are asked for"
    );
    assert!(!coloured.contains("\u{1b}[2J") && !coloured.contains('\u{202e}'));
}
