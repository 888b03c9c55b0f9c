//! Where output goes, and what it looks like there.

use std::fs::OpenOptions;
use std::process::Stdio;

use ckload::synth::{Blueprint, Element, TensorSpec};

use crate::support::{Model, ckload, plain, stdout_of};

const ESCAPE: char = '\u{1b}';

/// The command, made to believe that its output is for people to look at.
fn colorful() -> assert_cmd::Command {
    let mut command = ckload();
    command.env("CLICOLOR_FORCE", "1");
    command
}

#[test]
fn what_is_not_a_terminal_gets_no_escapes_and_no_bar() {
    let model = Model::tiny();
    let run = ckload()
        .arg(model.path())
        .assert()
        .success()
        .get_output()
        .clone();
    assert!(!String::from_utf8(run.stdout).unwrap().contains(ESCAPE));
    assert!(run.stderr.is_empty());
}

#[test]
fn colors_are_as_asked() {
    let model = Model::tiny();
    let colored =
        |command: &mut assert_cmd::Command| stdout_of(command.arg(model.path())).contains(ESCAPE);
    assert!(colored(ckload().args(["--color", "always"])));
    assert!(colored(&mut colorful()));
    assert!(!colored(colorful().args(["--color", "never"])));
    assert!(!colored(&mut ckload()));
}

#[test]
fn no_color_counts() {
    let model = Model::tiny();
    let text = stdout_of(colorful().env("NO_COLOR", "1").arg(model.path()));
    assert!(!text.contains(ESCAPE), "{text}");
}

#[test]
fn json_has_no_colors() {
    let model = Model::tiny();
    let text = stdout_of(
        ckload()
            .arg(model.path())
            .args(["--json", "--color", "always"]),
    );
    assert!(!text.contains(ESCAPE));
}

#[test]
fn a_closed_pipe_is_no_error() {
    let model = Model::written(&Blueprint::new(
        (0..5000)
            .map(|number| TensorSpec::random(format!("tensor.{number}"), Element::F32, [1]))
            .collect(),
    ));
    for options in [
        &["inspect"][..],
        &["inspect", "--json"],
        &["--dry-run"],
        &[],
        &["--json"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let run = plain()
            .args(options)
            .arg(model.path())
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert_eq!(run.status.code(), Some(0), "{options:?}");
        assert_eq!(String::from_utf8_lossy(&run.stderr), "", "{options:?}");
    }
}

#[test]
fn a_full_disk_is_an_error() {
    let model = Model::tiny();
    for options in [&["inspect"][..], &[], &["--json"]] {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let run = plain()
            .args(options)
            .arg(model.path())
            .stdout(full)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert_eq!(run.status.code(), Some(1), "{options:?}");
        let message = String::from_utf8_lossy(&run.stderr);
        assert!(
            message.contains("cannot write to standard output"),
            "{options:?}: {message}"
        );
    }
}
