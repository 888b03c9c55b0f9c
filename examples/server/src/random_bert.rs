//! Writes models of random weights, for the tests and the load test: each seed is another model.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context;
use ckload::synth::{Blueprint, Element, TensorSpec};
use serde_json::{Value, json};

/// The words that the tokenizer knows.
pub const WORDS: [&str; 10] = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "pages", "of", "memory", "are", "warm", ".",
];

/// A BERT's dimensions.
#[derive(Clone, Copy, Debug)]
pub struct RandomBert {
    /// Numbers of a token's vector.
    pub width: u64,
    /// Attention heads of a layer.
    pub heads: u64,
    /// Layers.
    pub layers: u64,
    /// Numbers between the two matrices of a layer.
    pub inner: u64,
    /// Tokens of the longest text.
    pub positions: u64,
    /// Rows of the word embeddings; more than [`WORDS`] are there for their size.
    pub words: u64,
}

impl RandomBert {
    /// 150 kB.
    pub const TINY: Self = Self {
        width: 32,
        heads: 4,
        layers: 2,
        inner: 64,
        positions: 32,
        words: 300,
    };

    /// As large as all-MiniLM-L6-v2: 91 MB.
    pub const MINI_LM: Self = Self {
        width: 384,
        heads: 12,
        layers: 6,
        inner: 1536,
        positions: 512,
        words: 30_522,
    };

    /// Writes the model's files into `folder`, which is made if need be.
    ///
    /// # Errors
    ///
    /// A file cannot be written.
    pub fn write(&self, folder: &Path, seed: u64) -> anyhow::Result<()> {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let files = [
            ("config.json", self.config()),
            ("tokenizer.json", tokenizer()),
        ];
        for (name, content) in files {
            let path = folder.join(name);
            fs::write(&path, content.to_string()).with_context(|| path.display().to_string())?;
        }
        self.weights()
            .write_file(folder.join("model.safetensors"), seed)?;
        Ok(())
    }

    fn config(&self) -> Value {
        json!({
            "vocab_size": self.words, "hidden_size": self.width, "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads, "intermediate_size": self.inner, "hidden_act": "gelu",
            "hidden_dropout_prob": 0.0, "max_position_embeddings": self.positions, "type_vocab_size": 2,
            "initializer_range": 0.02, "layer_norm_eps": 1e-12, "pad_token_id": 0, "model_type": "bert",
        })
    }

    fn weights(&self) -> Blueprint {
        let mut tensors = Vec::new();
        let mut add = |name: String, shape: &[u64]| {
            tensors.push(TensorSpec::random(name, Element::F32, shape));
        };
        for (name, rows) in [
            ("word", self.words),
            ("position", self.positions),
            ("token_type", 2),
        ] {
            add(
                format!("embeddings.{name}_embeddings.weight"),
                &[rows, self.width],
            );
        }
        let mut parts = vec![("embeddings.LayerNorm".to_owned(), vec![self.width])];
        for layer in 0..self.layers {
            let layer = format!("encoder.layer.{layer}");
            for part in ["self.query", "self.key", "self.value", "output.dense"] {
                parts.push((
                    format!("{layer}.attention.{part}"),
                    vec![self.width, self.width],
                ));
            }
            parts.push((
                format!("{layer}.attention.output.LayerNorm"),
                vec![self.width],
            ));
            parts.push((
                format!("{layer}.intermediate.dense"),
                vec![self.inner, self.width],
            ));
            parts.push((
                format!("{layer}.output.dense"),
                vec![self.width, self.inner],
            ));
            parts.push((format!("{layer}.output.LayerNorm"), vec![self.width]));
        }
        for (name, shape) in parts {
            add(format!("{name}.weight"), &shape);
            add(format!("{name}.bias"), &shape[..1]);
        }
        Blueprint::new(tensors)
    }
}

fn tokenizer() -> Value {
    let vocabulary: BTreeMap<&str, usize> = WORDS.into_iter().zip(0..).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "decoder": null,
        "normalizer": {
            "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
            "vocab": vocabulary,
        },
    })
}
