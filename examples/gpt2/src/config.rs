//! The dimensions of a GPT-2.

use anyhow::{Context, Result, ensure};
use ckload::{Checkpoint, TensorInfo};
use serde::{Deserialize, Serialize};

/// The dimensions of a model of the GPT-2 family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Number of tokens.
    pub vocabulary: usize,
    /// Longest sequence.
    pub positions: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Number of transformer blocks.
    pub layers: usize,
    /// Number of attention heads in each.
    pub heads: usize,
}

/// The width of a head in each published size.
const HEAD_WIDTH: usize = 64;

impl Config {
    /// The dimensions that a checkpoint's shapes tell, with `heads`, which they don't; without it heads are as wide as published ones.
    ///
    /// # Errors
    /// If it is no GPT-2, or the heads don't divide its width.
    pub fn of(checkpoint: &Checkpoint, heads: Option<usize>) -> Result<Self> {
        let [vocabulary, width] = shape(checkpoint, "wte.weight")?;
        let [positions, _] = shape(checkpoint, "wpe.weight")?;
        let layers = (0..)
            .take_while(|layer| find(checkpoint, &format!("h.{layer}.ln_1.weight")).is_some())
            .count();
        let path = checkpoint.path().display();
        ensure!(layers > 0, "{path}: no h.0.ln_1.weight: not a GPT-2");
        let heads = heads.unwrap_or(width / HEAD_WIDTH);
        ensure!(
            heads > 0 && width % heads == 0,
            "{path}: a width of {width} is not that of {heads} heads; --heads says how many there are"
        );
        Ok(Self {
            vocabulary,
            positions,
            width,
            layers,
            heads,
        })
    }
}

fn shape(checkpoint: &Checkpoint, name: &str) -> Result<[usize; 2]> {
    let path = checkpoint.path().display();
    let tensor =
        find(checkpoint, name).with_context(|| format!("{path}: no {name}: not a GPT-2"))?;
    let extents: Vec<usize> = tensor.shape.iter().map(|&extent| extent as usize).collect();
    <[usize; 2]>::try_from(extents).map_err(|extents| {
        anyhow::anyhow!("{path}: {name} has the shape {extents:?}, and a matrix is due")
    })
}

/// The tensor of this name, which some published files begin with `transformer.`
fn find<'a>(checkpoint: &'a Checkpoint, name: &str) -> Option<&'a TensorInfo> {
    checkpoint
        .tensor(name)
        .or_else(|| checkpoint.tensor(&format!("transformer.{name}")))
}
