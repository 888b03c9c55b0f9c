//! Serves sentence embeddings over HTTP, and swaps models under load.
//!
//! `cargo run --release --manifest-path examples/Cargo.toml -p ckload-example-server -- --models DIR`

use std::io;
use std::process::ExitCode;

use ckload_example_server::{Options, Server};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> ExitCode {
    match run(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> anyhow::Result<()> {
    let asked_to_end = interrupted_or_terminated()?;
    let server = Server::start(options).await?;
    eprintln!("listening on http://{}", server.address());
    server.run(asked_to_end).await
}

/// Waits for SIGINT or SIGTERM; from now on neither ends the process.
fn interrupted_or_terminated() -> io::Result<impl Future<Output = ()>> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
        }
        eprintln!("ending: requests that have begun are answered");
    })
}
