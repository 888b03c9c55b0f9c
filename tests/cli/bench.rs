//! `ckload bench`, with models small enough for tests.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use assert_cmd::Command;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::browser::check_page;
use crate::support::{Model, assert_keys, ckload, failure_of};

const WAYS: [&str; 12] = [
    "limit",
    "read",
    "mmap-copy",
    "mmap-touch",
    "resident-new",
    "resident",
    "resident-buffered",
    "resident-direct",
    "limit-stream",
    "stream",
    "stream-buffered",
    "stream-direct",
];

fn bench(path: &Path) -> Command {
    let mut command = ckload();
    command.arg("bench").arg(path);
    command
}

/// What a run that must succeed prints; how noisy the machine was is none of a test's business.
fn stdout_of(command: &mut Command) -> String {
    let output = command.assert().success().get_output().clone();
    String::from_utf8(output.stdout).unwrap()
}

fn json_of(command: &mut Command) -> Value {
    serde_json::from_str(&stdout_of(command.arg("--json"))).unwrap()
}

/// The names of what was measured in a state.
fn measured(results: &Value, state: &str) -> Vec<String> {
    let states = results["states"].as_array().unwrap();
    let result = states.iter().find(|result| result["state"] == state);
    let ways = result
        .into_iter()
        .flat_map(|result| result["ways"].as_array().unwrap());
    ways.map(|way| way["way"].as_str().unwrap().to_owned())
        .collect()
}

/// Names of what was left out in a state; `all` if the state was.
fn left_out(results: &Value, state: &str) -> BTreeSet<String> {
    let left_out = results["left_out"].as_array().unwrap().iter();
    left_out
        .filter(|left_out| left_out["state"] == state)
        .inspect(|left_out| assert!(!left_out["reason"].as_str().unwrap().is_empty()))
        .map(|left_out| left_out["way"].as_str().unwrap_or("all").to_owned())
        .collect()
}

/// A tiny model in a file system that has no other place than memory, if this machine has one.
fn in_memory() -> Option<(TempDir, std::path::PathBuf)> {
    let folder = tempfile::tempdir_in("/dev/shm").ok();
    let kind = rustix::fs::statfs("/dev/shm")
        .ok()
        .map(|system| system.f_type);
    let folder = folder.filter(|_| kind == Some(0x0102_1994))?;
    let path = folder.path().join("model.safetensors");
    ckload::synth::Gpt2::TINY
        .blueprint()
        .write_file(&path, 0)
        .unwrap();
    Some((folder, path))
}

#[test]
fn every_way_is_measured_in_both_states_or_left_out_with_a_reason() {
    let model = Model::of_large_tensors(2);
    let results = json_of(bench(&model.path()).args(["--runs", "2"]));
    for state in ["warm", "cold"] {
        let mut names: BTreeSet<String> = measured(&results, state).into_iter().collect();
        let left_out = left_out(&results, state);
        if left_out.contains("all") {
            assert!(names.is_empty() && left_out.len() == 1, "{results:#}");
            continue;
        }
        names.extend(left_out);
        assert_eq!(names, WAYS.map(str::to_owned).into(), "{results:#}");
    }
    assert!(measured(&results, "warm").contains(&"resident".to_owned()));
}

#[test]
fn json_has_every_sample() {
    let model = Model::of_large_tensors(9);
    let results =
        json_of(bench(&model.path()).args(["--runs", "3", "--cache", "warm", "--threads", "3"]));
    assert_keys(
        &results,
        "schema version model machine runs warmup threads states left_out warnings notes conclusions",
    );
    assert_eq!(
        (&results["schema"], &results["runs"], &results["warmup"]),
        (&json!(1), &json!(3), &json!(1))
    );
    assert_eq!(results["model"]["bytes"], 9 << 21);
    assert_keys(
        &results["machine"],
        "cores processor memory_bytes kernel huge_pages is_virtual",
    );
    let states = results["states"].as_array().unwrap();
    assert_eq!(states.len(), 1);
    assert_keys(&states[0], "state others_share ways");
    for way in states[0]["ways"].as_array().unwrap() {
        assert_keys(
            way,
            "way description limit median_seconds min_seconds max_seconds deviation_seconds bytes_per_second \
             times_limit page_faults phases loop samples",
        );
        let number = |key: &str| way[key].as_f64().unwrap();
        assert!(0.0 < number("min_seconds") && number("min_seconds") <= number("median_seconds"));
        assert!(number("median_seconds") <= number("max_seconds"));
        let is_limit = way["way"].as_str().unwrap().starts_with("limit");
        assert_eq!(way["limit"].is_null(), is_limit);
        assert_eq!(way["times_limit"].is_null(), is_limit);
        assert_eq!(way["loop"].is_object(), is_limit);
        assert_eq!(way["phases"].is_null(), is_limit);
        let samples = way["samples"].as_array().unwrap();
        assert_eq!(samples.len(), 3);
        for sample in samples {
            let keys = if is_limit {
                "seconds page_faults"
            } else {
                "seconds open_seconds allocate_seconds read_seconds rest_seconds page_faults"
            };
            assert_keys(sample, keys);
            let seconds = |key: &str| sample[key].as_f64().unwrap();
            if !is_limit {
                let phases = ["open", "allocate", "read", "rest"];
                let phases = phases.map(|phase| seconds(&format!("{phase}_seconds")));
                let difference = phases.iter().sum::<f64>() - seconds("seconds");
                assert!(difference.abs() < 1e-9, "{way:#}");
            }
        }
    }
}

