//! Measures loads of a checkpoint into the tensors of candle, of burn and of safetensors: in the frameworks' own ways, and through ckload.
//!
//! ```text
//! cargo run --release -p ckload-peers-loaders                        # GPT-2 (548 MB), written into the target folder once
//! cargo run --release -p ckload-peers-loaders -- MODEL               # a safetensors file, an index or a folder
//! cargo run --release -p ckload-peers-loaders -- --quick             # a smoke run of some seconds; its figures mean nothing
//! cargo run --release -p ckload-peers-loaders -- --save ../runs NAME=MODEL   # also writes runs/<date>-<machine>/loaders-NAME.{json,md}
//! ```
//!
//! # Method
//!
//! Every load runs in a process of its own, which loads once and then, the tensors dropped, again: the *first* load finds new memory, the
//! *repeated* ones what the process kept. In each round every way runs once, and the order rotates from round to round; the tables show
//! medians over rounds. What a load made is compared with what the other ways made, outside the time.
//!
//! Time runs from the path to all tensors in private memory. Where a way maps the file and copies nothing, its pages are touched within the
//! time. *Warm*: the page cache has the whole checkpoint; *cold*: it has none of it, and in both cases the kernel was asked. Rounds in
//! which other processes took more than a twentieth of the CPUs' time are measured again, for as long as patience lasts.
//!
//! On a virtual machine that gives free memory back to its host, memory costs up to twenty times as much to touch for the first time.
//! Each process touches and frees as much memory as it may need before its first load.

mod child;
mod page_cache;
mod report;
mod rounds;
mod ways;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ckload::Checkpoint;
use ckload::synth::{self, Gpt2};
use ckload_peers_machine::{self as machine, Machine};
use clap::Parser;

use self::page_cache::State;
use self::rounds::Effort;
use self::ways::Way;

/// Measures loads into candle, burn and safetensors, in their own ways and through ckload.
#[derive(Parser)]
struct Options {
    /// The checkpoint, of safetensors files; `NAME=MODEL` gives the results a name. Default: one of GPT-2's shape.
    model: Option<String>,
    /// A smoke run of some seconds on a small model, whose figures mean nothing.
    #[arg(long)]
    quick: bool,
    /// Rounds; medians are over these. Default: 7.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: Option<u16>,
    /// Loads after the first in each process. Default: 3.
    #[arg(long, value_name = "N", default_value = "3", hide_default_value = true, value_parser = clap::value_parser!(u16).range(1..))]
    repeated: u16,
    /// Only `warm` or `cold`. Default: both.
    #[arg(long)]
    state: Option<State>,
    /// Only ways whose name contains one of these words. Default: all.
    #[arg(long, value_name = "WORD")]
    ways: Vec<String>,
    /// Also write the raw results to DIR/<date>-<machine>/.
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    /// Load in this way, in this process, and print what it took as JSON.
    #[arg(long, hide = true, requires = "state")]
    child: Option<Way>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let (name, path) = model(options)?;
    if let (Some(way), Some(state)) = (options.child, options.state) {
        return child::run(way, state, options.repeated, &path);
    }
    let checkpoint = Checkpoint::open(&path)?;
    let effort = Effort {
        rounds: options
            .rounds
            .map_or(if options.quick { 2 } else { 7 }, Into::into),
        repeated: if options.quick { 1 } else { options.repeated },
        undisturbed: !options.quick,
    };
    let ways: Vec<Way> = ways::ALL
        .into_iter()
        .filter(|way| {
            options.ways.is_empty()
                || options
                    .ways
                    .iter()
                    .any(|word| way.name().contains(word.as_str()))
        })
        .collect();
    let states = options
        .state
        .map_or_else(|| vec![State::Warm, State::Cold], |state| vec![state]);
    let mut measured = Vec::new();
    for state in states {
        measured.push(rounds::measure(&path, state, &ways, effort)?);
    }
    let machine = Machine::this();
    let run = report::Run {
        schema: 1,
        date: machine::today(),
        machine: &machine,
        effort,
        name: &name,
        files: checkpoint.files().len(),
        tensors: checkpoint.tensors().len(),
        bytes: checkpoint.bytes(),
        states: measured,
    };
    let table = report::markdown(&run);
    print!("{table}");
    if let Some(parent) = &options.save {
        let folder = machine.folder(parent, &run.date)?;
        let file = folder.join(format!("loaders-{name}"));
        std::fs::write(file.with_extension("md"), table)?;
        std::fs::write(
            file.with_extension("json"),
            serde_json::to_string_pretty(&run)? + "\n",
        )?;
        eprintln!("written to {}", folder.display());
    }
    Ok(())
}

/// The checkpoint's name and path; writes one where none is given.
fn model(options: &Options) -> Result<(String, PathBuf), Box<dyn Error>> {
    if let Some(model) = &options.model {
        let (name, path) = model.split_once('=').unwrap_or(("model", model));
        return Ok((name.to_owned(), PathBuf::from(path)));
    }
    let (name, shape) = if options.quick {
        ("gpt2-tiny", Gpt2::TINY.blueprint())
    } else {
        ("gpt2", synth::gpt2())
    };
    let folder = std::env::current_exe()?
        .parent()
        .map_or_else(std::env::temp_dir, Path::to_owned);
    let path = folder.join(format!("{name}.safetensors"));
    if !path
        .metadata()
        .is_ok_and(|left| left.len() == shape.file_bytes())
    {
        shape.write_file(&path, 0)?;
    }
    Ok((name.to_owned(), path))
}
