//! The ways of loading that are compared.

mod burn;
mod candle;
mod safetensors;

use std::error::Error;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Whose tensors a way makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Framework {
    Candle,
    Burn,
    Safetensors,
}

/// A way of loading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Way {
    CandleMmap,
    CandleMmapRayon,
    CandleLoad,
    CandleCkload,
    CandleCkloadStorages,
    BurnStore,
    BurnCkload,
    SafetensorsRead,
    SafetensorsCkload,
}

/// All of them, as the tables have them.
pub(crate) const ALL: [Way; 9] = [
    Way::CandleMmap,
    Way::CandleMmapRayon,
    Way::CandleLoad,
    Way::CandleCkload,
    Way::CandleCkloadStorages,
    Way::BurnStore,
    Way::BurnCkload,
    Way::SafetensorsRead,
    Way::SafetensorsCkload,
];

/// A load that can be run again and again.
pub(crate) type Loading = Box<dyn FnMut() -> Result<Box<dyn Loaded>, Box<dyn Error>>>;

/// Tensors that a load has made.
pub(crate) trait Loaded {
    /// Of all names and a sample of all bytes, whatever their order.
    fn digest(&self) -> Result<u64, Box<dyn Error>>;
}

impl Way {
    /// As the command line and the tables have it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::CandleMmap => "candle: MmapedSafetensors, one thread",
            Self::CandleMmapRayon => "candle: MmapedSafetensors, rayon",
            Self::CandleLoad => "candle: safetensors::load",
            Self::CandleCkload => "candle: ckload",
            Self::CandleCkloadStorages => "candle: ckload, recycled storages",
            Self::BurnStore => "burn: SafetensorsStore",
            Self::BurnCkload => "burn: ckload",
            Self::SafetensorsRead => "safetensors: fs::read + SafeTensors",
            Self::SafetensorsCkload => "safetensors: ckload",
        }
    }

    pub(crate) fn framework(self) -> Framework {
        match self {
            Self::CandleMmap
            | Self::CandleMmapRayon
            | Self::CandleLoad
            | Self::CandleCkload
            | Self::CandleCkloadStorages => Framework::Candle,
            Self::BurnStore | Self::BurnCkload => Framework::Burn,
            Self::SafetensorsRead | Self::SafetensorsCkload => Framework::Safetensors,
        }
    }

    /// Whether it is through ckload.
    pub(crate) fn is_ours(self) -> bool {
        matches!(
            self,
            Self::CandleCkload
                | Self::CandleCkloadStorages
                | Self::BurnCkload
                | Self::SafetensorsCkload
        )
    }

    /// Sets up what lasts from one load to the next; `files` are those of the checkpoint at `path`.
    pub(crate) fn prepare(self, path: &Path, files: &[PathBuf]) -> Result<Loading, Box<dyn Error>> {
        match self {
            Self::CandleMmap => Ok(candle::mmap(files, false)),
            Self::CandleMmapRayon => Ok(candle::mmap(files, true)),
            Self::CandleLoad => Ok(candle::load(files)),
            Self::CandleCkload => Ok(candle::ckload(path)),
            Self::CandleCkloadStorages => candle::ckload_storages(path),
            Self::BurnStore => Ok(burn::store(files)),
            Self::BurnCkload => Ok(burn::ckload(path)),
            Self::SafetensorsRead => Ok(safetensors::read(files)),
            Self::SafetensorsCkload => Ok(safetensors::ckload(path)),
        }
    }
}

/// Of a tensor's name and every 509th of its bytes (FNV-1a); the digests of several are added.
fn digest_of(name: &str, bytes: &[u8]) -> u64 {
    let sample = bytes.iter().step_by(509).chain(bytes.last());
    let hash = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let start = 0xcbf2_9ce4_8422_2325 ^ bytes.len() as u64;
    name.as_bytes().iter().chain(sample).fold(start, hash)
}
