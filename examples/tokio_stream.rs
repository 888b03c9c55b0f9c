//! Works through a checkpoint in asynchronous code, and gives up a load half-way.
//!
//! `cargo run --example tokio_stream --features tokio [MODEL]`; without a model it writes one of 20 MB into a temporary folder.

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::path::PathBuf;

use ckload::synth::Gpt2;
use ckload::{BufferPool, ByteSize, Loader};
use tokio::runtime::Builder;

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
    Builder::new_current_thread().build()?.block_on(run(path))
}

async fn run(path: PathBuf) -> Result<(), Box<dyn Error>> {
    let pool = BufferPool::new();
    let loader = Loader::new().pool(&pool);
    let checkpoint = ckload::tokio::open(path).await?;

    let mut tensors = ckload::tokio::stream(&loader, &checkpoint);
    let mut bytes = 0;
    while let Some(tensor) = tensors.next().await {
        // Other tasks run while the next is on its way.
        bytes += tensor?.bytes().len() as u64;
    }
    println!("{} streamed", ByteSize::b(bytes));

    // Whoever gives up a load drops it, and goes on at once; its memory goes back by itself.
    let mut tensors = ckload::tokio::stream(&loader, &checkpoint);
    if let Some(first) = tensors.next().await {
        println!("only {} this time", first?.name());
    }
    drop(tensors);

    let model = ckload::tokio::load(&loader, &checkpoint).await?;
    let reused = model.report().allocation.reused_bytes;
    println!(
        "{} tensors resident, {} of them in memory that was there already",
        model.tensors().len(),
        ByteSize::b(reused)
    );
    Ok(())
}
