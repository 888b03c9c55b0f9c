//! Files in and out of the page cache.

use std::fs::File;
use std::io;
use std::path::Path;

use anyhow::{Context, Result};
use ckload::usage;
use rustix::fs::{Advice, fadvise};

/// What may stay cached of a file that counts as cold.
const COLD: u64 = 1 << 20;

/// Has the page cache hold all of the file.
pub(crate) fn fill(path: &Path) -> Result<()> {
    let mut file = File::open(path).with_context(|| path.display().to_string())?;
    io::copy(&mut file, &mut io::sink())?;
    Ok(())
}

/// Has the page cache let go of the file, and says why not where it did not.
pub(crate) fn evict(path: &Path) -> Result<Result<(), String>> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    // Pages that are not on the disk yet would stay.
    file.sync_all()?;
    fadvise(&file, 0, None, Advice::DontNeed)?;
    Ok(match usage::cached_bytes(&file) {
        Some(cached) if cached < COLD => Ok(()),
        Some(cached) => Err(format!("the page cache keeps {cached} bytes of the file")),
        None => Err("the kernel does not tell what the page cache has of the file".into()),
    })
}
