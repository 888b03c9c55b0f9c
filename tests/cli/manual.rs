//! The manual and the completion scripts: the programs that read them accept them.

use std::fs;
use std::process::Command;

use crate::support::{ckload, commands, stdout_of};

/// Whether `program` can be run here; if not, standard error says that a test is left out.
#[allow(clippy::print_stderr)]
fn is_there(program: &str) -> bool {
    let found = Command::new(program)
        .arg("--version")
        .output()
        .is_ok_and(|run| {
            // Small systems have a stand-in that says how to get the manual; mandoc has no such option.
            match program {
                "man" => run.status.success() && run.stdout.starts_with(b"man "),
                "mandoc" => true,
                _ => run.status.success(),
            }
        });
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

/// Asserts that `program` succeeds, and gives what it prints.
#[track_caller]
fn output_of(program: &mut Command) -> String {
    let output = program.env("LC_ALL", "C").output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program:?}: {errors}");
    assert_eq!(errors, "", "{program:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_page_is_written_for_each_command() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man/man1");
    let said = stdout_of(ckload().arg("man").arg(&pages));
    let count = fs::read_dir(&pages).unwrap().count();
    assert!(said.starts_with(&format!("{count} pages in ")), "{said}");
    assert_eq!(count, 1 + commands().len());
    let main = fs::read_to_string(pages.join("ckload.1")).unwrap();
    assert_eq!(main, stdout_of(ckload().arg("man")));
    for command in commands() {
        let page = fs::read_to_string(pages.join(format!("ckload-{command}.1"))).unwrap();
        for section in [
            "NAME",
            "SYNOPSIS",
            "OUTPUT",
            "EXAMPLES",
            "EXIT STATUS",
            "ENVIRONMENT",
        ] {
            let plain = page.contains(&format!(".SH {section}\n"));
            assert!(
                plain || page.contains(&format!(".SH \"{section}\"\n")),
                "{section} is missing in {command}'s page"
            );
        }
        assert!(
            main.contains(&format!(r"ckload\-{command}(1)")),
            "{command}"
        );
    }
}

#[test]
fn every_option_is_in_the_manual() {
    let manual = stdout_of(ckload().arg("man"));
    let help = stdout_of(ckload().arg("--help"));
    let options = help.lines().map(str::trim_start).filter_map(|line| {
        let (_, option) = line.starts_with('-').then(|| line.split_once("--"))??;
        option.split(' ').next()
    });
    let mut count = 0;
    for option in options {
        let escaped = option.replace('-', r"\-");
        let entry = manual.split(".TP\n").find(|entry| {
            let head = entry.lines().next().unwrap_or_default();
            head.contains(&format!(r"\-\-{escaped}\fR"))
        });
        let entry = entry.unwrap_or_else(|| panic!("--{option} is missing"));
        let says = entry.lines().nth(1).unwrap_or_default();
        assert!(says.len() > 10, "nothing is said of --{option}: {entry}");
        count += 1;
    }
    assert!(count > 15, "{count} options");
}

#[test]
fn pages_can_be_formatted() {
    let folder = tempfile::tempdir().unwrap();
    stdout_of(ckload().arg("man").arg(folder.path()));
    for page in fs::read_dir(folder.path()).unwrap() {
        let page = page.unwrap().path();
        if is_there("man") {
            let mut man = Command::new("man");
            let text = output_of(
                man.args(["--warnings", "-E", "UTF-8", "-l", "-Tutf8"])
                    .arg(&page)
                    .env("MANPAGER", "cat"),
            );
            assert!(without_overstrikes(&text).contains("EXAMPLES"), "{text}");
        }
        if is_there("mandoc") {
            output_of(
                Command::new("mandoc")
                    .args(["-Tlint", "-Werror"])
                    .arg(&page),
            );
        }
    }
}

/// Text that a printer would have struck twice to make it bold, once.
fn without_overstrikes(text: &str) -> String {
    let mut plain = String::new();
    for character in text.chars() {
        if character == '\u{8}' {
            plain.pop();
        } else {
            plain.push(character);
        }
    }
    plain
}

#[test]
fn shells_accept_the_scripts() {
    let folder = tempfile::tempdir().unwrap();
    for (shell, check) in [("bash", "-n"), ("zsh", "-n"), ("fish", "--no-execute")] {
        if is_there(shell) {
            let script = folder.path().join(shell);
            fs::write(&script, stdout_of(ckload().args(["completions", shell]))).unwrap();
            output_of(Command::new(shell).arg(check).arg(&script));
        }
    }
}

/// What bash would offer for the last of these words.
fn bash_offers(line: &str) -> String {
    let script = stdout_of(ckload().args(["completions", "bash"]));
    let words: Vec<&str> = line.split(' ').collect();
    let last = words.len() - 1;
    let program = format!(
        "{script}\nCOMP_WORDS=({line}); COMP_CWORD={last}; _ckload ckload {} {}; echo \"${{COMPREPLY[@]}}\"",
        words[last],
        words[last - 1],
    );
    output_of(Command::new("bash").args(["--norc", "-c", &program]))
}

#[test]
fn bash_completes_commands_options_and_values() {
    if !is_there("bash") {
        return;
    }
    assert_eq!(bash_offers("ckload insp"), "inspect\n");
    assert_eq!(bash_offers("ckload --resi"), "--resident\n");
    assert_eq!(bash_offers("ckload --io buf"), "buffered\n");
    assert_eq!(bash_offers("ckload verify --fin"), "--finite\n");
}
