//! The command line.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use ckload::ByteSize;
use clap::Parser;

/// Serves sentence embeddings over HTTP, and swaps models under load.
#[derive(Clone, Debug, Parser)]
pub struct Options {
    /// Load models from below this folder, and from nowhere else; may be repeated.
    #[arg(long = "models", value_name = "DIR", required = true)]
    pub folders: Vec<PathBuf>,
    /// Load this model before listening; may be repeated.
    #[arg(long, value_name = "NAME=DIR", value_parser = named)]
    pub load: Vec<(String, String)>,
    /// Where to listen.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Embeddings that are computed at the same time.
    #[arg(long, value_name = "N", default_value = "2")]
    pub workers: NonZeroUsize,
    /// Embeddings that may be computed or wait; one more is refused.
    #[arg(long, value_name = "N", default_value = "64")]
    pub queue: NonZeroUsize,
    /// The most texts of a request.
    #[arg(long, value_name = "N", default_value = "64")]
    pub max_texts: NonZeroUsize,
    /// The largest body of a request.
    #[arg(long, value_name = "SIZE", default_value = "1MiB")]
    pub max_body: ByteSize,
    /// The most models at the same time.
    #[arg(long, value_name = "N", default_value = "8")]
    pub max_models: NonZeroUsize,
    /// Of the memory of models that are gone, keep this much for the next.
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    pub keep: ByteSize,
    /// When asked to end, wait so long for requests that have begun.
    #[arg(long, value_name = "SECONDS", default_value = "30")]
    pub grace: u32,
}

fn named(text: &str) -> Result<(String, String), &'static str> {
    let (name, path) = text.split_once('=').ok_or("give NAME=DIR")?;
    Ok((name.to_owned(), path.to_owned()))
}
