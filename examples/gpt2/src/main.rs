//! The time from a process's start to GPT-2's first token, with candle's loader and with ckload.
//!
//! `cargo run --release --manifest-path examples/Cargo.toml -p ckload-example-gpt2 [MODEL]`

mod child;
mod free_memory;
mod page_cache;
mod rounds;

use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device};
use ckload::synth::{self, IfExists};
use ckload::{Checkpoint, Loader};
use ckload_example_gpt2::{Config, Gpt2};
use clap::Parser;
use etcetera::{BaseStrategy, choose_base_strategy};

use child::{Task, Way};
use free_memory::FreeMemory;

/// Measures the time to the first token with candle's loader and with ckload, and compares all logits.
#[derive(Parser)]
struct Arguments {
    /// A GPT-2's model.safetensors [default: the one that `ckload demo` writes, of random values; it is written if it is not there].
    model: Option<PathBuf>,
    /// How often to measure in each way; medians are printed.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Attention heads of a model whose heads are not 64 wide.
    #[arg(long)]
    heads: Option<usize>,
    /// Tokens to begin with, by number [default: "Hello, my dog is cute"].
    #[arg(long, value_delimiter = ',', default_values_t = [15_496, 11, 616, 3_290, 318, 13_779], hide_default_value = true)]
    prompt: Vec<u32>,
    /// Tokens to go on with.
    #[arg(long, default_value_t = 8)]
    tokens: usize,
    /// The machine's free memory before each measurement; in a virtual machine what was not touched for some seconds may cost more.
    #[arg(long, value_enum, default_value_t = FreeMemory::Touched)]
    free_memory: FreeMemory,
    /// Be the process that is measured.
    #[arg(long, hide = true, requires_all = ["model", "config"])]
    child: Option<Way>,
    /// The model's dimensions, for such a process.
    #[arg(long, hide = true)]
    config: Option<String>,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    if let (Some(way), Some(model), Some(config)) =
        (arguments.child, &arguments.model, &arguments.config)
    {
        let task = Task {
            model: model.clone(),
            config: serde_json::from_str(config)?,
            prompt: arguments.prompt,
        };
        return child::run(way, &task);
    }
    let model = match arguments.model {
        Some(model) => model,
        None => written_once()?,
    };
    let checkpoint = Checkpoint::open(&model)?;
    let task = Task {
        config: Config::of(&checkpoint, arguments.heads)?,
        model,
        prompt: arguments.prompt,
    };
    let first = rounds::run(&task, arguments.runs, arguments.free_memory)?;

    let weights =
        ckload::candle::var_builder(&Loader::new(), &checkpoint, DType::F32, &Device::Cpu)?;
    let tokens = Gpt2::load(weights, &task.config)?.greedy(&task.prompt, arguments.tokens)?;
    println!("{:?} goes on with {tokens:?}", task.prompt);
    ensure!(
        tokens.first().is_none_or(|&token| token == first),
        "the measured processes went on with {first}"
    );
    Ok(())
}

/// The checkpoint of `ckload demo`, written unless it is there.
fn written_once() -> Result<PathBuf> {
    let folder = choose_base_strategy()
        .context("name a model")?
        .cache_dir()
        .join("ckload");
    let path = folder.join("gpt2.safetensors");
    let blueprint = synth::gpt2();
    if fs::metadata(&path).is_ok_and(|found| found.len() == blueprint.file_bytes()) {
        return Ok(path);
    }
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    eprintln!(
        "writing {}: {} MB of random values, for this time and later ones",
        path.display(),
        blueprint.file_bytes() / 1_000_000
    );
    blueprint.write_file_with(&path, 0, IfExists::Replace, |_| ControlFlow::Continue(()))?;
    Ok(path)
}
