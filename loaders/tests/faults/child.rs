//! Tests that need a process of their own: for limits that hold for a whole process, or as a user who may less.

use std::io::{Read, Seek};
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
}

/// Runs `body`, the whole of the test called `name`, in a process of its own; fails if it does, or if it hangs.
#[track_caller]
#[allow(clippy::print_stdout)]
pub(crate) fn in_child(name: &str, user: User, body: impl FnOnce()) {
    if std::env::var(CHILD).is_ok_and(|child| child == name) {
        body();
        println!("{}", end_of(name));
        return;
    }
    let program = std::env::current_exe().expect("tests are run from a file");
    let mut output = tempfile::tempfile().expect("a temporary file");
    let handle = || Stdio::from(output.try_clone().expect("a second handle"));
    let mut command = Command::new(program);
    command
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, name)
        .env("MALLOC_ARENA_MAX", "1") // else each thread has address space in hand
        .env("TMPDIR", "/tmp") // ours may be closed to others
        .current_dir("/")
        .stdout(handle())
        .stderr(handle());
    if user == User::Unprivileged && geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    let child = match command.spawn() {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            println!("skipped: another user may not run this program: {error}");
            return;
        }
        child => child.expect("this program runs"),
    };
    let status = wait(child);
    let mut text = String::new();
    output.rewind().expect("a file");
    output.read_to_string(&mut text).expect("text");
    let ran = text.contains(&end_of(name));
    assert!(status.success() && ran, "{status}:\n{text}");
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
