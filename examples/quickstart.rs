//! Opens a checkpoint, loads all of it, and looks at a tensor.
//!
//! `cargo run --example quickstart [MODEL]`; without a model it writes one of 20 MB into a temporary folder.

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::path::PathBuf;

use ckload::synth::Gpt2;
use ckload::{BufferPool, Checkpoint, Dtype, Loader};

/// A model of GPT-2's kind of 20 MB.
const SMALL: Gpt2 = Gpt2 {
    layers: 4,
    width: 256,
    vocabulary: 5000,
    positions: 256,
};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let path = match std::env::args_os().nth(1) {
        Some(path) => PathBuf::from(path),
        None => {
            let path = folder.path().join("model.safetensors");
            SMALL.blueprint().write_file(&path, 0)?;
            path
        }
    };

    // Reads headers only: kilobytes, whatever the size of the checkpoint.
    let checkpoint = Checkpoint::open(&path)?;
    println!(
        "{} tensors, {} bytes",
        checkpoint.tensors().len(),
        checkpoint.bytes()
    );

    // The pool outlives the model: whatever is loaded next reuses the model's memory.
    let pool = BufferPool::new();
    let loader = Loader::new().pool(&pool);
    let model = loader.load(&checkpoint)?;

    // Aligned and not copied, wherever in the file the bytes were.
    let floats = model
        .tensors()
        .iter()
        .find(|tensor| tensor.dtype() == Dtype::F32 && !tensor.bytes().is_empty());
    if let Some(tensor) = floats {
        let values = tensor.as_slice::<f32>()?;
        let mean = values.iter().map(|&value| f64::from(value)).sum::<f64>() / values.len() as f64;
        println!(
            "{} {:?}: the mean is {mean:.6}",
            tensor.name(),
            tensor.shape()
        );
    }

    let first = model.report().clone();
    drop(model);
    let second = loader.load(&checkpoint)?.report().clone();
    for (load, report) in [("first", first), ("second", second)] {
        println!(
            "{load} load: {:.2} ms, {} fresh buffers, {} reused",
            report.seconds * 1e3,
            report.allocation.fresh,
            report.allocation.reused,
        );
    }
    Ok(())
}