/// What `numpy.savez_compressed` makes of 64 times 64 zeros: 16 KiB in 223 bytes.
const COMPRESSED: &[u8] = b"\
    PK\x03\x04\x14\0\0\0\x08\0\0\0!\0\xb0\xf5\x16*s\0\0\0\x80@\0\0\x05\0\
    \0\0a.npy\xed\xc8!\x0e\xc2@\0\0\xc1by\xc5\xb9\x83\xa4\xb2\xa9 h\x1c\xa4\
    \x06\x81\x22\x0d\xbd\x06A(\xb9\x12\x0c\xe1\x15|\x98\xf2\x05\x0cf\xc6\xed\xbew\xfbms\x98\x15\
    \x8f\xe2\x19\xbb4\x9er\x5c\x85\xb8\xee\xabX\x86\xd8\x0f\xf9\x9e\xdb\xebq\xc8]\xfa\xfeM{\x19\
    \xd3\xf4\xc7s{KS/\xea\xaa\x0cu\xb5,\xc3+\xfch^\0\0\0\0\0\0\0\0\0\
    \0\0\0\0\0\0\0\x7f\xf7\x01PK\x01\x02\x14\0\x14\0\0\0\x08\0\0\0!\0\xb0\xf5\
    \x16*s\0\0\0\x80@\0\0\x05\0\0\0\0\0\0\0\0\0\0\0\x80\x01\0\0\0\0\
    a.npyPK\x05\x06\0\0\0\0\x01\0\x01\x003\0\0\0\x96\0\0\0\0\0";

#[test]
fn compressed_and_small_checkpoints_are_compared_with_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let compressed = folder.path().join("a.npz");
    fs::write(&compressed, COMPRESSED).unwrap();
    let small = Model::tiny();
    for (path, note, read_bytes, bytes) in [
        (
            compressed,
            "tensors are compressed",
            COMPRESSED.len(),
            64 * 64 * 4,
        ),
        (small.path(), "less than 16.0 MiB", 1_051_520, 1_051_520),
    ] {
        let results = json_of(bench(&path).args(["--runs", "2", "--cache", "warm"]));
        let notes = results["notes"].as_array().unwrap();
        assert!(
            notes
                .iter()
                .any(|found| found.as_str().unwrap().starts_with(note)),
            "{notes:?}"
        );
        assert_eq!(results["conclusions"], json!([]));
        for way in results["states"][0]["ways"].as_array().unwrap() {
            assert!(way["times_limit"].is_null());
            let expected = match way["way"].as_str().unwrap() {
                "limit" | "limit-stream" | "read" | "mmap-touch" => read_bytes,
                _ => bytes,
            };
            let rate = way["bytes_per_second"].as_f64().unwrap();
            let found = rate * way["median_seconds"].as_f64().unwrap();
            assert!((found - expected as f64).abs() < 1e-3, "{way:#}");
        }
        let text = stdout_of(bench(&path).args(["--runs", "1", "--cache", "warm"]));
        assert!(!text.contains("× limit"), "{text}");
    }
}

