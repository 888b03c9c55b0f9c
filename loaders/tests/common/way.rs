//! The ways of loading.

use ckload_loaders::{Checkpoint, Error, Loader};

use super::Sample;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Resident,
    Stream,
    Chunks,
    Into,
}

pub(crate) const WAYS: [Way; 4] = [Way::Resident, Way::Stream, Way::Chunks, Way::Into];

impl Way {
    /// Loads everything, if that works.
    pub(crate) fn load(self, loader: &Loader, checkpoint: &Checkpoint) -> Result<(), Error> {
        match self {
            Self::Resident => loader.load(checkpoint).map(drop),
            Self::Stream => loader
                .stream(checkpoint)?
                .try_for_each(|tensor| tensor.map(drop)),
            Self::Chunks => loader
                .chunks(checkpoint)?
                .try_for_each(|chunk| chunk.map(drop)),
            Self::Into => load_into(loader, checkpoint).map(drop),
        }
    }

    /// Loads everything of `sample`, if that works, and compares each byte with what was written.
    #[track_caller]
    pub(crate) fn load_checked(
        self,
        loader: &Loader,
        checkpoint: &Checkpoint,
        sample: &Sample,
    ) -> Result<(), Error> {
        match self {
            Self::Resident => sample.check_all(loader.load(checkpoint)?.tensors()),
            Self::Stream => {
                let mut missing = sample.tensors.len();
                for tensor in loader.stream(checkpoint)? {
                    sample.check(&tensor?);
                    missing -= 1;
                }
                assert_eq!(missing, 0, "not loaded");
            }
            Self::Chunks => check_chunks(loader, checkpoint, sample)?,
            Self::Into => {
                let memory = load_into(loader, checkpoint)?;
                for (info, bytes) in checkpoint.tensors().iter().zip(memory) {
                    let content = &sample.tensors[&info.name];
                    assert!(bytes == content.bytes, "the bytes of {info:?} differ");
                }
            }
        }
        Ok(())
    }
}

/// Loads everything of `sample` in chunks, and compares each with its place in what was written.
#[track_caller]
fn check_chunks(loader: &Loader, checkpoint: &Checkpoint, sample: &Sample) -> Result<(), Error> {
    let mut missing: u64 = sample.bytes();
    for chunk in loader.chunks(checkpoint)? {
        let chunk = chunk?;
        let content = &sample.tensors[&chunk.tensor().name];
        let place = &content.bytes[chunk.offset() as usize..][..chunk.bytes().len()];
        assert!(chunk.bytes() == place, "the bytes of {chunk:?} differ");
        missing -= place.len() as u64;
    }
    assert_eq!(missing, 0, "not loaded");
    Ok(())
}

/// Loads each tensor into a vector of its own.
fn load_into(loader: &Loader, checkpoint: &Checkpoint) -> Result<Vec<Vec<u8>>, Error> {
    let infos = checkpoint.tensors();
    let mut memory: Vec<Vec<u8>> = infos
        .iter()
        .map(|info| vec![0; info.bytes as usize])
        .collect();
    let names = infos.iter().map(|info| info.name.as_str());
    loader.load_into(
        checkpoint,
        names.zip(memory.iter_mut().map(Vec::as_mut_slice)),
    )?;
    Ok(memory)
}
