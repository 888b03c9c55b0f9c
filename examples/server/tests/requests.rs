//! Requests for embeddings take a place before their body is received, have to be quick about it, and are counted whatever comes of them.

mod common;

use std::collections::BTreeMap;
use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use common::{Client, HANG, Running, TEXTS, add_slow_model, finish, half_a_request, models};
use serde_json::json;

fn assert_outcomes(client: &Client, expected: &[(&str, u64)]) {
    let expected: BTreeMap<String, u64> = expected
        .iter()
        .map(|&(outcome, count)| (outcome.to_owned(), count))
        .collect();
    assert_eq!(client.outcomes(), expected);
}

#[test]
fn who_sends_a_body_slowly_holds_a_place_meanwhile() {
    let folder = models();
    let server = Running::start(
        folder.path(),
        &["--load", "m=a", "--queue", "1", "--body-timeout", "600"],
    );
    let client = server.client();
    let body = json!({"texts": TEXTS}).to_string();
    let request = half_a_request(&server.address.to_string(), &body);
    let (status, answer) = client.ask("POST", "/embed", Some(json!({"texts": TEXTS})));
    assert_eq!((status, &answer["error"]["kind"]), (503, &json!("busy")));
    let answer = finish(request, &body);
    assert!(answer.contains("200 OK"), "{answer}");
    client.embed();
    assert_outcomes(&client, &[("busy", 1), ("ok", 2)]);
    server.end();
}

#[test]
fn a_body_that_does_not_arrive_in_time_is_given_up() {
    let folder = models();
    let server = Running::start(
        folder.path(),
        &["--load", "m=a", "--queue", "1", "--body-timeout", "1"],
    );
    let client = server.client();
    let request = half_a_request(&server.address.to_string(), "{}");
    let answer = finish(request, "");
    assert!(
        answer.contains("408 Request Timeout") && answer.contains("\"late\""),
        "{answer}"
    );
    client.embed();
    assert_outcomes(&client, &[("late", 1), ("ok", 1)]);
    server.end();
}

#[test]
fn requests_that_reach_no_model_are_counted() {
    let folder = models();
    let options = ["--load", "m=a", "--max-texts", "2", "--max-body", "64KiB"];
    let server = Running::start(folder.path(), &options);
    let client = server.client();
    let address = server.address.to_string();
    let answer = finish(half_a_request(&address, "no JSON"), "no JSON");
    assert!(answer.contains("400 Bad Request"), "{answer}");
    let long = "of ".repeat(40_000);
    for body in [
        json!({"texts": "a"}),
        json!({"texts": [long]}),
        json!({"texts": TEXTS}),
        json!({"texts": [], "model": "no"}),
        json!({"texts": []}),
    ] {
        client.ask("POST", "/embed", Some(body));
    }
    let expected = [
        ("bad_request", 2),
        ("ok", 1),
        ("too_large", 1),
        ("too_many_texts", 1),
        ("unknown_model", 1),
    ];
    assert_outcomes(&client, &expected);
    server.end();
}

#[test]
fn clients_that_leave_are_counted() {
    let folder = models();
    add_slow_model(folder.path());
    let server = Running::start(folder.path(), &["--load", "m=slow"]);
    let client = server.client();
    let body = json!({"texts": ["a".repeat(50_000)]}).to_string();
    let mut request = half_a_request(&server.address.to_string(), &body);
    request.get_mut().write_all(body.as_bytes()).unwrap();
    drop(request);
    let start = Instant::now();
    while client.outcomes().is_empty() {
        assert!(start.elapsed() < HANG, "it is not counted");
        thread::sleep(Duration::from_millis(5));
    }
    assert_outcomes(&client, &[("left", 1)]);
    server.end();
}
