//! Embeds sentences with all-MiniLM-L6-v2, its weights loaded by candle and by ckload, and compares.
//!
//! `examples/embed/fetch && cargo run --release --manifest-path examples/Cargo.toml -p ckload-example-embed`

mod compare;
mod sentences;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use ckload_example_embed::ModelFolder;
use clap::Parser;

/// Embeds sentences with weights that candle and that ckload loaded, and compares.
#[derive(Parser)]
struct Arguments {
    /// The model's folder [default: where `examples/embed/fetch` leaves it].
    folder: Option<PathBuf>,
    /// How often to load in each way; medians are printed.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let path = match &arguments.folder {
        Some(path) => path.clone(),
        None => {
            ModelFolder::fetched().context("there is no home folder: name the model's folder")?
        }
    };
    let folder = ModelFolder::open(path).context("examples/embed/fetch fetches the model")?;
    let embedder = compare::loads(&folder, arguments.runs)?;
    sentences::check(&embedder)
}
