//! Loading: what each option does, as the report tells.

use std::fs;

use ckload::usage;
use serde_json::Value;

use crate::support::{Model, ckload, failure_of, json_of, stdout_of, uncached};

#[test]
fn a_report_names_model_size_and_cost() {
    let model = Model::of_large_tensors(8);
    let text = stdout_of(ckload().arg(model.path()).args(["--repeat", "2"]));
    for part in [
        &*model.path().to_string_lossy(),
        "safetensors, 1 file, 8 tensors, 16.0 MiB",
        "2 times; medians",
        "\nSpeed     ",
        "B/s (",
        "reads of it reach here (",
        "\nopen      ",
        "\nallocate  ",
        "\nread      ",
        "\nother     ",
        "of the run of median time",
        "\nMemory    ",
        " page fault",
        "\nPool      ",
        "\nProcess   ",
        " at its peak",
        "\nSaved     about ",
        "--compare measures",
    ] {
        assert!(text.contains(part), "{part:?} is missing:\n{text}");
    }
}

#[test]
fn reports_are_no_wider_than_a_page_and_end_where_they_end() {
    let (model, other) = (Model::of_large_tensors(8), Model::tiny());
    let path = other.path();
    let path = path.to_str().unwrap();
    for options in [
        &["-v"][..],
        &["-v", "--resident", "--compare", "--repeat", "2"],
        &["--no-pool", "--verify"],
        &["--resident", path],
    ] {
        let text = stdout_of(ckload().arg(model.path()).args(options));
        let widest = |line: &&str| line.chars().count() > 80 && !line.contains(".safetensors");
        assert_eq!(text.lines().find(widest), None, "{options:?}:\n{text}");
        let trailing = text.lines().find(|line| line.ends_with(' '));
        assert_eq!(trailing, None, "{options:?}:\n{text}");
        assert!(!text.contains("\n\n\n"), "{options:?}:\n{text}");
    }
}

#[test]
fn a_later_model_shows_what_it_found_in_the_pool() {
    let (first, second) = (Model::of_large_tensors(8), Model::of_large_tensors(8));
    let load = |options: &[&str]| {
        let mut command = ckload();
        command.args([first.path(), second.path()]).args(options);
        stdout_of(&mut command)
    };
    let text = load(&["--resident"]);
    assert!(text.contains(" fresh, none recycled; "), "{text}");
    assert!(text.contains(" recycled, none fresh; "), "{text}");
    let table: Vec<&str> = text
        .lines()
        .skip_while(|line| !line.starts_with("model "))
        .take(3)
        .collect();
    assert!(table[1].contains(" 0 %"), "{text}");
    assert!(table[2].contains(" 100 %"), "{text}");
    assert!(text.contains("a load of all models"), "{text}");

    let text = load(&["--no-pool"]);
    assert!(text.contains("\nmodel "), "{text}");
    assert!(!text.contains("\nSaved "), "{text}");
}

#[test]
fn a_single_load_is_told_what_to_try_next() {
    let model = Model::of_large_tensors(4);
    let text = stdout_of(
        ckload()
            .arg(model.path())
            .args(["--resident", "--pin", "never"]),
    );
    assert!(
        text.contains("\nAdvice    a single load has nothing to recycle: --repeat 5"),
        "{text}"
    );
    let again = ["--resident", "--pin", "never", "--repeat", "2"];
    let text = stdout_of(ckload().arg(model.path()).args(again));
    assert!(!text.contains("Advice"), "{text}");
}

#[test]
fn quiet_prints_nothing() {
    let model = Model::tiny();
    assert_eq!(stdout_of(ckload().arg(model.path()).arg("-q")), "");
}

#[test]
fn verbose_shows_settings_and_each_run() {
    let model = Model::tiny();
    let text = stdout_of(ckload().arg(model.path()).args([
        "-v", "-j", "3", "--io", "buffered", "--budget", "8MiB", "--pin", "never", "--repeat", "2",
    ]));
    let modes = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    let has_huge_pages = modes.is_ok_and(|modes| !modes.contains("[never]"));
    let pages = if has_huge_pages { "huge" } else { "small" };
    let settings = format!(
        "settings: 3 threads, io buffered, budget 8.0 MiB, pool of {pages} pages, pin never\n"
    );
    assert!(text.contains(&settings), "{text}");
    assert!(
        text.contains("reads of up to 256.0 KiB, 3 threads from the page cache\n"),
        "{text}"
    );
    assert!(
        text.contains("\n1, with the pool") && text.contains("\n2, with the pool"),
        "{text}"
    );
    assert!(text.contains("not pinned, as asked"), "{text}");
}

