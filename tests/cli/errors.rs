//! What goes wrong is told in one line, with exit status 1.

use std::fs;
use std::os::unix::fs::symlink;

use crate::support::{Model, ckload, failure_of, plain_under};

/// The error's name in JSON, and the line that people see.
fn failure(model: &Model, options: &[&str]) -> (String, String) {
    let (json, message) = failure_of(ckload().arg(model.path()).arg("--json").args(options), 1);
    assert_eq!(message.lines().count(), 1, "{message}");
    (json["error"]["kind"].as_str().unwrap().to_owned(), message)
}

#[test]
fn a_git_lfs_pointer_is_called_by_its_name() {
    let pointer = b"version https://git-lfs.github.com/spec/v1\n\
        oid sha256:248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707\nsize 548105171\n";
    let (kind, message) = failure(&Model::holding(pointer), &[]);
    assert_eq!(kind, "lfs_pointer");
    assert!(message.contains("git lfs pull"), "{message}");
}

#[test]
fn a_download_that_stopped_short_says_what_is_missing() {
    let model = Model::tiny();
    let bytes = fs::read(model.path()).unwrap();
    fs::write(model.path(), &bytes[..bytes.len() - 1000]).unwrap();
    let (kind, message) = failure(&model, &[]);
    assert_eq!(kind, "truncated");
    assert!(message.contains("1000 are missing"), "{message}");
}

#[test]
fn a_web_page_is_called_by_its_name() {
    let (kind, _) = failure(
        &Model::holding(b"<!DOCTYPE html><html><body>Log in</body></html>"),
        &[],
    );
    assert_eq!(kind, "html_page");
}

#[test]
fn the_second_model_is_checked_before_the_first_is_loaded() {
    let model = Model::tiny();
    let run = ckload()
        .arg(model.path())
        .arg("/nowhere/model")
        .assert()
        .code(1)
        .get_output()
        .clone();
    assert!(run.stdout.is_empty());
    assert!(String::from_utf8_lossy(&run.stderr).contains("/nowhere/model"));
}

#[test]
fn globs_that_match_nothing_are_a_mistake() {
    let (kind, message) = failure(&Model::tiny(), &["--include", "transformer.*"]);
    assert_eq!(kind, "nothing_selected");
    assert!(message.contains("ckload inspect"), "{message}");
}

#[test]
fn a_glob_that_matches_nothing_beside_others_is_a_warning() {
    let model = Model::tiny();
    let run = ckload()
        .args(["--include", "wte.*", "--exclude", "h.*.atn.*"])
        .arg(model.path())
        .assert()
        .success()
        .get_output()
        .clone();
    let warning = String::from_utf8(run.stderr).unwrap();
    assert!(
        warning.contains("did you mean 'h.*.attn.*', 10 tensors?"),
        "{warning}"
    );
}

#[test]
fn a_mistyped_path_is_answered_with_what_is_there() {
    let model = Model::tiny();
    let run = ckload()
        .arg("--json")
        .arg(model.folder().join("modle.safetensors"))
        .assert()
        .code(1)
        .get_output()
        .clone();
    let message = String::from_utf8(run.stderr).unwrap();
    let meant = format!("did you mean {}?\n", model.path().display());
    assert!(message.ends_with(&meant), "{message}");
}

#[test]
fn links_that_lead_nowhere_are_called_links() {
    let folder = tempfile::tempdir().unwrap();
    for (name, target, said) in [
        (
            "link.bin",
            "gone.bin",
            "link.bin is a link to gone.bin, where nothing is; bring back the file, or point at the checkpoint where it is now\n",
        ),
        (
            "loop.bin",
            "loop.bin",
            "; the link leads back to itself, point at the file\n",
        ),
    ] {
        symlink(target, folder.path().join(name)).unwrap();
        let mut command = ckload();
        command.arg("--json").arg(name).current_dir(folder.path());
        let (json, message) = failure_of(&mut command, 1);
        assert!(message.ends_with(said), "{message}");
        assert_eq!(json["error"]["path"], name);
    }
}

#[test]
fn a_budget_below_the_largest_tensor_says_what_works() {
    let (kind, message) = failure(&Model::of_large_tensors(1), &["--budget", "1MiB"]);
    assert_eq!(kind, "budget_too_small");
    assert!(message.contains("2097152"), "{message}");
}

/// Loads with a timeline that is not to be had: no file may have a byte.
#[test]
fn a_timeline_that_cannot_be_written_loses_no_report() {
    let model = Model::tiny();
    let folder = tempfile::tempdir().unwrap();
    let run = |options: &[&str]| {
        let limited = r#"trap "" XFSZ; ulimit -f 0; exec "$0" "$@""#;
        let output = plain_under("sh", &["-c", limited])
            .arg(model.path())
            .args(options)
            .arg("--timeline")
            .arg(folder.path().join("load.html"))
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = text(output.stderr);
        assert!(said.starts_with("error: cannot write "), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        text(output.stdout)
    };
    let report = run(&[]);
    assert!(report.contains("\nSpeed     "), "{report}");
    let report: serde_json::Value = serde_json::from_str(&run(&["--json"])).unwrap();
    assert_eq!(report["models"][0]["tensors"], 30);
}

#[test]
fn errors_are_told_even_when_quiet() {
    let run = ckload()
        .args(["-q", "/nowhere/model"])
        .assert()
        .code(1)
        .get_output()
        .clone();
    assert!(run.stdout.is_empty());
    assert!(String::from_utf8_lossy(&run.stderr).starts_with("error: "));
}

/// A name may have as many letters as a header.
#[test]
fn what_is_said_of_a_long_name_is_short() {
    let name = "n".repeat(1 << 20);
    let header =
        format!("{{\"{name}\":{{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,1]}}}}");
    let length = (header.len() as u64).to_le_bytes();
    let model = Model::holding(&[&length[..], header.as_bytes(), b"x"].concat());
    let (kind, message) = failure(&model, &[]);
    assert_eq!(kind, "malformed");
    assert!(message.len() < 10_000, "{} bytes", message.len());
    assert!(
        message.contains("model.safetensors is not a valid"),
        "{message}"
    );
    assert!(
        message.contains("its range 0..1 has 1; fetch it"),
        "{message}"
    );
}

#[test]
fn names_of_files_cannot_command_the_terminal() {
    let run = ckload()
        .arg("/nowhere/\u{1b}[2Jmodel")
        .assert()
        .code(1)
        .get_output()
        .clone();
    let message = String::from_utf8(run.stderr).unwrap();
    assert!(message.contains(r"\u{1b}[2Jmodel"), "{message}");
    assert!(!message.contains('\u{1b}'), "{message}");
}