#[test]
fn a_terminal_without_unicode_gets_none_and_files_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("größe.safetensors");
    fs::copy(Model::of_large_tensors(9).path(), &path).unwrap();
    let export = |name: &str| folder.path().join(name);
    let text = stdout_of(
        bench(&path)
            .env("LC_ALL", "C")
            .args(["--runs", "1", "--cache", "warm", "--ways", "resident"])
            .arg("--export-markdown")
            .arg(export("a.md"))
            .arg("--export-html")
            .arg(export("a.html")),
    );
    assert!(text.is_ascii(), "{text}");
    assert!(text.contains("x limit") && text.contains("+-"), "{text}");
    for name in ["a.md", "a.html"] {
        let written = fs::read_to_string(export(name)).unwrap();
        for part in ["größe", "× limit"] {
            assert!(written.contains(part), "{part}: {written}");
        }
        assert!(
            !written.contains(" us<") && !written.contains(" us |"),
            "{written}"
        );
    }
}

#[test]
fn a_limit_alone_has_no_chart() {
    let model = Model::tiny();
    let page = model.folder().join("bench.html");
    stdout_of(
        bench(&model.path())
            .args(["--runs", "1", "--cache", "warm", "--ways", "limit", "-q"])
            .arg("--export-html")
            .arg(&page),
    );
    let html = fs::read_to_string(page).unwrap();
    assert!(
        !html.contains("<figure>") && html.contains("<td>limit</td>"),
        "{html}"
    );
}

#[test]
fn one_run_without_warming_up_is_enough() {
    let model = Model::tiny();
    let results = json_of(bench(&model.path()).args([
        "--runs",
        "1",
        "--warmup",
        "0",
        "--ways",
        "resident,stream",
    ]));
    let warm = ["limit", "resident", "limit-stream", "stream"];
    assert_eq!(measured(&results, "warm"), warm, "with their limits");
    assert_eq!(results["warmup"], 0);
}

#[test]
fn a_file_in_memory_is_never_called_cold() {
    let Some((_folder, path)) = in_memory() else {
        eprintln!("skipped: /dev/shm is no tmpfs");
        return;
    };
    let output = bench(&path)
        .args(["--runs", "1", "--ways", "stream"])
        .assert()
        .success()
        .get_output()
        .clone();
    let (out, err) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    assert!(
        out.contains("page cache warm") && !out.contains("page cache cold"),
        "{out}"
    );
    assert!(
        err.contains("page cache cold: not measured") && err.contains("lies in memory (tmpfs)"),
        "{err}"
    );

    let (json, message) = failure_of(
        bench(&path).args(["--runs", "1", "--cache", "cold", "--json"]),
        1,
    );
    assert_eq!(json["error"]["kind"], "nothing_measured");
    assert!(message.contains("lies in memory (tmpfs)"), "{message}");
}

#[test]
fn the_table_fits_a_terminal() {
    let model = Model::of_large_tensors(9);
    let text = stdout_of(bench(&model.path()).args(["--runs", "2"]));
    for part in [
        "safetensors, 1 file, 9 tensors",
        "2 rounds of every way in turn",
        "page cache warm",
        "× limit",
        "a recycled resident load takes",
        "times as long as",
    ] {
        assert!(text.contains(part), "{part:?} is missing:\n{text}");
    }
    let lines = text.lines().skip(1);
    let widest = lines.map(|line| line.chars().count()).max().unwrap();
    assert!(widest <= 80, "{widest} columns:\n{text}");
    assert_eq!(
        stdout_of(bench(&model.path()).args(["--runs", "1", "-q"])),
        ""
    );
}

