//! Who has begun to ask is answered before the server ends.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{Running, TEXTS, models};
use serde_json::json;

/// Only a hang lasts so long.
const HANG: Duration = Duration::from_secs(60);

/// A request of which the server has read the head and waits for the body.
fn half_a_request(address: &str, body: &str) -> BufReader<TcpStream> {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(HANG)).unwrap();
    let mut stream = BufReader::new(stream);
    let head = format!(
        "POST /embed HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nexpect: 100-continue\r\n\r\n",
        body.len()
    );
    stream.get_mut().write_all(head.as_bytes()).unwrap();
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    assert!(line.contains("100"), "{line}");
    stream
}

fn until_refused(address: &str) {
    let start = Instant::now();
    while TcpStream::connect(address).is_ok() {
        assert!(start.elapsed() < HANG, "it still listens");
        thread::sleep(Duration::from_millis(5));
    }
}

fn finish(mut request: BufReader<TcpStream>, body: &str) -> String {
    request.get_mut().write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    request.read_to_string(&mut answer).unwrap();
    answer
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
        let mut program = Command::new(env!("CARGO_BIN_EXE_ckload-example-server"))
            .args(["--listen", "127.0.0.1:0", "--load", "m=a", "--models"])
            .arg(folder.path())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(program.stderr.take().unwrap()).lines();
        let listening = lines.next().expect("it starts").unwrap();
        let (_, address) = listening.split_once("http://").expect(&listening);
        let body = json!({"texts": TEXTS}).to_string();
        let request = half_a_request(address, &body);
        let id = program.id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &id])
                .status()
                .unwrap()
                .success()
        );
        until_refused(address);
        let answer = finish(request, &body);
        assert!(answer.contains("200 OK"), "{answer}");
        assert!(program.wait().unwrap().success());
    }
}
