//! Models are swapped while they answer.

mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use common::{Client, Running, TEXTS, distance, models, vectors};
use serde_json::json;

const CONNECTIONS: usize = 12;
const SWAPS: usize = 100;

/// Answers of one model are nearer than this, those of two further apart.
const NEAR: f64 = 1e-5;

/// Only a hang lasts so long.
const HANG: Duration = Duration::from_secs(60);

/// Asks all the time, and knows each model's answer.
struct Askers {
    answers: [Vec<Vec<f64>>; 2],
    /// How many came from each model.
    counts: [AtomicUsize; 2],
    are_over: AtomicBool,
}

impl Askers {
    fn ask(&self, client: &Client) {
        // A failure ends the others as well.
        let _in_any_case = End(self);
        let request = json!({"texts": TEXTS, "model": "m"});
        while !self.are_over.load(Relaxed) {
            let (status, answer) = client.ask("POST", "/embed", Some(request.clone()));
            assert_eq!(status, 200, "{answer}");
            let answer = vectors(&answer);
            let from = |model: usize| distance(&answer, &self.answers[model]) < NEAR;
            match [from(0), from(1)] {
                [true, false] => self.counts[0].fetch_add(1, Relaxed),
                [false, true] => self.counts[1].fetch_add(1, Relaxed),
                _ => panic!("neither model's answer: {answer:?}"),
            };
        }
    }

    fn answered(&self) -> usize {
        self.counts.iter().map(|count| count.load(Relaxed)).sum()
    }

    #[track_caller]
    fn until(&self, what: &str, reached: impl Fn() -> bool) {
        let start = Instant::now();
        while !reached() {
            assert!(!self.are_over.load(Relaxed), "a request failed");
            assert!(start.elapsed() < HANG, "hangs: {what}");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Ends the asking.
struct End<'a>(&'a Askers);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.are_over.store(true, Relaxed);
    }
}

#[test]
fn requests_notice_swaps_by_nothing_but_the_answers() {
    let folder = models();
    let server = Running::start(folder.path(), &["--load", "m=a"]);
    let client = server.client();
    let a = client.embed();
    assert_eq!(client.swap("m", "b").0, 200);
    let b = client.embed();
    assert!(distance(&a, &b) > 100.0 * NEAR, "different models");
    // One model is in use, the memory of one is kept.
    let before = server.storages.stats();
    assert!(before.kept_bytes > 0);

    let askers = Askers {
        answers: [a, b],
        counts: Default::default(),
        are_over: AtomicBool::new(false),
    };
    let mut resident = Vec::new();
    thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            scope.spawn(|| askers.ask(&server.client()));
        }
        let _in_any_case = End(&askers);
        for number in 0..SWAPS {
            let (status, state) = client.swap("m", ["a", "b"][number % 2]);
            assert_eq!(status, 200, "{state}");
            assert_eq!(state["state"], "serving");
            let answered = askers.answered();
            askers.until("answers", || askers.answered() >= answered + 2);
            // The last request that the old model answers brings its memory back.
            askers.until("the old model's memory", || {
                server.storages.stats().kept_bytes == before.kept_bytes
            });
            if number % 10 == 9 {
                resident.push(client.metric("ckload_resident_memory_bytes"));
            }
        }
    });
    let counts = askers.counts.map(AtomicUsize::into_inner);
    assert!(counts.iter().all(|&count| count > 0), "{counts:?}");

    // Nothing was asked of the system after the second load.
    let after = server.storages.stats();
    assert_eq!((after.fresh, after.freed_bytes), (before.fresh, 0));
    let grown = resident[resident.len() - 1] - resident[0];
    assert!(grown < 64e6, "resident after each tenth swap: {resident:?}");
    assert_eq!(client.metric("ckload_loads_total{memory=\"fresh\"}"), 2.0);
    let kept = client.metric("ckload_loads_total{memory=\"kept\"}");
    assert_eq!(kept, SWAPS as f64);
    let hits = client.metric("ckload_storages_hits_total");
    assert_eq!(hits, after.reused as f64);
    server.end();
}
