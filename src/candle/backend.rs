//! What stands behind a `VarBuilder`.

use std::sync::Arc;

use candle_core::{DType, Device, Error, Result, Shape, Tensor};
use candle_nn::Init;
use candle_nn::var_builder::SimpleBackend;

use super::loading::{Loading, missing};
use super::memory::Memory;
use super::{convert, dtype, error, upload};
use crate::{Checkpoint, Model, TensorInfo};

/// Tensors of a load that runs ahead of the model's order of asking.
pub(super) struct Ahead(Arc<Loading>);

impl Ahead {
    pub(super) fn new(loading: Arc<Loading>) -> Self {
        Self(loading)
    }
}

impl SimpleBackend for Ahead {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let info = of_shape(find(self.0.checkpoint(), name)?, &shape)?;
        self.0.tensor_as(info, dtype, device)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let info = find(self.0.checkpoint(), name)?;
        self.0.tensor_as(info, dtype, device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.checkpoint().tensor(name).is_some()
    }
}

/// Tensors of a model that is in memory.
pub(super) struct Resident(pub(super) Model);

impl Resident {
    fn tensor_as(&self, name: &str, wanted: DType, device: &Device) -> Result<Tensor> {
        let loaded = self.0.tensor(name).map_err(error::wrap)?;
        let info = loaded.info();
        dtype::held_as(info, Some(wanted))?;
        let dims = dtype::dims(info);
        if !device.is_cpu() || !dtype::is_converted(info, wanted) {
            let copied = convert::raw(info.dtype, loaded.bytes(), &dims, device)?;
            let converted = copied.to_dtype(wanted);
            upload::finish(device)?;
            return converted;
        }
        let elements: usize = dims.iter().product();
        let mut memory = Memory::fresh(wanted, elements * dtype::width(wanted))?;
        convert::convert(info.dtype, loaded.bytes(), wanted, memory.bytes_mut())?;
        Ok(memory.into_tensor(wanted, dims))
    }
}

impl SimpleBackend for Resident {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        of_shape(find(self.0.checkpoint(), name)?, &shape)?;
        self.tensor_as(name, dtype, device)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        find(self.0.checkpoint(), name)?;
        self.tensor_as(name, dtype, device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.checkpoint().tensor(name).is_some()
    }
}

/// The tensor called `name`, or candle's own error.
pub(super) fn find<'a>(checkpoint: &'a Checkpoint, name: &str) -> Result<&'a TensorInfo> {
    checkpoint.tensor(name).ok_or_else(|| missing(name))
}

/// `info` if its tensor is of `shape`, or candle's own error.
pub(super) fn of_shape<'a>(info: &'a TensorInfo, shape: &Shape) -> Result<&'a TensorInfo> {
    let got = Shape::from(dtype::dims(info));
    if got == *shape {
        return Ok(info);
    }
    let error = Error::UnexpectedShape {
        msg: format!("shape mismatch for {}", info.name),
        expected: shape.clone(),
        got,
    };
    Err(error.bt())
}
