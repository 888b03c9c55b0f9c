//! The contract with scripts, key by key.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use serde_json::{Value, json};

use crate::support::{Model, assert_keys, ckload, failure_of, json_of};

const RUN: &str =
    "seconds open_seconds bytes bytes_per_second io allocation page_faults peak_pool_bytes";

fn assert_run(run: &Value) {
    assert_keys(run, RUN);
    assert_keys(&run["io"], "buffered_bytes direct_bytes mmap_bytes reads");
    assert_keys(
        &run["allocation"],
        "fresh reused fresh_bytes reused_bytes fresh_seconds reuse_seconds",
    );
    assert!(run["seconds"].as_f64().unwrap() > 0.0);
    assert!(
        run["bytes"].is_u64() && run["page_faults"].is_u64() && run["peak_pool_bytes"].is_u64()
    );
}

#[test]
fn a_load() {
    let model = Model::tiny();
    let report = json_of(ckload().arg(model.path()).arg("--json"));
    assert_keys(&report, "schema models runs savings pool peak_rss_bytes");
    assert_eq!(report["schema"], 1);
    assert_eq!(
        report["models"],
        json!([{"path": model.path(), "format": "safetensors", "files": 1, "tensors": 30, "bytes": 1_051_520}])
    );
    let runs = report["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 1);
    assert_run(&runs[0]);
    assert_eq!(runs[0]["bytes"], 1_051_520);
    assert_keys(&report["savings"], "seconds ratio method");
    assert_eq!(report["savings"]["method"], "estimated");
    assert_keys(
        &report["pool"],
        "max_bytes pinned_bytes pin_failures huge_pages threads",
    );
    assert!(
        report["pool"]["max_bytes"].is_u64(),
        "a stream's pool is bounded"
    );
    assert!(report["peak_rss_bytes"].is_u64());
}

#[test]
fn a_comparison_has_both_sides() {
    let model = Model::of_large_tensors(4);
    let report = json_of(
        ckload()
            .arg(model.path())
            .args(["--json", "--compare", "--resident"]),
    );
    assert_keys(
        &report,
        "schema models runs baseline_runs savings pool peak_rss_bytes",
    );
    for side in ["runs", "baseline_runs"] {
        let runs = report[side].as_array().unwrap();
        assert_eq!(runs.len(), 5, "{side}");
        runs.iter().for_each(assert_run);
    }
    for baseline in report["baseline_runs"].as_array().unwrap() {
        assert_eq!(baseline["allocation"]["reused"], 0);
    }
    assert_eq!(report["savings"]["method"], "measured");
    assert_eq!(
        report["pool"]["max_bytes"],
        Value::Null,
        "a resident load takes what it needs"
    );
    // Parsing a number from JSON may change its last digit.
    let difference = report["savings"]["seconds"].as_f64().unwrap() - median_difference(&report);
    assert!(difference.abs() < 1e-12, "{difference}");
}

#[test]
fn what_the_machine_can_do_is_beside_the_model() {
    let model = Model::of_large_tensors(12);
    let load = |options: &[&str]| json_of(ckload().arg(model.path()).arg("--json").args(options));
    let report = load(&[]);
    assert_keys(
        &report["models"][0],
        "path format files tensors bytes limit",
    );
    let limit = &report["models"][0]["limit"];
    assert_keys(limit, "bytes_per_second direct");
    assert!(limit["bytes_per_second"].as_f64().unwrap() > 0.0);
    assert!(limit["direct"].is_boolean());
    for options in [&["-q"][..], &["--io", "mmap"]] {
        let models = &load(options)["models"];
        assert_keys(&models[0], "path format files tensors bytes");
    }
}

fn median_difference(report: &Value) -> f64 {
    let median = |side: &str| {
        let mut seconds: Vec<f64> = report[side]
            .as_array()
            .unwrap()
            .iter()
            .map(|run| run["seconds"].as_f64().unwrap())
            .collect();
        seconds.sort_by(f64::total_cmp);
        seconds[seconds.len() / 2]
    };
    median("baseline_runs") - median("runs")
}

#[test]
fn runs_of_several_models_come_model_by_model() {
    let (tiny, large) = (Model::tiny(), Model::of_large_tensors(2));
    let report = json_of(
        ckload()
            .args([tiny.path(), large.path()])
            .args(["--json", "--repeat", "2"]),
    );
    let bytes: Vec<u64> = report["runs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|run| run["bytes"].as_u64().unwrap())
        .collect();
    assert_eq!(bytes, [1_051_520, 1_051_520, 4 << 20, 4 << 20]);
    assert_eq!(report["models"].as_array().unwrap().len(), 2);
}

#[test]
fn quiet_json_is_still_json() {
    let model = Model::tiny();
    assert_eq!(
        json_of(ckload().arg(model.path()).args(["--json", "-q"]))["schema"],
        1
    );
}

#[test]
fn inspect() {
    let model = Model::tiny();
    let report = json_of(ckload().arg("inspect").arg(model.path()).arg("--json"));
    assert_keys(&report, "schema path format files metadata tensors");
    assert_eq!(report["schema"], 1);
    assert_eq!(report["path"], json!(model.path()));
    assert_eq!(report["format"], "safetensors");
    assert_eq!(report["metadata"], json!({"format": "pt"}));
    let bytes = std::fs::metadata(model.path()).unwrap().len();
    assert_eq!(
        report["files"],
        json!([{"path": model.path(), "bytes": bytes}])
    );
    let tensors = report["tensors"].as_array().unwrap();
    assert_eq!(tensors.len(), 30);
    for tensor in tensors {
        assert_keys(tensor, "name dtype shape bytes file offset");
    }
    let last = &tensors[29];
    assert_eq!(
        *last,
        json!({
            "name": "wte.weight", "dtype": "F32", "shape": [257, 96], "bytes": 98_688, "file": 0,
            "offset": bytes - 98_688,
        })
    );
}

#[test]
fn a_failure() {
    let (json, message) = failure_of(ckload().args(["/nowhere/model.safetensors", "--json"]), 1);
    assert_keys(&json, "schema error");
    assert_keys(&json["error"], "kind message path");
    assert_eq!(json["schema"], 1);
    assert_eq!(json["error"]["kind"], "io");
    assert_eq!(json["error"]["path"], "/nowhere/model.safetensors");
    assert_eq!(
        message,
        format!("error: {}\n", json["error"]["message"].as_str().unwrap())
    );
}

#[test]
fn a_dry_run() {
    let model = Model::tiny();
    let report = json_of(ckload().arg(model.path()).args(["--dry-run", "--json"]));
    assert_keys(&report, "schema models budget plans");
    let plan = &report["plans"][0];
    assert_keys(plan, "files slots places reads gathers");
    assert_eq!(plan["files"], json!([model.path()]));
    let places = plan["places"].as_array().unwrap();
    assert_eq!(places.len(), 30);
    assert_keys(&places[0], "tensor slot offset len");
    assert_eq!(places[29]["tensor"], "wte.weight");
    assert_eq!(places[29]["len"], 98_688);
    let read = &plan["reads"][0];
    assert_keys(read, "file offset len span parts");
    assert_keys(&read["parts"][0], "slot offset len");
    let read_bytes: u64 = plan["reads"]
        .as_array()
        .unwrap()
        .iter()
        .map(|read| read["len"].as_u64().unwrap())
        .sum();
    assert_eq!(read_bytes, 1_051_520);
}

#[test]
fn a_path_that_is_not_utf_8_is_shown_as_well_as_it_can_be() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder
        .path()
        .join(OsStr::from_bytes(b"m\xffdel.safetensors"));
    ckload::synth::Gpt2::TINY
        .blueprint()
        .write_file(&path, 0)
        .unwrap();
    let load = json_of(ckload().arg(&path).arg("--json"));
    let inspection = json_of(ckload().arg("inspect").arg(&path).arg("--json"));
    for shown in [
        &load["models"][0]["path"],
        &inspection["path"],
        &inspection["files"][0]["path"],
    ] {
        assert!(
            shown
                .as_str()
                .unwrap()
                .ends_with("m\u{fffd}del.safetensors"),
            "{shown}"
        );
    }
}
