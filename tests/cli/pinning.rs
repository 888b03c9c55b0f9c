//! Locked memory, where it is refused.

use assert_cmd::Command;

use crate::support::{Model, failure_of, plain_under, stdout_of};

/// The command without the right to lock a byte; `None` where that cannot be arranged.
#[allow(clippy::print_stderr)] // says why a test proves nothing here
fn without_locked_memory() -> Option<Command> {
    let mut wrappers = vec!["prlimit", "--memlock=0:0"];
    if rustix::process::geteuid().is_root() {
        wrappers.extend(["setpriv", "--bounding-set=-ipc_lock"]);
    }
    let works = std::process::Command::new(wrappers[0])
        .args(&wrappers[1..])
        .arg("true")
        .output()
        .is_ok_and(|run| run.status.success());
    if !works {
        eprintln!("skipped: `{}` does not work here", wrappers.join(" "));
        return None;
    }
    let command = plain_under(wrappers[0], &wrappers[1..]);
    Some(Command::from_std(command))
}

#[test]
fn always_fails_and_says_what_to_do() {
    let model = Model::of_large_tensors(2);
    let Some(mut command) = without_locked_memory() else {
        return;
    };
    let (json, message) = failure_of(
        command
            .arg(model.path())
            .args(["--resident", "--pin", "always", "--json"]),
        1,
    );
    assert_eq!(json["error"]["kind"], "not_pinned");
    assert!(
        message.contains("RLIMIT_MEMLOCK") && message.contains("ulimit -l"),
        "{message}"
    );
}

#[test]
fn auto_loads_all_the_same() {
    let model = Model::of_large_tensors(2);
    let Some(mut command) = without_locked_memory() else {
        return;
    };
    let text = stdout_of(
        command
            .arg(model.path())
            .args(["--resident", "--pin", "auto"]),
    );
    assert!(text.contains("2 tensors"), "{text}");
    // Where there are no huge pages it is not even tried.
    let refused =
        text.contains("refused (") && text.contains("\nAdvice    to pin all memory, raise");
    let is_not_tried = text.contains("small pages, not pinned: ");
    assert!(refused || is_not_tried, "{text}");
}

#[test]
fn never_does_not_try() {
    let model = Model::of_large_tensors(2);
    let Some(mut command) = without_locked_memory() else {
        return;
    };
    let text = stdout_of(
        command
            .arg(model.path())
            .args(["--resident", "--pin", "never"]),
    );
    assert!(text.contains("not pinned, as asked"), "{text}");
}
