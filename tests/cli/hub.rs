//! `org/name`: found in the cache of Hugging Face that the environment names, never downloaded.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use ckload::synth::Gpt2;
use tempfile::TempDir;

use crate::support::{ckload, failure_of, json_of};

const COMMIT: &str = "607a30d783dfa663caf39e06633721c8d4cfcd7e";
const TAGGED: &str = "11c5a3d5811f50298f278a704980280950aedb10";

/// A folder whose `hub` is a cache with `org/name` and `gpt2` in it, and nothing else.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        home.add("models--org--name", COMMIT, &[("main", COMMIT)]);
        home.add(
            "models--gpt2",
            TAGGED,
            &[("v1.0", TAGGED), ("pr/1", TAGGED), ("evil", "../..")],
        );
        home
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn hub(&self) -> PathBuf {
        self.path().join("hub")
    }

    /// A repository with one snapshot, and these references.
    fn add(&self, name: &str, commit: &str, refs: &[(&str, &str)]) {
        let repository = self.hub().join(name);
        let snapshot = repository.join("snapshots").join(commit);
        let blobs = repository.join("blobs");
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir_all(&blobs).unwrap();
        let tiny = Gpt2::TINY.blueprint();
        tiny.write_file(blobs.join("0a1b"), 0).unwrap();
        symlink("../../blobs/0a1b", snapshot.join("model.safetensors")).unwrap();
        for (name, commit) in refs {
            let path = repository.join("refs").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, commit).unwrap();
        }
    }
}

/// The command in an empty folder, with a home that has no cache.
fn ckload_in(folder: &Path) -> assert_cmd::Command {
    let mut command = ckload();
    command.current_dir(folder).env_remove("XDG_CACHE_HOME");
    command.env("HOME", "/nowhere");
    command
}

#[test]
fn the_environment_names_the_cache() {
    let home = Home::new();
    let empty = tempfile::tempdir().unwrap();
    let below = tempfile::tempdir().unwrap();
    fs::create_dir_all(below.path().join(".cache")).unwrap();
    symlink(home.path(), below.path().join(".cache/huggingface")).unwrap();
    let cache = below.path().join(".cache");
    let hub = home.hub();
    for variables in [
        &[("HF_HUB_CACHE", hub.as_path())][..],
        &[("HUGGINGFACE_HUB_CACHE", &hub)],
        &[("HF_HOME", home.path())],
        &[("XDG_CACHE_HOME", &cache)],
        &[("HOME", below.path())],
        &[("HF_HUB_CACHE", &hub), ("HF_HOME", empty.path())],
        &[("HF_HOME", home.path()), ("HOME", empty.path())],
        &[("HF_HUB_CACHE", Path::new("")), ("HF_HOME", home.path())],
        &[("HF_HOME", Path::new("~/huggingface")), ("HOME", &cache)],
    ] {
        let mut command = ckload_in(empty.path());
        let report = json_of(
            command
                .envs(variables.iter().copied())
                .args(["inspect", "--json", "org/name"]),
        );
        assert_eq!(report["path"], "org/name", "{variables:?}");
        assert_eq!(report["tensors"].as_array().unwrap().len(), 30);
        let file = report["files"][0]["path"].as_str().unwrap();
        assert!(
            file.ends_with(&format!("{COMMIT}/model.safetensors")),
            "{file}"
        );
    }
}

#[test]
fn revisions_are_branches_tags_and_commits() {
    let home = Home::new();
    let empty = tempfile::tempdir().unwrap();
    let run = |model: &str| {
        let mut command = ckload_in(empty.path());
        command.env("HF_HOME", home.path()).args(["--json", model]);
        command
    };
    for model in [
        "org/name",
        "org/name@main",
        &format!("org/name@{COMMIT}"),
        "gpt2",
        "gpt2@v1.0",
        "gpt2@pr/1",
        &format!("gpt2@{TAGGED}"),
    ] {
        let report = json_of(&mut run(model));
        assert_eq!(report["models"][0]["tensors"], 30, "{model}");
    }
    for (model, kind, says) in [
        (
            "org/name@v2",
            "no_snapshot",
            "`hf download org/name --revision v2`",
        ),
        ("org/name@", "no_snapshot", "no revision"),
        ("org/name@../main", "no_snapshot", "no revision"),
        ("org/name@/etc", "no_snapshot", "no revision"),
        ("gpt2@main", "no_snapshot", "hf download gpt2"),
        ("gpt2@evil", "no_snapshot", "refs/evil"),
        ("org/other", "not_cached", "`hf download org/other`"),
        (
            "org/other@v2",
            "not_cached",
            "`hf download org/other --revision v2`",
        ),
        ("other", "io", "cannot open other"),
        ("./org/name", "io", "cannot open ./org/name"),
        ("org/../org/name", "io", "cannot open"),
    ] {
        let (json, message) = failure_of(&mut run(model), 1);
        assert_eq!(json["error"]["kind"], kind, "{model}: {message}");
        assert!(message.contains(says), "{model}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

#[test]
fn what_is_not_cached_says_where_was_looked() {
    let home = Home::new();
    let (json, message) = failure_of(
        ckload_in(home.path())
            .env("HF_HOME", home.path())
            .args(["--json", "org/other"]),
        1,
    );
    let hub = home.hub();
    assert!(message.contains(hub.to_str().unwrap()), "{message}");
    assert_eq!(json["error"]["path"], "org/other");
}

#[test]
fn an_existing_path_wins() {
    let home = Home::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("org/name/model.safetensors");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    Gpt2::TINY.blueprint().write_file(&path, 0).unwrap();
    let mut command = ckload_in(folder.path());
    let report = json_of(
        command
            .env("HF_HOME", home.path())
            .args(["inspect", "--json", "org/name"]),
    );
    assert_eq!(report["files"][0]["path"], "org/name/model.safetensors");
    // Even if what it holds is no checkpoint.
    fs::remove_file(&path).unwrap();
    let mut command = ckload_in(folder.path());
    let command = command
        .env("HF_HOME", home.path())
        .args(["--json", "org/name"]);
    assert_eq!(failure_of(command, 1).0["error"]["kind"], "no_checkpoint");
}
