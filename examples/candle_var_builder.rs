//! A small model of candle's, loaded in candle's way and in ours.
//!
//! `cargo run --features candle --example candle_var_builder`

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::path::Path;

use candle_core::{DType, Device, Module, Result, Tensor};
use candle_nn::{Embedding, LayerNorm, Linear, VarBuilder, VarMap};
use ckload::{Checkpoint, Loader};

const WORDS: usize = 1000;
const WIDTH: usize = 128;

struct Model {
    words: Embedding,
    norm: LayerNorm,
    up: Linear,
    down: Linear,
}

impl Model {
    fn new(vb: VarBuilder<'_>) -> Result<Self> {
        Ok(Self {
            words: candle_nn::embedding(WORDS, WIDTH, vb.pp("words"))?,
            norm: candle_nn::layer_norm(WIDTH, 1e-5, vb.pp("norm"))?,
            up: candle_nn::linear(WIDTH, 4 * WIDTH, vb.pp("up"))?,
            down: candle_nn::linear(4 * WIDTH, WIDTH, vb.pp("down"))?,
        })
    }

    fn forward(&self, words: &Tensor) -> Result<Tensor> {
        let hidden = self.norm.forward(&self.words.forward(words)?)?;
        self.down.forward(&self.up.forward(&hidden)?.gelu()?)
    }
}

fn with_candle(path: &Path) -> std::result::Result<Model, Box<dyn Error>> {
    let path = path.join("model.safetensors");
    let tensors = candle_core::safetensors::load(path, &Device::Cpu)?;
    let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    Ok(Model::new(vb)?)
}

fn with_ckload(path: &Path) -> std::result::Result<Model, Box<dyn Error>> {
    let checkpoint = Checkpoint::open(path)?;
    let loader = Loader::new();
    let vb = ckload::candle::var_builder(&loader, &checkpoint, DType::F32, &Device::Cpu)?;
    Ok(Model::new(vb)?)
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    // A model of random weights.
    let folder = tempfile::tempdir()?;
    let variables = VarMap::new();
    let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    Model::new(vb)?;
    variables.save(folder.path().join("model.safetensors"))?;

    let words = Tensor::new(&[3_u32, 14, 159, 265], &Device::Cpu)?;
    let theirs = with_candle(folder.path())?.forward(&words)?;
    let ours = with_ckload(folder.path())?.forward(&words)?;
    assert_eq!(ours.to_vec2::<f32>()?, theirs.to_vec2::<f32>()?);
    println!("{ours}");
    println!("the same from both loaders");
    Ok(())
}
