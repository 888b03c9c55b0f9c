//! The model: texts in, vectors out.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use anyhow::{Context, ensure};
use candle_core::{D, Device, Tensor};
use candle_transformers::models::bert::{BertModel, Config, DTYPE};
use ckload::candle::{Recycled, Storages};
use ckload::{Checkpoint, Loader};
use tokenizers::{PaddingParams, Tokenizer, TruncationParams};

/// A BERT with its tokenizer; turns texts into vectors of length 1.
pub(crate) struct Embedder {
    /// Its memory goes back to the storages when the last request that it answers is done.
    model: Recycled<BertModel>,
    tokenizer: Tokenizer,
    /// Of the checkpoint's tensors.
    bytes: u64,
}

impl Embedder {
    /// Loads what a folder has: `config.json`, `tokenizer.json` and weights; these into memory of `storages`.
    pub(crate) fn load(
        folder: &Path,
        loader: &Loader,
        storages: &Storages,
    ) -> anyhow::Result<Self> {
        let config_path = folder.join("config.json");
        let named = || config_path.display().to_string();
        let config = File::open(&config_path).with_context(named)?;
        let config: Config = serde_json::from_reader(BufReader::new(config)).with_context(named)?;
        let tokenizer = read_tokenizer(&folder.join("tokenizer.json"), &config)?;
        let checkpoint = Checkpoint::open(folder)?;
        let model = storages.build(loader, &checkpoint, DTYPE, |weights| {
            BertModel::load(weights, &config)
        })?;
        let bytes = checkpoint.bytes();
        Ok(Self {
            model,
            tokenizer,
            bytes,
        })
    }

    /// The bytes of the weights.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The vector of each text: the mean over its tokens, scaled to length 1.
    pub(crate) fn embed(&self, texts: Vec<String>) -> anyhow::Result<Vec<Vec<f32>>> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let batch = self.tokenizer.encode_batch_fast(texts, true);
        let batch = batch.map_err(anyhow::Error::from_boxed)?;
        let rows = |of: fn(&tokenizers::Encoding) -> &[u32]| -> candle_core::Result<Tensor> {
            let rows: Vec<&[u32]> = batch.iter().map(of).collect();
            Tensor::new(rows, &Device::Cpu)
        };
        let tokens = rows(tokenizers::Encoding::get_ids)?;
        let types = rows(tokenizers::Encoding::get_type_ids)?;
        let mask = rows(tokenizers::Encoding::get_attention_mask)?;
        let hidden = self.model.forward(&tokens, &types, Some(&mask))?;
        Ok(means(&hidden, &mask)?.to_vec2()?)
    }
}

/// The tokenizer, set to cut texts that are too long for the model, and to pad a batch as far as its longest text.
fn read_tokenizer(path: &Path, config: &Config) -> anyhow::Result<Tokenizer> {
    let named = || path.display().to_string();
    let mut tokenizer = Tokenizer::from_file(path)
        .map_err(anyhow::Error::from_boxed)
        .with_context(named)?;
    let tokens = tokenizer.get_vocab_size(true);
    ensure!(
        tokens <= config.vocab_size,
        "{}: {tokens} tokens are more than the model has",
        named()
    );
    tokenizer.with_padding(Some(PaddingParams::default()));
    let truncation = TruncationParams {
        max_length: config.max_position_embeddings,
        ..TruncationParams::default()
    };
    tokenizer
        .with_truncation(Some(truncation))
        .map_err(anyhow::Error::from_boxed)?;
    Ok(tokenizer)
}

/// The mean of each text's vectors, padding left out, scaled to length 1.
fn means(hidden: &Tensor, mask: &Tensor) -> candle_core::Result<Tensor> {
    let mask = mask.to_dtype(DTYPE)?.unsqueeze(D::Minus1)?;
    let sums = hidden.broadcast_mul(&mask)?.sum(1)?;
    let means = sums.broadcast_div(&mask.sum(1)?)?;
    means.broadcast_div(&means.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)
}
