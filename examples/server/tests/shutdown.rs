//! Who has begun to ask is answered before the server ends.

mod common;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{HANG, Running, TEXTS, add_slow_model, finish, half_a_request, models};
use serde_json::json;

fn until_refused(address: &str) {
    let start = Instant::now();
    while TcpStream::connect(address).is_ok() {
        assert!(start.elapsed() < HANG, "it still listens");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_request_that_has_begun_is_answered_after_the_server_was_asked_to_end() {
    let folder = models();
    let server = Running::start(folder.path(), &["--load", "m=a"]);
    let address = server.address.to_string();
    let body = json!({"texts": TEXTS}).to_string();
    let request = half_a_request(&address, &body);
    let ending = server.ask_to_end();
    until_refused(&address);
    assert!(!ending.is_finished());
    let answer = finish(request, &body);
    assert!(
        answer.contains("200 OK") && answer.contains("embeddings"),
        "{answer}"
    );
    ending.join().expect("no panic").expect("an orderly end");
}

#[test]
fn a_request_that_never_ends_does_not_keep_the_server() {
    let folder = models();
    let server = Running::start(folder.path(), &["--grace", "0"]);
    let request = half_a_request(&server.address.to_string(), "{}");
    let ended = server.ask_to_end().join().expect("no panic");
    let error = ended.expect_err("a request was not done").to_string();
    assert!(error.contains("not done"), "{error}");
    drop(request);
}

#[test]
fn the_program_ends_in_order_on_both_signals() {
    let folder = models();
    for signal in ["-INT", "-TERM"] {
        let (mut program, mut said) = Program::start(folder.path(), &["--load", "m=a"]);
        let address = &address(&mut said);
        let body = json!({"texts": TEXTS}).to_string();
        let request = half_a_request(address, &body);
        program.send(signal);
        until_refused(address);
        let answer = finish(request, &body);
        assert!(answer.contains("200 OK"), "{answer}");
        assert!(program.succeeds());
    }
}

#[test]
fn the_program_ends_while_it_loads_the_first_models() {
    let folder = models();
    let loads = (0..5000).flat_map(|number| ["--load".to_owned(), format!("m{number}=a")]);
    let options: Vec<String> = ["--max-models", "5000"]
        .map(str::to_owned)
        .into_iter()
        .chain(loads)
        .collect();
    let (mut program, mut said) = Program::start(folder.path(), &options);
    assert_eq!(said.next().unwrap(), "loading 5000 models");
    program.send("-TERM");
    assert!(program.succeeds());
    let said: Vec<String> = said.collect();
    assert!(
        !said.iter().any(|line| line.contains("listening")),
        "{said:?}"
    );
}

#[test]
fn the_program_does_not_wait_for_work_that_goes_on_for_minutes() {
    let folder = models();
    add_slow_model(folder.path());
    let options = ["--load", "m=slow", "--max-body", "8MiB", "--grace", "0"];
    let (mut program, mut said) = Program::start(folder.path(), &options);
    let body = json!({"texts": ["a".repeat(4_000_000)]}).to_string();
    let mut request = half_a_request(&address(&mut said), &body);
    let before = program.ticks();
    request.get_mut().write_all(body.as_bytes()).unwrap();
    let start = Instant::now();
    while program.ticks() < before + 50 {
        assert!(start.elapsed() < HANG, "it computes nothing");
        thread::sleep(Duration::from_millis(5));
    }
    program.send("-TERM");
    assert!(!program.succeeds());
    let said: Vec<String> = said.collect();
    assert!(
        said.iter().any(|line| line.contains("not done")),
        "{said:?}"
    );
}

/// The server in a process of its own, which does not outlive the test.
struct Program(Child);

/// What it writes, by lines.
type Said = Box<dyn Iterator<Item = String>>;

impl Program {
    fn start(folder: &Path, options: &[impl AsRef<OsStr>]) -> (Self, Said) {
        let mut program = Command::new(env!("CARGO_BIN_EXE_ckload-example-server"))
            .args(["--listen", "127.0.0.1:0", "--models"])
            .arg(folder)
            .args(options)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said: ChildStderr = program.stderr.take().unwrap();
        let lines = BufReader::new(said).lines().map(Result::unwrap);
        (Self(program), Box::new(lines))
    }

    fn send(&self, signal: &str) {
        let id = self.0.id().to_string();
        let sent = Command::new("kill").args([signal, &id]).status().unwrap();
        assert!(sent.success());
    }

    /// Time of the processors that it has used.
    fn ticks(&self) -> u64 {
        let process = procfs::process::Process::new(self.0.id() as i32).unwrap();
        process.stat().unwrap().utime
    }

    /// Waits until it has ended.
    fn succeeds(&mut self) -> bool {
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.success();
            }
            assert!(start.elapsed() < HANG, "it does not end");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Fails if it has ended, as it should have.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn address(said: &mut Said) -> String {
    let line = said
        .find(|line| line.contains("listening"))
        .expect("it starts");
    let (_, address) = line.split_once("http://").expect(&line);
    address.to_owned()
}
