//! A small classifier in burn, whose weights come from a checkpoint: what the example and the tests load.

use burn_core as burn;
use burn_core::module::Module;
use burn_core::tensor::{Device, Tensor, activation};
use burn_nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig, LinearLayout};
use ckload::synth::{Blueprint, Element, TensorSpec};

/// Three linear layers, a norm between them.
#[derive(Debug, Module)]
pub struct Classifier {
    /// The layers before the last.
    pub layers: Vec<Linear>,
    /// Their norm.
    pub norm: LayerNorm,
    /// The last layer.
    pub head: Linear,
}

/// The width of the classifier's layers.
pub const WIDTH: usize = 256;
/// How many classes there are.
pub const CLASSES: usize = 10;

impl Classifier {
    /// A classifier of random weights, which a load replaces; linear weights are stored as burn has them (`Row`) or as PyTorch (`Col`).
    pub fn new(layout: LinearLayout, device: &Device) -> Self {
        let linear = |outputs| {
            LinearConfig::new(WIDTH, outputs)
                .with_layout(layout)
                .init(device)
        };
        Self {
            layers: vec![linear(WIDTH), linear(WIDTH)],
            norm: LayerNormConfig::new(WIDTH).init(device),
            head: linear(CLASSES),
        }
    }

    /// The classes' scores of each row.
    pub fn forward(&self, rows: Tensor<2>) -> Tensor<2> {
        let layers = self.layers.iter();
        let hidden = layers.fold(rows, |rows, layer| activation::relu(layer.forward(rows)));
        self.head.forward(self.norm.forward(hidden))
    }
}

/// A checkpoint of the classifier as PyTorch would save it: `[out, in]`, the norm's tensors called `weight` and `bias`, every other layer
/// without tensors.
pub fn blueprint() -> Blueprint {
    let tensor = |name: &str, shape: &[usize]| {
        let shape: Vec<u64> = shape.iter().map(|&dim| dim as u64).collect();
        TensorSpec::random(format!("classifier.{name}"), Element::F32, shape)
    };
    Blueprint::new(vec![
        tensor("layers.0.weight", &[WIDTH, WIDTH]),
        tensor("layers.0.bias", &[WIDTH]),
        tensor("layers.2.weight", &[WIDTH, WIDTH]),
        tensor("layers.2.bias", &[WIDTH]),
        tensor("norm.weight", &[WIDTH]),
        tensor("norm.bias", &[WIDTH]),
        tensor("head.weight", &[CLASSES, WIDTH]),
        tensor("head.bias", &[CLASSES]),
    ])
}
