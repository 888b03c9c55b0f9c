//! The load, and the swaps.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use ckload::candle::Storages;
use ckload_example_server::{Options, Server, resident_bytes};
use clap::Parser;
use serde::Serialize;
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

/// What each request asks for.
const TEXTS: [&str; 2] = ["pages of memory are warm", "memory of pages ."];

/// Swaps of each kind that are timed.
const ROUNDS: u32 = 15;

/// After every so many swaps the process's memory is noted.
const NOTED_EVERY: u32 = 10;

/// What was measured. Times are of whole swaps, as the client sees them.
#[derive(Serialize)]
pub(crate) struct Measured {
    pub(crate) swaps: u32,
    pub(crate) connections: u16,
    pub(crate) requests: u64,
    pub(crate) failed_requests: u64,
    /// Of the process, client and server together, after each tenth swap.
    pub(crate) resident_bytes: Vec<u64>,
    /// Of the swaps that followed, medians by the memory that they found.
    pub(crate) recycled_seconds: f64,
    pub(crate) fresh_seconds: f64,
}

#[derive(Default)]
struct Requests {
    answered: AtomicU64,
    failed: AtomicU64,
    are_over: AtomicBool,
}

impl Requests {
    fn await_answers(&self, count: u64) {
        let count_all = || self.answered.load(Relaxed) + self.failed.load(Relaxed);
        let wanted = count_all() + count;
        while count_all() < wanted {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Swaps one model for the other and back, while all connections ask. Between two swaps each connection has about one answer.
///
/// Then it times some more swaps. Before every other one of these what is kept is given back to the system, so that the next takes
/// fresh memory.
pub(crate) fn swaps(
    folders: &[PathBuf; 2],
    swaps: u32,
    connections: u16,
) -> anyhow::Result<Measured> {
    let mut words = vec!["swap_load".to_owned(), "--listen=127.0.0.1:0".to_owned()];
    words.extend(
        folders
            .iter()
            .map(|folder| format!("--models={}", folder.display())),
    );
    words.push(format!("--load=m={}", folders[0].display()));
    words.push(format!("--queue={connections}"));
    let options = Options::try_parse_from(words)?;
    let (end, ended) = oneshot::channel();
    let (started, server) = mpsc::channel();
    let serving = thread::spawn(move || {
        Runtime::new()?.block_on(async {
            let server = Server::start(options).await?;
            started.send((server.address(), server.storages().clone()))?;
            server.run(async { ended.await.unwrap_or_default() }).await
        })
    });
    let Ok((address, storages)) = server.recv() else {
        let result: anyhow::Result<()> = serving.join().expect("it returns its errors");
        return result.and(Err(anyhow::anyhow!("the server did not start")));
    };
    let requests = Requests::default();
    let measured = thread::scope(|scope| {
        for _ in 0..connections {
            scope.spawn(|| ask(address, &requests));
        }
        let measured = measure(address, &storages, &requests, folders, swaps, connections);
        requests.are_over.store(true, Relaxed);
        measured
    });
    let _ = end.send(());
    serving.join().expect("it returns its errors")?;
    let Swaps {
        recycled,
        fresh,
        resident_bytes,
    } = measured?;
    Ok(Measured {
        swaps,
        connections,
        requests: requests.answered.into_inner(),
        failed_requests: requests.failed.into_inner(),
        resident_bytes,
        recycled_seconds: median(recycled),
        fresh_seconds: median(fresh),
    })
}

/// What the process had after some of the swaps, and the seconds of those that were timed, by the memory that they found.
#[derive(Default)]
struct Swaps {
    recycled: Vec<f64>,
    fresh: Vec<f64>,
    resident_bytes: Vec<u64>,
}

fn measure(
    address: SocketAddr,
    storages: &Storages,
    requests: &Requests,
    folders: &[PathBuf; 2],
    swaps: u32,
    connections: u16,
) -> anyhow::Result<Swaps> {
    let agent = ureq::Agent::new_with_defaults();
    let swap = |number: u32| {
        // The first model is there already.
        let folder = &folders[(number as usize + 1) % 2];
        let begin = Instant::now();
        let request = agent.put(format!("http://{address}/models/m"));
        request
            .send_json(json!({"path": folder}))
            .context("a swap failed")?;
        anyhow::Ok(begin.elapsed().as_secs_f64())
    };
    let mut measured = Swaps::default();
    swap(0)?;
    for number in 1..=swaps {
        requests.await_answers(connections.into());
        swap(number)?;
        if number % NOTED_EVERY == 0 {
            let bytes = resident_bytes().context("the system does not tell the resident memory")?;
            measured.resident_bytes.push(bytes);
        }
    }
    for number in swaps + 1..=swaps + 2 * ROUNDS {
        requests.await_answers(connections.into());
        if number % 2 == 0 {
            storages.clear();
        }
        let fresh_before = storages.stats().fresh;
        let seconds = swap(number)?;
        // A request that the model before the last still answers may have its memory.
        if storages.stats().fresh == fresh_before {
            measured.recycled.push(seconds);
        } else {
            measured.fresh.push(seconds);
        }
    }
    ensure!(
        !measured.recycled.is_empty() && !measured.fresh.is_empty(),
        "too few swaps"
    );
    Ok(measured)
}

fn ask(address: SocketAddr, requests: &Requests) {
    let agent = ureq::Agent::new_with_defaults();
    while !requests.are_over.load(Relaxed) {
        let request = agent.post(format!("http://{address}/embed"));
        let answer = request.send_json(json!({"texts": TEXTS}));
        let whole = answer.and_then(|mut answer| answer.body_mut().read_to_string());
        match whole {
            Ok(_) => requests.answered.fetch_add(1, Relaxed),
            Err(_) => requests.failed.fetch_add(1, Relaxed),
        };
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
