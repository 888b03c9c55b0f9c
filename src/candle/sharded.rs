//! One rank's part of each tensor, for models that are divided among devices.

use candle_core::{DType, Device, Error, Result, Shape, Tensor};
use candle_nn::var_builder::{Backend, Shard, VarBuilderArgs};

use super::backend::{find, of_shape};
use super::error;
use super::loading::{Job, Loading, load_alone};
use crate::{Checkpoint, Loader, Select, TensorInfo};

/// What stands behind [`sharded_var_builder`].
pub struct Sharded {
    loader: Loader,
    checkpoint: Checkpoint,
    /// If the checkpoint says which parts are meant.
    ahead: Option<Loading>,
}

/// A tensor is asked for in another part than was selected.
#[derive(Debug, thiserror::Error)]
#[error(
    "of the tensor {tensor:?} the checkpoint was opened for the part {selected} only, not {asked}; select that, or nothing"
)]
struct OtherPart {
    tensor: String,
    selected: String,
    asked: crate::Shard,
}

/// A `VarBuilder` that gives one rank's part of a tensor, as candle's `ShardedSafeTensors` does: of `world_size` equal parts along `dim` that of
/// number `rank`. Only the part is read.
///
/// Which parts a model asks for is not known before, so each is loaded when it is asked for. If the checkpoint was narrowed to the parts with
/// [`Select::shard`](crate::Select::shard), everything is loaded ahead, as [`var_builder`](super::var_builder) does, and the parts that are
/// asked for have to be those.
///
/// As with candle, the shape is looked at only where `world_size` is 1. Tensors may be divided along any dimension, where candle knows two.
///
/// # Errors
///
/// The thread cannot be started. Out of `get` comes what candle gives: `ShapeMismatchSplit` if the parts would not be equal.
///
/// ```
/// use candle_core::{DType, Device};
/// use candle_nn::var_builder::Shard;
/// use ckload::{Checkpoint, Loader};
/// # let folder = tempfile::tempdir()?;
/// # ckload::synth::Gpt2::TINY.blueprint().write_file(folder.path().join("model.safetensors"), 0)?;
/// # let path = folder.path();
///
/// let checkpoint = Checkpoint::open(path)?;
/// let vb = ckload::candle::sharded_var_builder(&Loader::new(), &checkpoint, DType::F32, &Device::Cpu)?;
/// let shard = Shard { dim: 1, rank: 2, world_size: 4 };
/// assert_eq!(vb.get_with_hints((257, 96), "wte.weight", shard)?.dims(), [257, 24]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn sharded_var_builder(
    loader: &Loader,
    checkpoint: &Checkpoint,
    dtype: DType,
    device: &Device,
) -> Result<VarBuilderArgs<'static, Sharded>> {
    let mut infos = checkpoint.tensors().iter();
    let is_selected = infos.any(|info| !info.shards().is_empty());
    let start = || {
        Loading::start(Job {
            loader: loader.clone(),
            checkpoint: checkpoint.clone(),
            dtype: Some(dtype),
            device: device.clone(),
            storages: None,
        })
    };
    let backend = Sharded {
        loader: loader.clone(),
        checkpoint: checkpoint.clone(),
        ahead: is_selected.then(start).transpose()?,
    };
    Ok(VarBuilderArgs::new_with_args(backend, dtype, device))
}

impl Sharded {
    /// The tensor as the checkpoint has it: whole, or the part that was selected.
    fn as_selected(&self, info: &TensorInfo, dtype: DType, device: &Device) -> Result<Tensor> {
        match &self.ahead {
            Some(loading) => loading.tensor_as(info, dtype, device),
            None => self.alone(&Select::names([&info.name]), dtype, device),
        }
    }

    fn alone(&self, select: &Select, dtype: DType, device: &Device) -> Result<Tensor> {
        let checkpoint = self.checkpoint.select(select).map_err(error::wrap)?;
        load_alone(&self.loader, checkpoint, dtype, device)
    }
}

impl Backend for Sharded {
    type Hints = Shard;

    fn get(
        &self,
        shape: Shape,
        name: &str,
        shard: Shard,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let info = find(&self.checkpoint, name)?;
        let Shard {
            dim,
            rank,
            world_size,
        } = shard;
        if world_size == 1 {
            return self.as_selected(of_shape(info, &shape)?, dtype, device);
        }
        let asked = crate::Shard::new(dim, rank, world_size);
        match info.shards() {
            [] => {}
            [selected] if *selected == asked => return self.as_selected(info, dtype, device),
            selected => {
                let selected: Vec<String> = selected.iter().map(ToString::to_string).collect();
                return Err(Error::wrap(OtherPart {
                    tensor: name.to_owned(),
                    selected: selected.join(" of "),
                    asked,
                }));
            }
        }
        let dims = super::dtype::dims(info);
        let Some(&size) = dims.get(dim) else {
            let error = Error::DimOutOfRange {
                shape: dims.into(),
                dim: i32::try_from(dim).unwrap_or(i32::MAX),
                op: "shard",
            };
            return Err(error.bt());
        };
        let select = Select::names([name]).shard_rest(asked);
        let select = select.map_err(error::wrap)?;
        if !size.is_multiple_of(world_size) {
            return Err(Error::ShapeMismatchSplit {
                shape: dims.into(),
                dim,
                n_parts: world_size,
            });
        }
        self.alone(&select, dtype, device)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        candle_core::bail!(
            "`get_unchecked` does not say which part of {name:?} is meant, use `get`"
        )
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.checkpoint.tensor(name).is_some()
    }
}
