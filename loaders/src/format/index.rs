//! The index of a checkpoint in several files, as Hugging Face's `transformers` writes it: `model.safetensors.index.json` and
//! `pytorch_model.bin.index.json`.
//!
//! One JSON object; its `weight_map` maps each tensor's name to the file, beside the index, that holds it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::safetensors::{MAX_HEADER_BYTES, UniqueMap};
use super::sniff::{SNIFF_BYTES, name_impostor};
use crate::Error;
use crate::source::{cannot_open, open_regular};

/// An index, checked by itself: its files exist beside it, its names are unique.
#[derive(Debug)]
pub(crate) struct Index {
    /// From tensor name to file name.
    pub(crate) weight_map: BTreeMap<String, String>,
    /// The files that it names, in the order of their names, with the path of each.
    pub(crate) shards: Vec<(String, PathBuf)>,
}

#[derive(Deserialize)]
struct Content {
    weight_map: UniqueMap,
}

impl Index {
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let malformed = |reason: String| Error::Malformed {
            path: path.to_owned(),
            format: "checkpoint index",
            place: "the JSON object".to_owned(),
            reason,
        };
        let (file, metadata) = open_regular(path)?;
        let bytes = metadata.len();
        if bytes > MAX_HEADER_BYTES {
            return Err(malformed(format!(
                "an index of {bytes} bytes is over the limit of {MAX_HEADER_BYTES}"
            )));
        }
        let mut json = Vec::new();
        file.take(bytes)
            .read_to_end(&mut json)
            .map_err(Error::io("read", path))?;
        let content: Content = serde_json::from_slice(&json).map_err(|error| {
            if json.trim_ascii_start().starts_with(b"{") {
                return malformed(error.to_string());
            }
            let head = &json[..json.len().min(SNIFF_BYTES)];
            name_impostor(path, head).unwrap_or_else(|| malformed(error.to_string()))
        })?;
        let weight_map = content.weight_map.0;
        let mut names: Vec<&String> = weight_map.values().collect();
        names.sort_unstable();
        names.dedup();
        let folder = path.parent().unwrap_or(Path::new(""));
        let shards = names
            .into_iter()
            .map(|name| Ok((name.clone(), shard_path(path, folder, name)?)))
            .collect::<Result<_, Error>>()?;
        Ok(Self { weight_map, shards })
    }
}

/// The path of the file that `index` calls `name`: beside it or below it, and there.
fn shard_path(index: &Path, folder: &Path, name: &str) -> Result<PathBuf, Error> {
    let inside = !name.is_empty()
        && !name.contains('\0')
        && Path::new(name)
            .components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !inside {
        return Err(Error::ShardOutsideFolder {
            path: index.to_owned(),
            shard: name.to_owned(),
        });
    }
    let path = folder.join(name);
    match fs::metadata(&path) {
        Ok(_) => Ok(path),
        Err(error) if fs::symlink_metadata(&path).is_ok() => Err(cannot_open(&path, error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::MissingShard {
            path: index.to_owned(),
            shard: name.to_owned(),
        }),
        Err(error) => Err(cannot_open(&path, error)),
    }
}
