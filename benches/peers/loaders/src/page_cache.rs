//! The page cache, brought into a known state; the kernel is asked whether it is.

use std::fs::File;
use std::io;
use std::path::Path;

use ckload::usage;
use rustix::fs::{Advice, fadvise};
use serde::{Deserialize, Serialize};

/// What the page cache has of a checkpoint before it is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// All of it.
    Warm,
    /// Nothing.
    Cold,
}

/// So many bytes may be otherwise: what the kernel counts at a file's end varies.
const SLACK: u64 = 1 << 20;

impl State {
    /// Brings the page cache into this state as far as `path` goes.
    pub(crate) fn prepare(self, path: &Path) -> io::Result<()> {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        if self == Self::Cold {
            // What is not written yet does not go.
            file.sync_all()?;
            fadvise(&file, 0, None, Advice::DontNeed)?;
        } else if usage::cached_bytes(&file).is_none_or(|cached| cached + SLACK < bytes) {
            refill(&file)?;
        }
        match (self, usage::cached_bytes(&file)) {
            (Self::Cold, Some(cached)) if cached > SLACK => {
                Err(io::Error::other(format!("{cached} bytes stay cached")))
            }
            (Self::Warm, Some(cached)) if cached + SLACK < bytes => {
                Err(io::Error::other(format!("only {cached} bytes are cached")))
            }
            _ => Ok(()),
        }
    }
}

/// Reads the file anew: pages that a writer left are smaller, and copying out of them takes longer.
fn refill(mut file: &File) -> io::Result<()> {
    file.sync_all()?;
    fadvise(file, 0, None, Advice::DontNeed)?;
    io::copy(&mut file, &mut io::sink())?;
    Ok(())
}
