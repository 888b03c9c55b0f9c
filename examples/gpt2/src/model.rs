//! The network.

use candle_core::{D, Device, Module, Result, Tensor, bail};
use candle_nn::{Embedding, LayerNorm, VarBuilder, embedding, layer_norm, ops};

use crate::Config;

/// Added to a variance, in each published size.
const EPSILON: f64 = 1e-5;

/// GPT-2: tokens to the logits of what comes next.
pub struct Gpt2 {
    tokens: Embedding,
    positions: Embedding,
    blocks: Vec<Block>,
    last_norm: LayerNorm,
}

struct Block {
    attention_norm: LayerNorm,
    attention: Attention,
    inner_norm: LayerNorm,
    widen: Conv1d,
    narrow: Conv1d,
}

struct Attention {
    heads: usize,
    queries_keys_values: Conv1d,
    output: Conv1d,
}

/// What GPT-2 calls a convolution: a linear layer whose weights are stored as inputs by outputs.
struct Conv1d {
    weight: Tensor,
    bias: Tensor,
}

/// The keys and values of the tokens so far, so that each token is computed once.
#[derive(Default)]
pub struct KeysAndValues {
    blocks: Vec<Option<(Tensor, Tensor)>>,
    tokens: usize,
}

impl Gpt2 {
    /// Takes the weights from `weights`, whose names may begin with `transformer.`
    ///
    /// # Errors
    /// If one is missing or has another shape.
    pub fn load(weights: VarBuilder, config: &Config) -> Result<Self> {
        let weights = if weights.contains_tensor("transformer.wte.weight") {
            weights.pp("transformer")
        } else {
            weights
        };
        Ok(Self {
            tokens: embedding(config.vocabulary, config.width, weights.pp("wte"))?,
            positions: embedding(config.positions, config.width, weights.pp("wpe"))?,
            blocks: (0..config.layers)
                .map(|layer| Block::load(weights.pp("h").pp(layer), config))
                .collect::<Result<_>>()?,
            last_norm: layer_norm(config.width, EPSILON, weights.pp("ln_f"))?,
        })
    }

    /// The logits after each of `tokens`, which follow those that `earlier` has seen: as many rows as tokens, as many columns as the
    /// vocabulary has.
    ///
    /// # Errors
    /// If there are no tokens, more than the model has positions for, or some that it does not know.
    pub fn forward(&self, tokens: &[u32], earlier: &mut KeysAndValues) -> Result<Tensor> {
        let (vocabulary, _) = self.tokens.embeddings().dims2()?;
        let (positions, _) = self.positions.embeddings().dims2()?;
        let end = earlier.tokens + tokens.len();
        if tokens.is_empty() || end > positions {
            bail!(
                "{} tokens after {}: the model takes 1 to {positions}",
                tokens.len(),
                earlier.tokens
            );
        }
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= vocabulary) {
            bail!("token {token}: the model knows {vocabulary}");
        }
        let device = self.tokens.embeddings().device();
        let positions = Tensor::arange(earlier.tokens as u32, end as u32, device)?;
        let tokens = Tensor::new(tokens, device)?;
        let mut hidden = (self.tokens.forward(&tokens)? + self.positions.forward(&positions)?)?;
        earlier.blocks.resize(self.blocks.len(), None);
        for (block, earlier) in self.blocks.iter().zip(&mut earlier.blocks) {
            hidden = block.forward(&hidden, earlier)?;
        }
        earlier.tokens = end;
        // The head is the token embedding again.
        self.last_norm
            .forward(&hidden)?
            .matmul(&self.tokens.embeddings().t()?)
    }

    /// The `count` tokens that are each the most likely after `prompt` and those before.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn greedy(&self, prompt: &[u32], count: usize) -> Result<Vec<u32>> {
        let mut earlier = KeysAndValues::default();
        let mut next = prompt.to_vec();
        let mut chosen = Vec::with_capacity(count);
        while chosen.len() < count {
            let logits = self.forward(&next, &mut earlier)?;
            let token = logits.get(next.len() - 1)?.argmax(D::Minus1)?.to_scalar()?;
            chosen.push(token);
            next = vec![token];
        }
        Ok(chosen)
    }
}

impl Block {
    fn load(weights: VarBuilder, config: &Config) -> Result<Self> {
        let width = config.width;
        Ok(Self {
            attention_norm: layer_norm(width, EPSILON, weights.pp("ln_1"))?,
            attention: Attention {
                heads: config.heads,
                queries_keys_values: Conv1d::load(width, 3 * width, weights.pp("attn.c_attn"))?,
                output: Conv1d::load(width, width, weights.pp("attn.c_proj"))?,
            },
            inner_norm: layer_norm(width, EPSILON, weights.pp("ln_2"))?,
            widen: Conv1d::load(width, 4 * width, weights.pp("mlp.c_fc"))?,
            narrow: Conv1d::load(4 * width, width, weights.pp("mlp.c_proj"))?,
        })
    }

    fn forward(&self, hidden: &Tensor, earlier: &mut Option<(Tensor, Tensor)>) -> Result<Tensor> {
        let attended = self
            .attention
            .forward(&self.attention_norm.forward(hidden)?, earlier)?;
        let hidden = (hidden + attended)?;
        let inner = self.widen.forward(&self.inner_norm.forward(&hidden)?)?;
        hidden + self.narrow.forward(&inner.gelu()?)?
    }
}

impl Attention {
    fn forward(&self, hidden: &Tensor, earlier: &mut Option<(Tensor, Tensor)>) -> Result<Tensor> {
        let (tokens, width) = hidden.dims2()?;
        let fused = self.queries_keys_values.forward(hidden)?;
        let part = |index: usize| -> Result<Tensor> {
            // One matrix for each head.
            fused
                .narrow(1, index * width, width)?
                .reshape((tokens, self.heads, width / self.heads))?
                .transpose(0, 1)?
                .contiguous()
        };
        let (queries, mut keys, mut values) = (part(0)?, part(1)?, part(2)?);
        if let Some((earlier_keys, earlier_values)) = earlier {
            keys = Tensor::cat(&[&*earlier_keys, &keys], 1)?;
            values = Tensor::cat(&[&*earlier_values, &values], 1)?;
        }
        let scale = 1.0 / ((width / self.heads) as f64).sqrt();
        let scores = (queries.matmul(&keys.t()?)? * scale)?;
        let seen = ops::softmax_last_dim(&scores.broadcast_add(&mask(
            tokens,
            keys.dim(1)?,
            hidden.device(),
        )?)?)?;
        let mixed = seen
            .matmul(&values)?
            .transpose(0, 1)?
            .reshape((tokens, width))?;
        *earlier = Some((keys, values));
        self.output.forward(&mixed)
    }
}

/// 0 where a token may look, minus infinity where it would see what comes after it.
fn mask(tokens: usize, all: usize, device: &Device) -> Result<Tensor> {
    let earlier = all - tokens;
    let rows = (0..tokens).flat_map(|row| {
        (0..all).map(move |column| {
            if column <= earlier + row {
                0.0
            } else {
                f32::NEG_INFINITY
            }
        })
    });
    Tensor::from_iter(rows, device)?.reshape((tokens, all))
}

impl Conv1d {
    fn load(inputs: usize, outputs: usize, weights: VarBuilder) -> Result<Self> {
        Ok(Self {
            weight: weights.get((inputs, outputs), "weight")?,
            bias: weights.get(outputs, "bias")?,
        })
    }

    fn forward(&self, hidden: &Tensor) -> Result<Tensor> {
        hidden.matmul(&self.weight)?.broadcast_add(&self.bias)
    }
}
