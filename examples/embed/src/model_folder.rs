//! A model's folder, apart from its weights.

use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use candle_transformers::models::bert::Config;
use etcetera::{BaseStrategy, choose_base_strategy};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokenizers::{PaddingStrategy, Tokenizer, TruncationParams};

/// A folder with `config.json`, `tokenizer.json` and weights, as sentence-transformers saves models.
#[derive(Clone)]
pub struct ModelFolder {
    path: PathBuf,
    config: Config,
    tokenizer: Arc<Tokenizer>,
}

/// What sentence-transformers adds to a model's own files.
#[derive(Deserialize)]
struct SentenceBertConfig {
    max_seq_length: usize,
}

impl ModelFolder {
    /// Reads everything but the weights.
    ///
    /// Longer texts are cut at the `max_seq_length` of `sentence_bert_config.json`, or, without that file, at the model's longest sequence.
    ///
    /// # Errors
    /// If one of the files is missing or is not what it should be.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let config: Config = read_json(&path.join("config.json"))?;
        ensure!(
            config.num_attention_heads > 0
                && config
                    .hidden_size
                    .is_multiple_of(config.num_attention_heads),
            "{}: {} attention heads do not divide a width of {}",
            path.join("config.json").display(),
            config.num_attention_heads,
            config.hidden_size
        );
        let longest = longest_sequence(&path.join("sentence_bert_config.json"), &config)?;
        let tokenizer = Arc::new(read_tokenizer(
            &path.join("tokenizer.json"),
            &config,
            longest,
        )?);
        Ok(Self {
            path,
            config,
            tokenizer,
        })
    }

    /// Where `examples/embed/fetch` leaves the model, or `None` for a user without a home folder.
    pub fn fetched() -> Option<PathBuf> {
        let folders = choose_base_strategy().ok()?;
        Some(folders.cache_dir().join("ckload/all-MiniLM-L6-v2"))
    }

    /// Where the folder is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The model's dimensions.
    pub fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }
}

fn longest_sequence(path: &Path, config: &Config) -> Result<usize> {
    let most = config.max_position_embeddings;
    if !fs::exists(path).with_context(|| path.display().to_string())? {
        return Ok(most);
    }
    Ok(read_json::<SentenceBertConfig>(path)?
        .max_seq_length
        .min(most))
}

/// The tokenizer, set to pad a batch only as far as its longest text.
fn read_tokenizer(path: &Path, config: &Config, longest: usize) -> Result<Tokenizer> {
    let mut tokenizer = Tokenizer::from_file(path)
        .map_err(anyhow::Error::from_boxed)
        .with_context(|| path.display().to_string())?;
    let tokens = tokenizer.get_vocab_size(true);
    ensure!(
        tokens <= config.vocab_size,
        "{}: it has {tokens} tokens, and the model's config.json only {}",
        path.display(),
        config.vocab_size
    );
    // What is added to a text, such as [CLS] and [SEP], and one token of the text itself.
    ensure!(
        longest > 2,
        "{}: sequences of {longest} tokens hold no text",
        path.display()
    );
    let mut padding = tokenizer.get_padding().cloned().unwrap_or_default();
    padding.strategy = PaddingStrategy::BatchLongest;
    tokenizer.with_padding(Some(padding));
    tokenizer
        .with_truncation(Some(TruncationParams {
            max_length: longest,
            ..TruncationParams::default()
        }))
        .map_err(anyhow::Error::from_boxed)?;
    Ok(tokenizer)
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    serde_json::from_reader(BufReader::new(file)).with_context(|| path.display().to_string())
}