#[test]
fn exports_hold_the_same_result() {
    let model = Model::tiny();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    stdout_of(
        bench(&model.path())
            .args([
                "--runs",
                "2",
                "--cache",
                "warm",
                "--ways",
                "read,resident",
                "--quiet",
                "--export-json",
            ])
            .arg(path("a.json"))
            .arg("--export-markdown")
            .arg(path("a.md"))
            .arg("--export-csv")
            .arg(path("a.csv"))
            .arg("--export-html")
            .arg(path("a.html")),
    );
    let results: Value = serde_json::from_slice(&fs::read(path("a.json")).unwrap()).unwrap();
    assert_eq!(measured(&results, "warm"), ["limit", "read", "resident"]);

    let csv = fs::read_to_string(path("a.csv")).unwrap();
    let rows: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(
        rows[0].join(" "),
        "model bytes state way run seconds open_seconds allocate_seconds read_seconds rest_seconds page_faults bytes_per_second"
    );
    assert_eq!(rows.len(), 1 + 3 * 2, "{csv}");
    assert!(rows.iter().all(|row| row.len() == rows[0].len()), "{csv}");
    let first = &results["states"][0]["ways"][0]["samples"][0];
    assert_eq!(rows[1][3..5], ["limit", "1"]);
    assert_eq!(
        rows[1][5].parse::<f64>().unwrap(),
        first["seconds"].as_f64().unwrap()
    );

    let markdown = fs::read_to_string(path("a.md")).unwrap();
    let table: Vec<&str> = markdown
        .lines()
        .filter(|line| line.starts_with('|'))
        .collect();
    assert_eq!(table.len(), 2 + 3, "{markdown}");
    let cells = |line: &str| line.matches('|').count();
    assert!(table.iter().all(|line| cells(line) == 9), "{markdown}");
    assert!(markdown.contains("| `resident` |"), "{markdown}");

    let html = fs::read_to_string(path("a.html")).unwrap();
    for part in [
        "<!doctype html>",
        "Ways to load model.safetensors",
        "<h2>Page cache warm</h2>",
        "<figcaption>resident (ckload --resident with a warm pool): what each thread did",
        "<td>mmap",
        "How it was measured",
    ] {
        let is_there = html.contains(part);
        assert_eq!(
            is_there,
            part != "<td>mmap",
            "{part}: what was not chosen is not there"
        );
    }
    assert_eq!(
        html.matches("<figure>").count(),
        3,
        "ways, phases, a timeline"
    );
    assert!(
        !html.contains("http://") && !html.contains("https://"),
        "no network"
    );
}

#[test]
fn exports_that_cannot_be_written_are_refused_before_anything_is_measured() {
    let model = Model::tiny();
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("none/a.csv");
    let (json, message) = failure_of(
        bench(&model.path())
            .args(["--runs", "100000000", "--json", "--export-csv"])
            .arg(&target),
        1,
    );
    assert_eq!(json["error"]["path"], target.to_str().unwrap());
    assert!(
        message.contains(
            "none/a.csv: No such file or directory (os error 2); name a file in a folder"
        ),
        "{message}"
    );
}

#[test]
fn mistakes_have_status_2() {
    for (arguments, told) in [
        (
            &["bench", "m", "--ways", "residemt"][..],
            "similar value exists: 'resident'",
        ),
        (
            &["bench", "m", "--ways", ""],
            "possible values: limit, read",
        ),
        (&["bench", "m", "--cache", "hot"], "warm, cold, both"),
        (&["bench", "m", "--runs", "0"], "--runs"),
        (&["bench"], "<MODEL>"),
        (
            &["bench", "m", "--export-csv", "a", "--export-json", "a"],
            "two exports go to a",
        ),
        (
            &["bench", "m", "--export-csv", "./a", "--export-html", "a"],
            "two exports go to a",
        ),
    ] {
        let output = ckload()
            .args(arguments)
            .assert()
            .code(2)
            .get_output()
            .clone();
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(
            output.stdout.is_empty() && err.contains(told),
            "{arguments:?}: {err}"
        );
    }
}

#[test]
fn checkpoints_of_other_formats_are_measured_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.npy");
    let header = "{'descr': '<f4', 'fortran_order': True, 'shape': (64, 64), }";
    let header = format!("{header:<117}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend([7; 64 * 64 * 4]);
    fs::write(&path, bytes).unwrap();
    let results = json_of(bench(&path).args([
        "--runs",
        "1",
        "--cache",
        "warm",
        "--ways",
        "read,mmap-copy,resident",
    ]));
    assert_eq!(measured(&results, "warm"), ["limit", "read", "resident"]);
    assert_eq!(
        left_out(&results, "warm"),
        ["mmap-copy".to_owned()].into(),
        "it is transposed"
    );
}

#[test]
fn a_model_that_is_not_there_is_an_error() {
    let (json, _) = failure_of(bench(Path::new("/nowhere/m.safetensors")).arg("--json"), 1);
    assert_eq!(json["error"]["path"], "/nowhere/m.safetensors");
}

#[test]
fn the_page_suits_a_desktop_and_a_phone() {
    let model = Model::of_large_tensors(4);
    let page = model.folder().join("bench.html");
    stdout_of(
        bench(&model.path())
            .args(["--runs", "3", "--quiet", "--export-html"])
            .arg(&page),
    );
    check_page(&page, "bench");
}
