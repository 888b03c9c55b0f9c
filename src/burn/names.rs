//! What a checkpoint's tensors are called in burn.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn_core::tensor::DType;
use burn_store::{KeyRemapper, PathFilter, burn_pack, map_indices_contiguous_except};

use super::source::Source;
use super::{Error, dims};
use crate::TensorInfo;

/// How names are changed on the way to burn.
pub(super) struct Renaming {
    pub(super) top_level_key: Option<String>,
    pub(super) remapper: KeyRemapper,
    pub(super) contiguous_indices: bool,
    /// Prefixes whose indices stay as they are.
    pub(super) kept_indices: PathFilter,
}

/// The tensors of a checkpoint by the names that burn sees; none is loaded.
pub(super) struct Catalogue {
    pub(super) source: Arc<Source>,
    /// Those that burn can have, their bytes to be drawn from the source.
    pub(super) tensors: BTreeMap<String, burn_pack::Tensor>,
    /// The others, so that they are known to be there.
    pub(super) refused: BTreeMap<String, burn_pack::Tensor>,
    /// Each one's name in the checkpoint.
    pub(super) originals: BTreeMap<String, String>,
}

impl Catalogue {
    pub(super) fn of(source: Source, renaming: &Renaming) -> Result<Self, Error> {
        let source = Arc::new(source);
        let infos = under(renaming.top_level_key.as_deref(), &source)?;
        let tensors = infos
            .iter()
            .map(|&(info, key)| deferred(info, key, &source));
        let renamed = renaming.apply(tensors.collect());
        let mut catalogue = Self {
            source: Arc::clone(&source),
            tensors: BTreeMap::new(),
            refused: BTreeMap::new(),
            originals: BTreeMap::new(),
        };
        for (tensor, (info, _)) in renamed.into_iter().zip(infos) {
            catalogue.add(tensor, info)?;
        }
        Ok(catalogue)
    }

    fn add(&mut self, tensor: burn_pack::Tensor, info: &TensorInfo) -> Result<(), Error> {
        let name = tensor.name.clone();
        if let Some(first) = self.originals.insert(name.clone(), info.name.clone()) {
            return Err(Error::NameTaken {
                path: self.source.checkpoint.path().to_owned(),
                name,
                first,
                second: info.name.clone(),
            });
        }
        let tensors = match self.source.dtype_of(info) {
            Ok(_) => &mut self.tensors,
            Err(_) => &mut self.refused,
        };
        tensors.insert(name, tensor);
        Ok(())
    }
}

impl Renaming {
    /// The same tensors in the same order, renamed.
    fn apply(&self, mut tensors: Vec<burn_pack::Tensor>) -> Vec<burn_pack::Tensor> {
        if !self.remapper.is_empty() {
            (tensors, _) = self.remapper.remap(tensors);
        }
        if self.contiguous_indices {
            let is_kept = |prefix: &str| self.kept_indices.matches(prefix);
            (tensors, _) = map_indices_contiguous_except(tensors, is_kept);
        }
        tensors
    }
}

/// The tensors whose names begin with the key, and how long the part is that goes off.
fn under<'a>(key: Option<&str>, source: &'a Source) -> Result<Vec<(&'a TensorInfo, usize)>, Error> {
    let infos = source.checkpoint.tensors().iter();
    let Some(key) = key else {
        return Ok(infos.map(|info| (info, 0)).collect());
    };
    let prefix = format!("{key}.");
    let infos: Vec<_> = infos
        .filter(|info| info.name.starts_with(&prefix))
        .map(|info| (info, prefix.len()))
        .collect();
    if infos.is_empty() {
        return Err(Error::NoSuchKey {
            path: source.checkpoint.path().to_owned(),
            key: key.to_owned(),
        });
    }
    Ok(infos)
}

/// A tensor that is drawn when burn wants its bytes. One that burn has no type for passes for bytes until then.
fn deferred(info: &TensorInfo, key: usize, source: &Arc<Source>) -> burn_pack::Tensor {
    let bytes = info.bytes as usize;
    let (dtype, shape) = match source.dtype_of(info) {
        Ok(dtype) => (dtype, dims(&info.shape)),
        Err(_) => (DType::U8, vec![bytes]),
    };
    let name = info.name[key..].to_owned();
    let original = info.name.clone();
    let source = Arc::clone(source);
    burn_pack::Tensor::deferred(name, dtype, shape, None, bytes, move || {
        source.draw(&original)
    })
}
