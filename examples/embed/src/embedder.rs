//! The model, and what turns its output into one vector a text.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use candle_core::{D, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, DTYPE};
use ckload::candle::{Recycled, Storages};
use ckload::{Checkpoint, Loader};
use tokenizers::{Encoding, Tokenizer};

use crate::ModelFolder;

/// Turns texts into vectors of length 1, whose scalar product says how close two texts are.
pub struct Embedder {
    model: Weights,
    tokenizer: Arc<Tokenizer>,
}

/// A model, and who owns its memory.
enum Weights {
    Own(BertModel),
    Recycled(Recycled<BertModel>),
}

impl Embedder {
    /// Has candle load the weights, `model.safetensors`: it maps the file, and copies each tensor when the model asks for it.
    ///
    /// # Errors
    /// If the file is missing, or is not the model that `config.json` describes.
    pub fn load_with_candle(folder: &ModelFolder) -> Result<Self> {
        let path = folder.path().join("model.safetensors");
        // SAFETY: the map must not change while it is read, and nobody writes to a model's folder while it is loaded. That is all that can
        // be said, and is why there is no such line where ckload loads.
        #[allow(unsafe_code)]
        let weights = unsafe { VarBuilder::from_mmaped_safetensors(&[&path], DTYPE, &Device::Cpu) }
            .with_context(|| path.display().to_string())?;
        let model = BertModel::load(weights, folder.config())
            .with_context(|| path.display().to_string())?;
        Ok(Self::new(folder, Weights::Own(model)))
    }

    /// Loads the weights, `checkpoint`, with ckload.
    ///
    /// # Errors
    /// If they are not whole, or not those of the model that `config.json` describes.
    pub fn load(folder: &ModelFolder, loader: &Loader, checkpoint: &Checkpoint) -> Result<Self> {
        let weights = ckload::candle::var_builder(loader, checkpoint, DTYPE, &Device::Cpu)?;
        let model = BertModel::load(weights, folder.config())?;
        Ok(Self::new(folder, Weights::Own(model)))
    }

    /// Loads the weights, `checkpoint`, with ckload into memory of `storages`, which gets it back when the embedder is dropped.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_recycled(
        folder: &ModelFolder,
        loader: &Loader,
        checkpoint: &Checkpoint,
        storages: &Storages,
    ) -> Result<Self> {
        let model = storages.build(loader, checkpoint, DTYPE, |weights| {
            BertModel::load(weights, folder.config())
        })?;
        Ok(Self::new(folder, Weights::Recycled(model)))
    }

    fn new(folder: &ModelFolder, model: Weights) -> Self {
        Self {
            model,
            tokenizer: Arc::clone(folder.tokenizer()),
        }
    }

    /// The vector of each text: the mean over its tokens, normalised.
    ///
    /// # Errors
    /// If a text cannot be tokenized or has no tokens, or candle fails.
    pub fn embed(&self, texts: &[impl AsRef<str>]) -> Result<Vec<Vec<f32>>> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let batch = self
            .tokenizer
            .encode_batch_fast(texts.iter().map(AsRef::as_ref).collect::<Vec<&str>>(), true)
            .map_err(anyhow::Error::from_boxed)?;
        // Some tokenizers add nothing to a text, and the mean over no tokens is no vector.
        let empty = batch
            .iter()
            .position(|text| !text.get_attention_mask().contains(&1));
        if let Some(index) = empty {
            bail!("text {index}, {:?}, has no tokens", texts[index].as_ref());
        }
        let rows = |of: fn(&Encoding) -> &[u32]| -> Result<Tensor> {
            let rows: Vec<&[u32]> = batch.iter().map(of).collect();
            Ok(Tensor::new(rows, &Device::Cpu)?)
        };
        let tokens = rows(Encoding::get_ids)?;
        let types = rows(Encoding::get_type_ids)?;
        let mask = rows(Encoding::get_attention_mask)?;
        let hidden = self.model().forward(&tokens, &types, Some(&mask))?;
        Ok(mean_of_tokens(&hidden, &mask)?.to_vec2()?)
    }

    fn model(&self) -> &BertModel {
        match &self.model {
            Weights::Own(model) => model,
            Weights::Recycled(model) => model,
        }
    }
}

/// The mean of each text's vectors, padding left out, scaled to length 1.
fn mean_of_tokens(hidden: &Tensor, mask: &Tensor) -> candle_core::Result<Tensor> {
    let mask = mask.to_dtype(DTYPE)?.unsqueeze(D::Minus1)?;
    let sums = hidden.broadcast_mul(&mask)?.sum(1)?;
    let means = sums.broadcast_div(&mask.sum(1)?)?;
    means.broadcast_div(&means.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)
}
