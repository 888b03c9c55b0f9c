//! The demonstration's checkpoint: written once, used again as long as it is whole.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use ckload::Checkpoint;
use ckload::synth::{Blueprint, IfExists};
use etcetera::{BaseStrategy, choose_base_strategy};

use super::options::{DemoOptions, OutputOptions};
use super::{Error, synth};

/// Of the demonstration's random values.
const SEED: u64 = 0;

/// The demonstration's checkpoint, and whether it had to be written.
pub(super) fn checkpoint(
    options: &DemoOptions,
    output: &OutputOptions,
) -> Result<(Checkpoint, bool), Error> {
    let folder = match &options.folder {
        Some(folder) => folder.clone(),
        None => cache_folder()?,
    };
    fs::create_dir_all(&folder).map_err(|source| Error::CreateFolder {
        path: folder.clone(),
        source,
    })?;
    let path = folder.join(format!("{}.safetensors", options.size.name()));
    let blueprint = options.size.blueprint();
    if let Some(checkpoint) = open_if_whole(&path, &blueprint) {
        return Ok((checkpoint, false));
    }
    synth::write(&blueprint, &path, SEED, IfExists::Replace, output)?;
    Ok((Checkpoint::open(&path)?, true))
}

/// Opens what an earlier demonstration wrote, if it has the size and the header that it must have.
fn open_if_whole(path: &Path, blueprint: &Blueprint) -> Option<Checkpoint> {
    let mut file = File::open(path).ok()?;
    if file.metadata().ok()?.len() != blueprint.file_bytes() {
        return None;
    }
    let expected = blueprint.header();
    let mut header = vec![0; expected.len()];
    file.read_exact(&mut header).ok()?;
    if header != expected {
        return None;
    }
    Checkpoint::open(path).ok()
}

fn cache_folder() -> Result<PathBuf, Error> {
    let folders = choose_base_strategy().map_err(|_| Error::NoCacheFolder)?;
    Ok(folders.cache_dir().join("ckload"))
}

#[cfg(test)]
mod tests {
    use ckload::synth::Gpt2;

    use super::*;

    #[test]
    fn only_a_whole_checkpoint_is_used_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let blueprint = Gpt2::TINY.blueprint();
        assert!(open_if_whole(&path, &blueprint).is_none(), "missing");
        blueprint.write_file(&path, SEED).unwrap();
        assert!(open_if_whole(&path, &blueprint).is_some());

        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert!(open_if_whole(&path, &blueprint).is_none(), "too short");
        fs::write(&path, vec![0; whole.len()]).unwrap();
        assert!(open_if_whole(&path, &blueprint).is_none(), "another header");
    }
}
