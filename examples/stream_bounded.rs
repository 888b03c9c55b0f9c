//! Works through a checkpoint tensor by tensor, in as much memory as you allow.
//!
//! `cargo run --example stream_bounded [MODEL [BUDGET]]`, the budget as in `256MiB`. Without a budget the loader chooses; without a model
//! one of 20 MB is written into a temporary folder, and streamed through 8 MiB.

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::path::PathBuf;

use ckload::synth::Gpt2;
use ckload::{BufferPool, ByteSize, Checkpoint, Loader};

/// A model of GPT-2's kind of 20 MB.
const SMALL: Gpt2 = Gpt2 {
    layers: 4,
    width: 256,
    vocabulary: 5000,
    positions: 256,
};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let mut arguments = std::env::args().skip(1);
    let (path, budget) = match arguments.next() {
        Some(path) => {
            let budget = arguments.next().map(|text| text.parse::<ByteSize>());
            (PathBuf::from(path), budget.transpose()?)
        }
        None => {
            let path = folder.path().join("model.safetensors");
            SMALL.blueprint().write_file(&path, 0)?;
            (path, Some(ByteSize::mib(8)))
        }
    };

    let checkpoint = Checkpoint::open(&path)?;
    let loader = Loader::new();
    let budget = budget.unwrap_or_else(|| loader.default_budget(&checkpoint));

    // The pool's own limit makes the promise hold whatever else uses the pool.
    let pool = BufferPool::builder()
        .max_bytes(budget.as_u64() as usize)
        .build();
    let mut stream = loader.pool(&pool).budget(budget).stream(&checkpoint)?;

    // Tensors come in the order of their arrival. Each is dropped before the next is asked for: what is kept counts against the budget.
    let mut largest = (String::new(), 0.0_f32);
    for tensor in &mut stream {
        let tensor = tensor?;
        let Ok(values) = tensor.as_slice::<f32>() else {
            continue; // of another type
        };
        let magnitude = values
            .iter()
            .fold(0.0, |most: f32, value| most.max(value.abs()));
        if magnitude > largest.1 {
            largest = (tensor.name().to_owned(), magnitude);
        }
    }
    println!("the largest magnitude is {} in {}", largest.1, largest.0);

    let report = stream.report();
    println!(
        "{} bytes in {:.2} ms through a budget of {budget}; at most {} were held",
        report.bytes,
        report.seconds * 1e3,
        ByteSize::b(report.peak_pool_bytes),
    );
    Ok(())
}
