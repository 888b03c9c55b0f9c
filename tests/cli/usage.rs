//! Wrong usage has exit status 2 and nothing on standard output; help and version are results.

use crate::support::{ckload, stdout_of};

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

#[test]
fn help_names_every_command_and_option() {
    let help = stdout_of(ckload().arg("--help"));
    for word in [
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
    assert_eq!(
        stdout_of(ckload().arg("--version")),
        format!("ckload {}\n", env!("CARGO_PKG_VERSION"))
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
