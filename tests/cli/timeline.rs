//! `--timeline FILE`: what each thread did when, as a page or as a trace.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;

use crate::support::{Model, ckload, failure_of, json_of, stdout_of};

/// The events of a trace.
fn events(path: &Path) -> Vec<Value> {
    let trace: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    trace["traceEvents"].as_array().unwrap().clone()
}

fn of_category<'a>(events: &'a [Value], category: &str) -> Vec<&'a Value> {
    let has = |event: &&Value| event["cat"] == category;
    events.iter().filter(has).collect()
}

/// The sum of a number of each event.
fn sum(events: &[&Value], key: &str) -> u64 {
    let numbers = events.iter().map(|event| event["args"][key].as_u64());
    numbers.map(Option::unwrap).sum()
}

#[test]
fn a_trace_has_every_read_within_the_load() {
    let model = Model::of_large_tensors(6);
    let file = model.folder().join("load.json");
    for io in ["buffered", "direct", "auto", "mmap"] {
        let report = json_of(
            ckload()
                .arg(model.path())
                .args(["--json", "--threads", "3", "--io", io, "--timeline"])
                .arg(&file),
        );
        let run = &report["runs"][0];
        let events = events(&file);
        let reads = of_category(&events, "read");
        assert_eq!(
            reads.len() as u64,
            run["io"]["reads"].as_u64().unwrap(),
            "{io}"
        );
        let read: u64 = ["buffered_bytes", "direct_bytes", "mmap_bytes"]
            .iter()
            .map(|key| run["io"][key].as_u64().unwrap())
            .sum();
        assert_eq!(sum(&reads, "bytes"), read, "{io}");
        let [load] = of_category(&events, "load")[..] else {
            panic!("one load: {events:?}");
        };
        assert_eq!(load["args"]["bytes"], report["models"][0]["bytes"]);
        let end = load["dur"].as_f64().unwrap();
        // The trace ends when the recorder hears of the report, a little after it was made.
        let seconds = run["seconds"].as_f64().unwrap();
        assert!(end >= seconds * 1e6 - 1.0, "{end} µs, {seconds} s");
        let size = fs::metadata(model.path()).unwrap().len();
        let mut tensors = BTreeSet::new();
        for event in &reads {
            let (start, length) = (
                event["ts"].as_f64().unwrap(),
                event["dur"].as_f64().unwrap(),
            );
            assert!(
                start >= 0.0 && length >= 0.0 && start + length <= end + 0.01,
                "{event}"
            );
            let args = &event["args"];
            assert_eq!(args["file"], "model.safetensors");
            assert!(args["offset"].as_u64().unwrap() + args["bytes"].as_u64().unwrap() <= size);
            tensors.insert(args["tensor"].as_str().unwrap().to_owned());
        }
        assert!(
            tensors.iter().all(|name| name.parse::<u32>().unwrap() < 6),
            "{tensors:?}"
        );
    }
}

#[test]
fn a_trace_names_its_threads_and_none_does_two_things_at_once() {
    let model = Model::of_large_tensors(8);
    let file = model.folder().join("load.json");
    stdout_of(
        ckload()
            .arg(model.path())
            .args(["--quiet", "--resident", "--threads", "2", "--timeline"])
            .arg(&file),
    );
    let events = events(&file);
    let named = |kind: &str| -> BTreeMap<u64, String> {
        let events = events.iter().filter(|event| event["name"] == kind);
        events
            .map(|event| {
                let name = event["args"]["name"].as_str().unwrap();
                (event["tid"].as_u64().unwrap(), name.to_owned())
            })
            .collect()
    };
    assert_eq!(named("process_name")[&0], "model.safetensors");
    let threads = named("thread_name");
    assert_eq!(threads[&0], "load");
    let mut ends: BTreeMap<u64, f64> = BTreeMap::new();
    for event in events
        .iter()
        .filter(|event| event["ph"] == "X" && event["cat"] != "load")
    {
        let thread = event["tid"].as_u64().unwrap();
        let name = &threads[&thread];
        assert!(name == "main" || name.starts_with("ckload-"), "{name}");
        let start = event["ts"].as_f64().unwrap();
        let last = ends.insert(thread, start + event["dur"].as_f64().unwrap());
        assert!(
            last.is_none_or(|last| last <= start + 0.01),
            "{event} begins before {last:?}"
        );
    }
    let memory = of_category(&events, "memory");
    assert!(
        memory.iter().any(|event| event["name"] == "new memory"),
        "{memory:?}"
    );
}

#[test]
fn the_last_load_with_the_pool_is_shown() {
    let model = Model::of_large_tensors(4);
    let file = model.folder().join("load.json");
    let report = json_of(
        ckload()
            .arg(model.path())
            .args([
                "--json",
                "--resident",
                "--compare",
                "--repeat",
                "2",
                "--pin",
                "never",
            ])
            .arg("--timeline")
            .arg(&file),
    );
    let last = &report["runs"][1];
    let events = events(&file);
    let memory = of_category(&events, "memory");
    assert!(
        memory
            .iter()
            .all(|event| event["name"] == "recycled buffer"),
        "{memory:?}"
    );
    assert_eq!(
        memory.len() as u64,
        last["allocation"]["reused"].as_u64().unwrap()
    );
    assert_eq!(
        sum(&memory, "bytes"),
        last["allocation"]["reused_bytes"].as_u64().unwrap()
    );
    assert_eq!(of_category(&events, "load").len(), 1);
}

