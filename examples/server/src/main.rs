//! Serves sentence embeddings over HTTP, and swaps models under load.
//!
//! `cargo run --release --manifest-path examples/Cargo.toml -p ckload-example-server -- --models DIR`

use std::io;
use std::process::ExitCode;

use ckload_example_server::{Options, Server};
use clap::Parser;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let options = Options::parse();
    let ended = Runtime::new().map_err(Into::into).and_then(|runtime| {
        let ended = runtime.block_on(run(options));
        // Loads and embeddings that nobody waits for any more do not keep the program.
        runtime.shutdown_background();
        ended
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> anyhow::Result<()> {
    let mut asked_to_end = Box::pin(interrupted_or_terminated()?);
    eprintln!("loading {} models", options.load.len());
    let server = tokio::select! {
        server = Server::start(options) => server?,
        () = &mut asked_to_end => return Ok(()),
    };
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
        eprintln!("asked to end; requests that have begun are answered first");
    })
}
