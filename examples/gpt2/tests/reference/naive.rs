//! GPT-2 in plain loops and 64-bit numbers, one token after the other: slow, and easy to check against the paper.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use safetensors::SafeTensors;

/// The tensors of a checkpoint by name, without `transformer.`, row after row.
pub(crate) struct Naive {
    tensors: HashMap<String, Vec<f64>>,
    width: usize,
    heads: usize,
    layers: usize,
}

impl Naive {
    pub(crate) fn read(path: &Path, width: usize, heads: usize, layers: usize) -> Self {
        let file = fs::read(path).unwrap();
        let tensors = SafeTensors::deserialize(&file)
            .unwrap()
            .iter()
            .map(|(name, tensor)| {
                let values = tensor
                    .data()
                    .as_chunks::<4>()
                    .0
                    .iter()
                    .map(|&bytes| f64::from(f32::from_le_bytes(bytes)))
                    .collect();
                (name.trim_start_matches("transformer.").to_owned(), values)
            })
            .collect();
        Self {
            tensors,
            width,
            heads,
            layers,
        }
    }

    /// The logits after each of the tokens.
    pub(crate) fn logits(&self, tokens: &[u32]) -> Vec<Vec<f64>> {
        let width = self.width;
        let row = |name: &str, index: usize| self.tensors[name][index * width..][..width].to_vec();
        let mut hidden: Vec<Vec<f64>> = tokens
            .iter()
            .enumerate()
            .map(|(position, &token)| {
                sum(
                    &row("wte.weight", token as usize),
                    &row("wpe.weight", position),
                )
            })
            .collect();
        for layer in 0..self.layers {
            let at = |name: &str| format!("h.{layer}.{name}");
            let normed: Vec<_> = hidden
                .iter()
                .map(|token| self.norm(&at("ln_1"), token))
                .collect();
            let attended = self.attend(&at("attn"), &normed);
            for (token, attended) in hidden.iter_mut().zip(attended) {
                *token = sum(token, &attended);
                let mut inner = self.linear(&at("mlp.c_fc"), &self.norm(&at("ln_2"), token));
                for value in &mut inner {
                    *value = gelu_new(*value);
                }
                *token = sum(token, &self.linear(&at("mlp.c_proj"), &inner));
            }
        }
        let vocabulary = self.tensors["wte.weight"].len() / width;
        hidden
            .iter()
            .map(|token| {
                let token = self.norm("ln_f", token);
                (0..vocabulary)
                    .map(|word| dot(&row("wte.weight", word), &token))
                    .collect()
            })
            .collect()
    }

    fn attend(&self, name: &str, tokens: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let fused: Vec<_> = tokens
            .iter()
            .map(|token| self.linear(&format!("{name}.c_attn"), token))
            .collect();
        let head_width = self.width / self.heads;
        let part = |token: usize, kind: usize, head: usize| {
            &fused[token][kind * self.width + head * head_width..][..head_width]
        };
        (0..tokens.len())
            .map(|token| {
                let mut mixed = Vec::new();
                for head in 0..self.heads {
                    let scores: Vec<f64> = (0..=token)
                        .map(|other| {
                            (dot(part(token, 0, head), part(other, 1, head))
                                / (head_width as f64).sqrt())
                            .exp()
                        })
                        .collect();
                    let total: f64 = scores.iter().sum();
                    mixed.extend((0..head_width).map(|column| {
                        let weighted = scores
                            .iter()
                            .enumerate()
                            .map(|(other, score)| score / total * part(other, 2, head)[column]);
                        weighted.sum::<f64>()
                    }));
                }
                self.linear(&format!("{name}.c_proj"), &mixed)
            })
            .collect()
    }

    /// Inputs times a matrix of inputs by outputs, and the bias.
    fn linear(&self, name: &str, inputs: &[f64]) -> Vec<f64> {
        let weight = &self.tensors[&format!("{name}.weight")];
        let mut outputs = self.tensors[&format!("{name}.bias")].clone();
        let columns = outputs.len();
        for (row, input) in inputs.iter().enumerate() {
            for (column, output) in outputs.iter_mut().enumerate() {
                *output += input * weight[row * columns + column];
            }
        }
        outputs
    }

    fn norm(&self, name: &str, values: &[f64]) -> Vec<f64> {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let variance = values
            .iter()
            .map(|value| (value - mean).powi(2))
            .sum::<f64>()
            / count;
        let weight = &self.tensors[&format!("{name}.weight")];
        let bias = &self.tensors[&format!("{name}.bias")];
        let scaled = values
            .iter()
            .map(|value| (value - mean) / (variance + 1e-5).sqrt());
        scaled
            .zip(weight)
            .zip(bias)
            .map(|((value, weight), bias)| value * weight + bias)
            .collect()
    }
}

fn sum(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn gelu_new(value: f64) -> f64 {
    0.5 * value
        * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (value + 0.044715 * value.powi(3))).tanh())
}
