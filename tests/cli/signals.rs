//! Ctrl-C.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Model, plain, write_hole};

/// Against a hang; nothing here takes a hundredth of it.
const PATIENCE: Duration = Duration::from_secs(120);

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "still waiting until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn start(arguments: &[&str], path: &Path) -> Child {
    plain()
        .args(arguments)
        .arg(path)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Whether the process has a handler for SIGINT, which is signal 2.
fn handles_interrupts(child: &Child) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let caught = status
        .lines()
        .find_map(|line| line.strip_prefix("SigCgt:"))
        .unwrap();
    u64::from_str_radix(caught.trim(), 16).unwrap() & 0b10 != 0
}

/// Interrupts the process; it must end with status 130, and in silence.
fn interrupt(mut child: Child) {
    let id = Pid::from_raw(child.id().cast_signed()).unwrap();
    kill_process(id, Signal::INT).unwrap();
    let mut status = None;
    wait_until("the command ends", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    assert_eq!(status.unwrap().code(), Some(130));
    let mut said = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert_eq!(said, "");
}

#[test]
fn a_load_ends_with_status_130() {
    let model = Model::tiny();
    let child = start(&["--repeat", "100000000"], &model.path());
    wait_until("interrupts are handled", || handles_interrupts(&child));
    interrupt(child);
}

#[test]
fn a_benchmark_ends_with_status_130_and_leaves_nothing() {
    let model = Model::tiny();
    let folder = tempfile::tempdir().unwrap();
    let export = folder.path().join("a.json");
    let runs = [
        "bench",
        "--runs",
        "100000000",
        "--cache",
        "warm",
        "--export-json",
    ];
    let arguments = [&runs[..], &[export.to_str().unwrap()]].concat();
    let child = start(&arguments, &model.path());
    wait_until("interrupts are handled", || handles_interrupts(&child));
    interrupt(child);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_verification_ends_with_status_130() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write_hole(&path);
    let child = start(&["verify"], &path);
    wait_until("interrupts are handled", || handles_interrupts(&child));
    interrupt(child);
}

#[test]
fn half_a_checkpoint_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let child = start(&["synth", "gpt2"], &folder.path().join("out.safetensors"));
    let begun = || {
        let mut entries = fs::read_dir(folder.path()).unwrap().map(Result::unwrap);
        entries.any(|entry| entry.metadata().is_ok_and(|metadata| metadata.len() > 0))
    };
    wait_until("the file is begun", begun);
    interrupt(child);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn half_a_timeline_is_removed() {
    let model = Model::of_large_tensors(16);
    let timeline = model.folder().join("load.json");
    let arguments = [
        "--quiet",
        "--io",
        "buffered",
        "--read-size",
        "4KiB",
        "--timeline",
    ];
    let arguments = [&arguments[..], &[timeline.to_str().unwrap()]].concat();
    let mut child = start(&arguments, &model.path());
    let mut ends = false;
    wait_until("the timeline is begun, or whole", || {
        ends = child.try_wait().unwrap().is_some();
        let mut entries = fs::read_dir(model.folder()).unwrap().map(Result::unwrap);
        ends || entries.any(|entry| {
            let is_temporary = entry.file_name().to_string_lossy().starts_with(".ckload-");
            is_temporary && entry.metadata().is_ok_and(|metadata| metadata.len() > 0)
        })
    });
    if !ends {
        let id = Pid::from_raw(child.id().cast_signed()).unwrap();
        kill_process(id, Signal::INT).unwrap();
        // It may have ended by now.
        let code = child.wait().unwrap().code();
        assert!(matches!(code, Some(0 | 130)), "{code:?}");
    }
    let names = fs::read_dir(model.folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    names.retain(|name| name != "load.json");
    assert_eq!(names, ["model.safetensors"]);
}
