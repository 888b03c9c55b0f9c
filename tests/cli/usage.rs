//! Wrong usage has exit status 2 and nothing on standard output; help and version are results.

use crate::support::{ckload, commands, stdout_of};

#[test]
fn mistakes_have_status_2() {
    for arguments in [
        &["--frobnicate"][..],
        &["--compare", "--no-pool", "m"],
        &["--budget", "lots", "m"],
        &["--repeat", "0", "m"],
        &["--threads", "0", "m"],
        &["--include", "[", "m"],
        &["--io", "io_uring", "m"],
        &["--resident", "demo"],
        &["--json", "--io", "carrier-pigeon", "m"],
        &["inspect"],
        &["verify"],
        &["--against", "list", "m"],
        &["--verify", "--dry-run", "m"],
        &["--timeline", "load.svg", "m"],
        &["--verify", "--against", "list", "m", "n"],
        &["synth", "gpt2"],
        &[],
    ] {
        let run = ckload()
            .args(arguments)
            .assert()
            .code(2)
            .get_output()
            .clone();
        assert!(run.stdout.is_empty(), "{arguments:?}");
        assert!(!run.stderr.is_empty(), "{arguments:?}");
    }
}

/// Columns that help may take: what is left of a terminal of usual width is not to be empty, nor is a line to be broken.
const HELP_COLUMNS: usize = 100;

#[test]
fn help_is_no_wider_than_a_terminal() {
    for command in std::iter::once(None).chain(commands().into_iter().map(Some)) {
        for flag in ["-h", "--help"] {
            let help = stdout_of(ckload().args(&command).arg(flag));
            for line in help.lines() {
                assert!(line.chars().count() <= HELP_COLUMNS, "{command:?}: {line}");
            }
        }
    }
}

#[test]
fn short_help_is_a_line_for_each_option_and_leaves_out_what_is_rare() {
    let short = stdout_of(ckload().arg("-h"));
    let long = stdout_of(ckload().arg("--help"));
    assert!(short.lines().count() < 50, "{short}");
    for rare in ["--shard", "--read-size", "--drop-cache", "--pin", "--color"] {
        assert!(!short.contains(rare), "{rare} is in short help");
        assert!(long.contains(rare), "{rare} is missing in long help");
    }
}

#[test]
fn help_of_a_command_is_the_same_however_it_is_asked_for() {
    for command in commands() {
        let asked = stdout_of(ckload().args(["help", &command]));
        assert_eq!(asked, stdout_of(ckload().args([&command, "--help"])));
        assert!(asked.contains("Examples:\n  "), "{asked}");
    }
}

#[test]
fn help_is_colored_only_where_it_is_seen() {
    let colored = stdout_of(ckload().arg("--help").env("CLICOLOR_FORCE", "1"));
    assert!(colored.contains("\u{1b}["), "{colored}");
    let plain = stdout_of(ckload().arg("--help"));
    assert!(!plain.contains('\u{1b}'), "{plain}");
}

#[test]
fn help_names_every_command_and_option() {
    let help = stdout_of(ckload().arg("--help"));
    for word in [
        "bench",
        "demo",
        "inspect",
        "synth",
        "--resident",
        "--repeat",
        "--compare",
        "--no-pool",
        "--io",
        "--threads",
        "--budget",
        "--pin",
        "--include",
        "--exclude",
        "--shard",
        "--json",
        "--quiet",
        "--verbose",
        "--color",
        "--dry-run",
        "--timeline",
        "verify",
        "--against",
        "-- demo",
        "130 interrupted",
    ] {
        assert!(help.contains(word), "{word} is missing:\n{help}");
    }
}

#[test]
fn the_version_is_the_package_s() {
    let version = format!("ckload {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(stdout_of(ckload().arg("-V")), version);
    let long = stdout_of(ckload().arg("--version"));
    assert!(
        long.starts_with(&version) && long.contains("build"),
        "{long}"
    );
}

#[test]
fn a_model_may_be_named_like_a_command() {
    let folder = tempfile::tempdir().unwrap();
    ckload::synth::Gpt2::TINY
        .blueprint()
        .write_file(folder.path().join("demo"), 0)
        .unwrap();
    for arguments in [&["./demo"][..], &["--", "demo"]] {
        let text = stdout_of(ckload().current_dir(folder.path()).args(arguments));
        assert!(text.contains("30 tensors"), "{arguments:?}: {text}");
    }
}
