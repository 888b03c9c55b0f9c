//! Checkpoints to load, and ways to run the command.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use ckload::synth::{Blueprint, Element, Gpt2, TensorSpec};
use ckload::usage;
use rustix::fs::{Advice, fadvise};
use serde_json::Value;
use tempfile::TempDir;

/// A folder with a tiny GPT-2 in it.
pub(crate) struct Model {
    folder: TempDir,
}

impl Model {
    pub(crate) fn tiny() -> Self {
        Self::written(&Gpt2::TINY.blueprint())
    }

    /// `count` tensors of 2 MiB, named `0`, `1`, ….
    pub(crate) fn of_large_tensors(count: usize) -> Self {
        let tensor =
            |number: usize| TensorSpec::random(number.to_string(), Element::F32, [1024, 512]);
        Self::written(&Blueprint::new((0..count).map(tensor).collect()))
    }

    pub(crate) fn written(blueprint: &Blueprint) -> Self {
        let model = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        blueprint.write_file(model.path(), 0).unwrap();
        model
    }

    /// A file that need not be a model.
    pub(crate) fn holding(bytes: &[u8]) -> Self {
        let model = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        std::fs::write(model.path(), bytes).unwrap();
        model
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("model.safetensors")
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// Writes a model of one tensor that is a hole of 256 GiB: hashing it takes minutes, and it takes no room.
pub(crate) fn write_hole(path: &Path) {
    let len = 256u64 << 30;
    let header = format!(r#"{{"hole":{{"dtype":"U8","shape":[{len}],"data_offsets":[0,{len}]}}}}"#);
    let start = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
    std::fs::write(path, &start).unwrap();
    let file = File::options().write(true).open(path).unwrap();
    file.set_len(start.len() as u64 + len).unwrap();
}

/// The command, free of what the environment says about colors, characters and caches.
pub(crate) fn ckload() -> Command {
    Command::from_std(plain())
}

/// The same, for a test that starts it and goes on.
pub(crate) fn plain() -> std::process::Command {
    without_settings(program())
}

/// The same, started by another program.
pub(crate) fn plain_under(wrapper: &str, arguments: &[&str]) -> std::process::Command {
    let mut command = without_settings(wrapper);
    command.args(arguments).arg(program());
    command
}

fn without_settings(program: &str) -> std::process::Command {
    let mut command = std::process::Command::new(program);
    for variable in [
        "NO_COLOR",
        "CI",
        "CLICOLOR",
        "CLICOLOR_FORCE",
        "LC_ALL",
        "LC_CTYPE",
        "LANG",
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "HF_HOME",
        "RUST_LOG",
    ] {
        command.env_remove(variable);
    }
    command
}

fn program() -> &'static str {
    env!("CARGO_BIN_EXE_ckload")
}

/// The file of `model`, of which the page cache has nothing now; where it keeps it, or does not tell, standard error says that a test is left
/// out.
#[allow(clippy::print_stderr)]
pub(crate) fn uncached(model: &Model) -> Option<File> {
    let file = File::open(model.path()).expect("it was written");
    file.sync_all().expect("a disk or none");
    fadvise(&file, 0, None, Advice::DontNeed).expect("advice");
    if usage::cached_bytes(&file) == Some(0) {
        return Some(file);
    }
    eprintln!("not tested: the page cache keeps this file, or does not tell");
    None
}

/// The names of the commands, but for `help`.
pub(crate) fn commands() -> Vec<String> {
    let help = stdout_of(ckload().arg("--help"));
    let lines = help.lines().skip_while(|line| *line != "Commands:");
    let names = lines
        .skip(1)
        .map_while(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect::<Vec<_>>();
    assert!(names.contains(&"inspect".to_owned()), "{names:?}");
    names
}

/// What a run that must succeed prints.
pub(crate) fn stdout_of(command: &mut Command) -> String {
    let output = command.assert().success().get_output().clone();
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "",
        "nothing to complain about"
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The JSON that a run that must succeed prints.
pub(crate) fn json_of(command: &mut Command) -> Value {
    serde_json::from_str(&stdout_of(command)).unwrap()
}

/// The JSON of a run that must fail with `status`, and its message for people.
pub(crate) fn failure_of(command: &mut Command, status: i32) -> (Value, String) {
    let output = command.assert().code(status).get_output().clone();
    let json = serde_json::from_slice(&output.stdout).unwrap();
    (json, String::from_utf8(output.stderr).unwrap())
}

/// Asserts that an object has these keys and no others.
#[track_caller]
pub(crate) fn assert_keys(object: &Value, expected: &str) {
    let found: BTreeSet<&str> = object
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        found,
        expected.split_whitespace().collect(),
        "of {object:#}"
    );
}
