//! The command line.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use ckload::ByteSize;
use clap::Parser;
use tokio::sync::Semaphore;

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
    #[arg(long, value_name = "N", default_value = "2", value_parser = permits)]
    pub workers: NonZeroUsize,
    /// Requests for embeddings that may be received, wait or be computed; one more is refused.
    #[arg(long, value_name = "N", default_value = "64", value_parser = permits)]
    pub queue: NonZeroUsize,
    /// The most texts of a request.
    #[arg(long, value_name = "N", default_value = "64")]
    pub max_texts: NonZeroUsize,
    /// The largest body of a request.
    #[arg(long, value_name = "SIZE", default_value = "1MiB")]
    pub max_body: ByteSize,
    /// A request's body has to be there after so long.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = clap::value_parser!(u32).range(1..))]
    pub body_timeout: u32,
    /// The most models at the same time.
    #[arg(long, value_name = "N", default_value = "8")]
    pub max_models: NonZeroUsize,
    /// Of the memory of models that are gone, keep this much for the next.
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    pub keep: ByteSize,
    /// When asked to end, wait so long for requests that have begun; then the program ends in any case, and fails.
    #[arg(long, value_name = "SECONDS", default_value = "30")]
    pub grace: u32,
}

/// As many as a semaphore counts.
fn permits(text: &str) -> Result<NonZeroUsize, String> {
    let number: NonZeroUsize = text.parse().map_err(|error| format!("{error}"))?;
    if number.get() > Semaphore::MAX_PERMITS {
        return Err(format!("at most {}", Semaphore::MAX_PERMITS));
    }
    Ok(number)
}

fn named(text: &str) -> Result<(String, String), &'static str> {
    let (name, path) = text.split_once('=').ok_or("give NAME=DIR")?;
    Ok((name.to_owned(), path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_no_semaphore_counts_are_refused() {
        for option in ["--queue", "--workers"] {
            let parsed = |number: usize| {
                let words =
                    ["server", "--models", ".", option, &number.to_string()].map(str::to_owned);
                Options::try_parse_from(words)
            };
            assert!(parsed(Semaphore::MAX_PERMITS).is_ok());
            for number in [0, Semaphore::MAX_PERMITS + 1, usize::MAX] {
                assert!(parsed(number).is_err(), "{option} {number}");
            }
        }
    }
}
