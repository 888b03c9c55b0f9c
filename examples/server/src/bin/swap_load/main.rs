//! Swaps models under load, and says what that did: failed requests, memory, and how long a swap took with kept and with fresh memory.
//!
//! `cargo run --release --manifest-path examples/Cargo.toml -p ckload-example-server --bin swap_load [FOLDER FOLDER]`

mod load;
mod report;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use ckload_example_server::random_bert::RandomBert;
use clap::{Parser, ValueEnum};

/// Swaps models under load, and measures.
#[derive(Parser)]
struct Arguments {
    /// Two folders with models [default: of random weights, in a temporary folder].
    #[arg(num_args = 2, value_names = ["FOLDER", "FOLDER"])]
    folders: Vec<PathBuf>,
    /// Without folders: how large the models are.
    #[arg(long, value_enum, default_value_t = Size::MiniLm)]
    size: Size,
    /// How often to swap, before some more swaps are timed.
    #[arg(long, default_value = "100")]
    swaps: u32,
    /// Connections that ask all the time.
    #[arg(long, default_value = "16", value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Size {
    /// 150 kB.
    Tiny,
    /// 91 MB.
    MiniLm,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all requests were answered.
fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let written = tempfile::tempdir()?;
    let folders = match &arguments.folders[..] {
        [first, second] => [absolute(first)?, absolute(second)?],
        _ => {
            let size = match arguments.size {
                Size::Tiny => RandomBert::TINY,
                Size::MiniLm => RandomBert::MINI_LM,
            };
            let folders = ["a", "b"].map(|name| written.path().join(name));
            for (folder, seed) in folders.iter().zip(1..) {
                size.write(folder, seed)?;
            }
            folders
        }
    };
    let measured = load::swaps(&folders, arguments.swaps, arguments.connections)?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&measured)?);
    } else {
        report::print(&measured);
    }
    Ok(measured.failed_requests == 0)
}

fn absolute(folder: &Path) -> anyhow::Result<PathBuf> {
    let path = folder
        .canonicalize()
        .with_context(|| folder.display().to_string())?;
    ensure!(path.is_dir(), "{} is not a folder", path.display());
    Ok(path)
}
