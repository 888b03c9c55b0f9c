//! Tests that need a process of their own: for limits that hold for a whole process, or as a user who may less.

use std::io::{Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, geteuid, getrlimit, setrlimit};

use crate::common::HANG;

/// Says to this program, when it is started again, which test it is to run.
const CHILD: &str = "CKLOAD_CHILD";

/// Nobody, who owns nothing and may do nothing that others may not.
const NOBODY: u32 = 65534;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum User {
    Same,
    /// One without privileges: nobody, if this is root.
    Unprivileged,
    /// One who may mount file systems, which end with the process.
    Mounting,
}

/// What a test that cannot be carried out here says, and why.
const SKIPPED: &str = "skipped: ";

/// Runs `body`, the whole of the test called `name`, in a process of its own; fails if it does, or if it hangs.
#[track_caller]
#[allow(clippy::print_stdout)]
pub(crate) fn in_child(name: &str, user: User, body: impl FnOnce()) {
    if std::env::var(CHILD).is_ok_and(|child| child == name) {
        body();
        println!("{}", end_of(name));
        return;
    }
    let mut command = match command(user) {
        Ok(command) => command,
        Err(reason) => return report(name, &reason),
    };
    let mut output = tempfile::tempfile().expect("a temporary file");
    let handle = || Stdio::from(output.try_clone().expect("a second handle"));
    command
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, name)
        .env("MALLOC_ARENA_MAX", "1") // else each thread has address space in hand
        .env("TMPDIR", "/tmp") // ours may be closed to others
        .current_dir("/")
        .stdout(handle())
        .stderr(handle());
    let child = match command.spawn() {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return report(
                name,
                &format!("another user may not run this program: {error}"),
            );
        }
        child => child.expect("this program runs"),
    };
    let status = wait(child);
    let mut text = String::new();
    output.rewind().expect("a file");
    output.read_to_string(&mut text).expect("text");
    let ran = text.contains(&end_of(name));
    assert!(status.success() && ran, "{status}:\n{text}");
    for reason in text.lines().filter_map(|line| line.strip_prefix(SKIPPED)) {
        report(name, reason);
    }
}

/// This program, to be started as `user`; or why that cannot be.
fn command(user: User) -> Result<Command, String> {
    let program = std::env::current_exe().expect("tests are run from a file");
    let mut command = Command::new(&program);
    if user == User::Unprivileged && geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    if user == User::Mounting {
        let mut private = vec!["--mount"];
        if !geteuid().is_root() {
            private.extend(["--user", "--map-root-user"]);
        }
        let unshare = || {
            let mut unshare = Command::new("unshare");
            unshare.args(&private).arg("--");
            unshare
        };
        let probe = unshare().arg("true").output();
        let probe = probe.map_err(|error| format!("unshare: {error}"))?;
        if !probe.status.success() {
            return Err(String::from_utf8_lossy(&probe.stderr).trim().to_owned());
        }
        command = unshare();
        command.arg(program);
    }
    Ok(command)
}

/// Says from a child that its test cannot be carried out here.
#[allow(clippy::print_stdout)]
pub(crate) fn skip(reason: &str) {
    println!("\n{SKIPPED}{reason}"); // the harness has begun a line
}

/// Says so to whoever runs the tests, past the harness, which keeps back what a test prints that passes.
fn report(name: &str, reason: &str) {
    let _ = writeln!(std::io::stderr(), "{name} {SKIPPED}{reason}");
}

fn end_of(name: &str) -> String {
    format!("{name} came to its end")
}

fn wait(mut child: Child) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("our own child") {
            return status;
        }
        if start.elapsed() > HANG {
            let _ = child.kill();
            let _ = child.wait();
            panic!("hangs");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Does `work` while this process may have no more than `limit` of `resource`, and lifts the limit again.
pub(crate) fn limited<T>(resource: Resource, limit: u64, work: impl FnOnce() -> T) -> T {
    let before = getrlimit(resource);
    let lower = Rlimit {
        current: Some(limit),
        maximum: before.maximum,
    };
    setrlimit(resource, lower).expect("anyone may have less");
    let result = work();
    setrlimit(resource, before).expect("the upper limit stayed");
    result
}