#[test]
fn a_stream_stays_within_its_budget() {
    let model = Model::of_large_tensors(16);
    for repeat in ["1", "3"] {
        let report = json_of(
            ckload()
                .arg(model.path())
                .args(["--json", "--budget", "6MiB", "--repeat", repeat]),
        );
        assert_eq!(report["pool"]["max_bytes"], 6 << 20);
        for run in report["runs"].as_array().unwrap() {
            assert_eq!(run["bytes"], 32 << 20);
            assert!(run["peak_pool_bytes"].as_u64().unwrap() <= 6 << 20, "{run}");
        }
    }
}

#[test]
fn memory_is_used_again_by_the_next_repetition_and_the_next_model() {
    let (first, second) = (Model::of_large_tensors(8), Model::of_large_tensors(8));
    let report = json_of(ckload().args([first.path(), second.path()]).args([
        "--json",
        "--resident",
        "--repeat",
        "2",
    ]));
    let fresh: Vec<u64> = report["runs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|run| run["allocation"]["fresh"].as_u64().unwrap())
        .collect();
    assert!(fresh[0] > 0);
    assert_eq!(fresh[1..], [0, 0, 0]);
}

#[test]
fn without_the_pool_nothing_is_used_again() {
    let model = Model::of_large_tensors(4);
    let report = json_of(ckload().arg(model.path()).args([
        "--json",
        "--no-pool",
        "--repeat",
        "2",
        "--resident",
    ]));
    for run in report["runs"].as_array().unwrap() {
        assert_eq!(run["allocation"]["reused"], 0);
        assert!(run["allocation"]["fresh"].as_u64().unwrap() > 0);
    }
    assert_eq!(report["savings"]["seconds"], 0.0);
    assert_eq!(report["savings"]["ratio"], 1.0);
    assert_eq!(report["pool"]["huge_pages"], false);
    assert_eq!(report["pool"]["pinned_bytes"], 0);
}

#[test]
fn files_are_read_as_asked() {
    let model = Model::of_large_tensors(2);
    for (io, counter) in [("buffered", "buffered_bytes"), ("mmap", "mmap_bytes")] {
        for resident in [true, false] {
            let mut command = ckload();
            command.arg(model.path()).args(["--json", "--io", io]);
            if resident {
                command.arg("--resident");
            }
            let report = json_of(&mut command);
            assert_eq!(report["runs"][0]["io"][counter], 4 << 20, "{io}");
        }
    }
}

#[test]
fn the_size_of_reads_is_as_asked() {
    let model = Model::tiny();
    let reads = |size| {
        let arguments = [
            "--json",
            "--resident",
            "--io",
            "buffered",
            "--read-size",
            size,
        ];
        let report = json_of(ckload().arg(model.path()).args(arguments));
        report["runs"][0]["io"]["reads"].as_u64().expect("a number")
    };
    let bytes = model.path().metadata().expect("it is there").len();
    assert!(reads("4KiB") >= bytes / 4096);
    assert!(reads("1MiB") < 10);
    let text = stdout_of(
        ckload()
            .arg(model.path())
            .args(["-v", "--read-size", "64KiB"]),
    );
    assert!(text.contains("reads of up to 64.0 KiB"), "{text}");
}

#[test]
fn the_page_cache_is_left_as_it_was_if_asked() {
    let model = Model::tiny();
    let Some(file) = uncached(&model) else {
        return;
    };
    let buffered = ["--io", "buffered", "-q"];
    stdout_of(
        ckload()
            .arg(model.path())
            .args(buffered)
            .arg("--drop-cache"),
    );
    let header = usage::cached_bytes(&file).expect("it told before");
    assert!(header < 300 << 10, "only what opening read: {header}");
    stdout_of(ckload().arg(model.path()).args(buffered));
    assert!(usage::cached_bytes(&file) > Some(1 << 20));
}

#[test]
fn threads_are_as_asked() {
    let model = Model::tiny();
    let report = json_of(ckload().arg(model.path()).args(["--json", "-j", "3"]));
    assert_eq!(report["pool"]["threads"], 3);
}

#[test]
fn tensors_are_selected_by_name() {
    let model = Model::tiny();
    let report = json_of(ckload().arg(model.path()).args([
        "--json",
        "--include",
        "h.0.*",
        "--include",
        "wte.*",
        "--exclude",
        "*.bias",
    ]));
    assert_eq!(
        report["models"][0]["tensors"], 7,
        "six weights of the layer, and the embedding"
    );
    assert_eq!(report["runs"][0]["bytes"], report["models"][0]["bytes"]);
}

#[test]
fn a_folder_is_a_model() {
    let model = Model::tiny();
    let report = json_of(ckload().arg(model.folder()).arg("--json"));
    assert_eq!(report["models"][0]["tensors"], 30);
}

#[test]
fn a_dry_run_loads_nothing_and_prints_the_plan() {
    let model = Model::of_large_tensors(2);
    let text = stdout_of(
        ckload()
            .arg(model.path())
            .args(["--dry-run", "--read-size", "3MiB"]),
    );
    assert!(
        text.contains("a resident load: 2 reads of 4.0 MiB into 1 block of 4.0 MiB"),
        "{text}"
    );
    assert!(
        text.contains("a stream: no more than 256.0 MiB at a time"),
        "{text}"
    );
    for line in [
        "file               reads      bytes",
        "model.safetensors      2  4,194,304",
        "block  tensors      bytes",
        "0            2  4,194,304",
        "tensor  block     offset      bytes",
        "1           0  2,097,152  2,097,152",
        "read               file     offset      bytes  blocks",
        "1     model.safetensors  3,145,728  1,048,723       0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
}

#[test]
fn the_plan_of_a_large_model_is_shortened_unless_asked_for() {
    let model = Model::of_large_tensors(30);
    let short = stdout_of(ckload().arg(model.path()).arg("--dry-run"));
    assert!(short.contains("\n… and 10 more; -v shows all\n"), "{short}");
    assert!(!short.contains("\n29  "), "{short}");
    let whole = stdout_of(ckload().arg(model.path()).args(["--dry-run", "-v"]));
    assert!(!whole.contains("more; -v"), "{whole}");
    assert!(whole.contains("\n29  "), "{whole}");
}

#[test]
fn a_rank_loads_its_part() {
    let model = Model::tiny();
    let load = |shards: &[&str]| {
        let mut command = ckload();
        command.arg(model.path()).arg("--json");
        for shard in shards {
            command.args(["--shard", shard]);
        }
        command
    };
    let whole = json_of(&mut load(&[]))["runs"][0]["bytes"]
        .as_u64()
        .unwrap();
    // Vectors have no dimension 1.
    let report = json_of(&mut load(&["1:1/3", "h.*.attn.bias=0:0/1"]));
    let part = report["runs"][0]["bytes"].as_u64().unwrap();
    assert!(part > whole / 3 && part < whole / 2, "{part} of {whole}");
    let moved = report["runs"][0]["io"]["buffered_bytes"].as_u64().unwrap()
        + report["runs"][0]["io"]["direct_bytes"].as_u64().unwrap();
    assert!(moved >= part);
    let report = json_of(&mut load(&["*=0:0/1", "1:1/3"]));
    assert_eq!(report["runs"][0]["bytes"].as_u64(), Some(whole));

    let (failure, message) = failure_of(&mut load(&["h.*.attn.*=0:0/7"]), 1);
    assert_eq!(failure["error"]["kind"], "shard");
    assert!(message.contains("7 ranks cannot share evenly"), "{message}");

    let plan = json_of(load(&["*.c_fc.weight=1:1/2"]).arg("--dry-run"));
    let reads = plan["plans"][0]["reads"].as_array().unwrap();
    let has_gaps = |read: &Value| read["span"].as_u64() > read["len"].as_u64();
    assert!(reads.iter().any(has_gaps), "{plan:#}");
}
