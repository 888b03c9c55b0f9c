//! A server in this process, models to load, and a client.

#![allow(dead_code)] // each test file uses a part

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ckload::candle::Storages;
use ckload_example_server::random_bert::RandomBert;
use ckload_example_server::{Options, Server};
use clap::Parser;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Builder;
use tokio::sync::oneshot;

pub(crate) const TEXTS: [&str; 3] = ["pages of memory are warm", "", "Memory?"];

/// A folder with the models `a` and `b`.
pub(crate) fn models() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, seed) in [("a", 1), ("b", 2)] {
        RandomBert::TINY
            .write(&folder.path().join(name), seed)
            .unwrap();
    }
    folder
}

/// Only a hang lasts so long.
pub(crate) const HANG: Duration = Duration::from_secs(60);

/// A request of which the server has read the head and waits for the body.
pub(crate) fn half_a_request(address: &str, body: &str) -> BufReader<TcpStream> {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(HANG)).unwrap();
    let mut stream = BufReader::new(stream);
    let head = format!(
        "POST /embed HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\nexpect: 100-continue\r\n\r\n",
        body.len()
    );
    stream.get_mut().write_all(head.as_bytes()).unwrap();
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    assert!(line.contains("100"), "{line}");
    stream
}

pub(crate) fn finish(mut request: BufReader<TcpStream>, body: &str) -> String {
    request.get_mut().write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    request.read_to_string(&mut answer).unwrap();
    answer
}

/// A model in the folder `slow` for which a word of `n` letters is work that grows with `n` squared.
pub(crate) fn add_slow_model(folder: &Path) {
    let slow = folder.join("slow");
    RandomBert::TINY.write(&slow, 3).unwrap();
    let path = slow.join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    tokenizer["model"]["max_input_chars_per_word"] = json!(1 << 30);
    fs::write(&path, tokenizer.to_string()).unwrap();
}

/// A server that runs until it is asked to end.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) storages: Storages,
    end: oneshot::Sender<()>,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    /// Serves models of `folder`, with some more options.
    pub(crate) fn start(folder: &Path, options: &[&str]) -> Self {
        let folder: PathBuf = folder.to_owned();
        let given = ["server", "--listen", "127.0.0.1:0", "--models"];
        let given = given.iter().map(ToString::to_string);
        let given = given.chain([folder.display().to_string()]);
        let given = given.chain(options.iter().map(ToString::to_string));
        let options = Options::try_parse_from(given).unwrap();
        let (end, ended) = oneshot::channel();
        let (started, server) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            let runtime = Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let server = Server::start(options).await?;
                started.send((server.address(), server.storages().clone()))?;
                let ended = async { ended.await.unwrap_or_default() };
                server.run(ended).await
            })
        });
        let (address, storages) = server.recv().expect("it starts");
        Self {
            address,
            storages,
            end,
            thread,
        }
    }

    pub(crate) fn client(&self) -> Client {
        Client {
            agent: agent(),
            root: format!("http://{}", self.address),
        }
    }

    /// Asks it to end, as a signal does; it may have requests to finish.
    pub(crate) fn ask_to_end(self) -> JoinHandle<anyhow::Result<()>> {
        self.end.send(()).expect("it runs");
        self.thread
    }

    pub(crate) fn end(self) {
        self.ask_to_end()
            .join()
            .expect("no panic")
            .expect("an orderly end");
    }
}

fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder().http_status_as_error(false);
    config.build().into()
}

pub(crate) struct Client {
    agent: ureq::Agent,
    root: String,
}

impl Client {
    /// Status and body, `null` where that is empty.
    pub(crate) fn ask(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        self.try_ask(method, path, body).unwrap()
    }

    pub(crate) fn try_ask(
        &self,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Result<(u16, Value), ureq::Error> {
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.root));
        let mut response = match body {
            Some(body) => {
                let request = request.header("content-type", "application/json");
                self.agent
                    .run(request.body(body.to_string()).expect("it is valid"))?
            }
            None => self.agent.run(request.body(()).expect("it is valid"))?,
        };
        let status = response.status().as_u16();
        let text = response.body_mut().read_to_string()?;
        Ok((
            status,
            serde_json::from_str(&text).unwrap_or(Value::String(text)),
        ))
    }

    pub(crate) fn load(&self, name: &str, path: &str) -> (u16, Value) {
        self.ask("POST", "/models", Some(json!({"name": name, "path": path})))
    }

    pub(crate) fn swap(&self, name: &str, path: &str) -> (u16, Value) {
        self.ask(
            "PUT",
            &format!("/models/{name}"),
            Some(json!({"path": path})),
        )
    }

    /// The vectors of [`TEXTS`].
    pub(crate) fn embed(&self) -> Vec<Vec<f64>> {
        let (status, answer) = self.ask("POST", "/embed", Some(json!({"texts": TEXTS})));
        assert_eq!(status, 200, "{answer}");
        vectors(&answer)
    }

    /// How many requests for embeddings came to what.
    pub(crate) fn outcomes(&self) -> BTreeMap<String, u64> {
        let (_, text) = self.ask("GET", "/metrics", None);
        let lines = text.as_str().expect("it is no JSON").lines();
        let counts = lines.filter_map(|line| {
            let line = line.strip_prefix("ckload_embed_requests_total{outcome=\"")?;
            let (outcome, count) = line.split_once("\"} ")?;
            Some((outcome.to_owned(), count.parse().unwrap()))
        });
        counts.collect()
    }

    /// A metric without labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let (status, text) = self.ask("GET", "/metrics", None);
        assert_eq!(status, 200);
        let text = text.as_str().expect("it is no JSON");
        assert!(text.ends_with("# EOF\n"), "{text}");
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}"))
            .parse()
            .unwrap()
    }
}

pub(crate) fn vectors(answer: &Value) -> Vec<Vec<f64>> {
    serde_json::from_value(answer["embeddings"].clone()).unwrap()
}

/// How far apart two answers are at most, in any number.
pub(crate) fn distance(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
    assert_eq!(a.len(), b.len());
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}
