//! Writes a checkpoint of any format as one safetensors file, by code that knows nothing but the safetensors crate.
//!
//! `cargo run --features safetensors --example safetensors_views [MODEL [OUT]]`; without a model it writes one of 20 MB into a temporary
//! folder.

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::path::PathBuf;

use ckload::safetensors::Views;
use ckload::synth::Gpt2;
use ckload::{Checkpoint, Loader};
use safetensors::SafeTensors;

/// A model of GPT-2's kind of 20 MB.
const SMALL: Gpt2 = Gpt2 {
    layers: 4,
    width: 256,
    vocabulary: 5000,
    positions: 256,
};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let path = match arguments.next() {
        Some(path) => path,
        None => {
            let path = folder.path().join("model.safetensors");
            SMALL.blueprint().write_file(&path, 0)?;
            path
        }
    };
    let written = arguments
        .next()
        .unwrap_or_else(|| folder.path().join("written.safetensors"));

    let model = Loader::new().load(&Checkpoint::open(&path)?)?;

    // From here on it is the interface of `SafeTensors`; nothing is copied but by the write.
    let tensors = Views::of(&model)?;
    safetensors::serialize_to_file(tensors.iter(), None, &written)?;

    let bytes = std::fs::read(&written)?;
    let read = SafeTensors::deserialize(&bytes)?;
    for (name, tensor) in tensors.iter() {
        assert_eq!(read.tensor(name)?, tensor, "{name}");
    }
    println!(
        "{}: {} tensors, read back and equal",
        written.display(),
        read.len()
    );
    Ok(())
}