#[test]
fn each_model_has_a_timeline_of_its_own() {
    let (one, other) = (Model::tiny(), Model::of_large_tensors(3));
    let run = |name: &str| {
        let file = one.folder().join(name);
        stdout_of(
            ckload()
                .args([one.path(), other.path()])
                .args(["--quiet", "--timeline"])
                .arg(&file),
        );
        file
    };
    let events = events(&run("both.json"));
    let loads = of_category(&events, "load");
    assert_eq!(loads.len(), 2);
    assert_ne!(loads[0]["pid"], loads[1]["pid"]);
    let page = fs::read_to_string(run("both.html")).unwrap();
    assert!(page.contains("<h1>Loads of 2 models</h1>"));
    assert_eq!(page.matches("<h2>model.safetensors</h2>").count(), 2);
    assert_eq!(page.matches("<figure>").count(), 2);
}

#[test]
fn a_page_needs_nothing_else_and_suits_every_screen() {
    let model = Model::of_large_tensors(6);
    let file = model.folder().join("load.html");
    stdout_of(
        ckload()
            .arg(model.path())
            .args(["--quiet", "--compare", "--repeat", "3", "--timeline"])
            .arg(&file),
    );
    let page = fs::read_to_string(&file).unwrap();
    check_elements(&page);
    for absent in [
        "http:", "https:", "<script", "<link", "@import", "url(", "src=",
    ] {
        assert!(!page.contains(absent), "{absent}");
    }
    for part in [
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">",
        "prefers-color-scheme: dark",
        "<h1>Load of model.safetensors</h1>",
        "role=\"img\" aria-label=\"What ",
        "<ul class=\"legend\">",
        " ms</text>",
        "without the pool: median",
        "with the pool: median",
    ] {
        assert!(page.contains(part), "{part} is missing:\n{page}");
    }
    // Every colour is one of the style sheet's, in both schemes.
    let (style, body) = page.split_once("</style>").unwrap();
    let (light, dark) = style
        .split_once("@media (prefers-color-scheme: dark)")
        .unwrap();
    for class in body.split("class=\"").skip(1) {
        let class = class.split('"').next().unwrap();
        assert!(style.contains(&format!(".{class}")), "{class} has no style");
    }
    let variables = light.matches("\n  --").count();
    assert!(variables > 10);
    assert_eq!(dark.matches("\n    --").count(), variables);
}

/// Checks that elements are closed in the order in which they were opened.
#[track_caller]
fn check_elements(page: &str) {
    let mut open: Vec<&str> = Vec::new();
    for part in page
        .strip_prefix("<!doctype html>")
        .unwrap()
        .split('<')
        .skip(1)
    {
        let (tag, _) = part.split_once('>').expect("a tag ends");
        let name = tag.trim_end_matches('/').split(' ').next().unwrap();
        if let Some(closed) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(closed), "closed before {part:.60}");
        } else if name != "meta" && !tag.ends_with('/') {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "never closed: {open:?}");
}

#[test]
fn the_file_is_whole_or_not_there() {
    let model = Model::tiny();
    let file = model.folder().join("load.html");
    let run = || {
        let mut command = ckload();
        command.arg(model.path()).arg("--timeline").arg(&file);
        command
    };
    stdout_of(&mut run());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    let usual = model.folder().join("usual");
    fs::write(&usual, "").unwrap();
    assert_eq!(
        mode(&file),
        mode(&usual),
        "who may read the user's files may read this"
    );
    fs::remove_file(usual).unwrap();
    fs::write(&file, "before").unwrap();
    fs::write(model.path(), "no model").unwrap();
    failure_of(run().arg("--json"), 1);
    assert_eq!(fs::read_to_string(&file).unwrap(), "before");
    let mut names: Vec<_> = fs::read_dir(model.folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(
        names,
        ["load.html", "model.safetensors"],
        "nothing is left behind"
    );
}

#[test]
fn a_file_that_cannot_be_written_is_named_before_anything_is_loaded() {
    let model = Model::tiny();
    let file = model.folder().join("nowhere").join("load.json");
    let (json, message) = failure_of(
        ckload()
            .arg(model.path())
            .args(["--json", "--timeline"])
            .arg(&file),
        1,
    );
    assert_eq!(json["error"]["kind"], "io");
    assert_eq!(json["error"]["path"], file.to_str().unwrap());
    assert!(
        message.contains("nowhere/load.json: No such file or directory"),
        "{message}"
    );
}

#[test]
fn other_names_are_refused_and_the_two_that_are_not_are_named() {
    for name in ["load", "load.svg", "load.html.gz", ".json"] {
        let run = ckload().args(["m", "--timeline", name]).assert().code(2);
        let message = String::from_utf8(run.get_output().stderr.clone()).unwrap();
        assert!(
            message.contains(".html") && message.contains(".json"),
            "{message}"
        );
    }
    ckload()
        .args(["m", "--dry-run", "--timeline", "load.html"])
        .assert()
        .code(2);
}
