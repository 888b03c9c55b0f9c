//! A rank's part of a tensor: where it lies, without reading anything.

use std::sync::Arc;

use crate::stored::{Scattered, Storage, Stored};
use crate::{Error, Shard, TensorInfo};

impl TensorInfo {
    /// The part of the tensor that is `shard`: its own shape and size, and where its bytes lie.
    pub(crate) fn part(&self, shard: Shard) -> Result<Self, Error> {
        self.narrowed(shard).map_err(|reason| Error::Shard {
            tensor: self.name.clone(),
            shape: self.shape.clone(),
            shard,
            reason,
        })
    }

    fn narrowed(&self, shard: Shard) -> Result<Self, String> {
        let Shard { dim, .. } = shard;
        let (rank, world_size) = (shard.rank as u64, shard.world_size as u64);
        let dims = self.shape.len();
        let size = *self.shape.get(dim).ok_or_else(|| match dims {
            1 => "it has 1 dimension".to_owned(),
            _ => format!("it has {dims} dimensions"),
        })?;
        if !size.is_multiple_of(world_size) {
            return Err(format!(
                "dimension {dim} has size {size}, which {world_size} ranks cannot share evenly"
            ));
        }
        let mut part = self.clone();
        part.shards = self.shards.iter().copied().chain([shard]).collect();
        part.shape[dim] = size / world_size;
        part.bytes = self.bytes / world_size;
        if self.bytes == 0 {
            return Ok(part);
        }
        match &self.stored {
            Stored::InPlace => {
                let run = self.run(dim, part.shape[dim])?;
                part.offset += rank * run;
                if run < part.bytes {
                    part.stored = Stored::Runs {
                        run,
                        stride: world_size * run,
                    };
                }
            }
            Stored::Runs { run, stride } => {
                let scattered = self.scattered(*run, *stride);
                part.narrow(
                    &scattered.ok_or("it is a part of a packed tensor already")?,
                    shard,
                )?;
            }
            Stored::Scattered(scattered) => part.narrow(scattered, shard)?,
        }
        Ok(part)
    }

    /// The bytes that lie together of `len` steps along dimension `dim`.
    fn run(&self, dim: usize, len: u64) -> Result<u64, String> {
        let block = self.dtype.block();
        let elements = self.shape[dim + 1..].iter().product::<u64>() * len;
        if elements.is_multiple_of(block.elements) {
            Ok(elements / block.elements * block.bytes)
        } else {
            Err(format!(
                "a part would end within a block: {} has {} elements in each",
                self.dtype, block.elements
            ))
        }
    }

    /// Runs, as they come of a tensor that was in place, as a view with a stride for each dimension.
    fn scattered(&self, run: u64, stride: u64) -> Option<Scattered> {
        let block = self.dtype.block();
        if block.elements > 1 {
            return None;
        }
        let mut strides = vec![0; self.shape.len()];
        let mut inner = block.bytes;
        let mut in_runs = 1;
        for (number, &len) in self.shape.iter().enumerate().rev() {
            if inner < run {
                strides[number] = inner / block.bytes;
                inner *= len;
            } else {
                strides[number] = stride / block.bytes * in_runs;
                in_runs *= len;
            }
        }
        let range = self.file_range();
        Some(Scattered {
            storage: Storage::Plain {
                offset: range.start,
                bytes: range.end - range.start,
            },
            start: 0,
            strides,
        })
    }

    /// Makes this, whose shape is the part's already, that part of `whole`.
    fn narrow(&mut self, whole: &Scattered, shard: Shard) -> Result<(), String> {
        let block = self.dtype.block();
        let steps = self.shape[shard.dim] * shard.rank as u64;
        let elements = steps.checked_mul(whole.strides[shard.dim]);
        let start = elements
            .filter(|elements| elements.is_multiple_of(block.elements))
            .and_then(|elements| (elements / block.elements).checked_mul(block.bytes))
            .and_then(|bytes| bytes.checked_add(whole.start));
        let Some(start) = start else {
            return Err(format!(
                "a part would start within a block: {} has {} elements in each",
                self.dtype, block.elements
            ));
        };
        if let Storage::Plain { offset, .. } = whole.storage {
            self.offset = offset.saturating_add(start);
        }
        self.stored = Stored::Scattered(Arc::new(Scattered {
            start,
            ..whole.clone()
        }));
        // A part may cut what the whole does not.
        self.view()
            .map(drop)
            .ok_or_else(|| "a part would cut a block of packed elements".to_owned())
    }
}
