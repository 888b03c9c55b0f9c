//! Which tensors share a storage, and where in it each lies. Nothing here takes memory.

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor};

use super::dtype;
use crate::{Arrangement, Checkpoint, TensorInfo};

/// Tensors share storages of up to this many bytes; a larger one has its own.
const GROUP_BYTES: usize = 64 << 20;

/// Where a tensor starts, if nothing better is known: at a line of the CPU's cache.
const LINE: usize = 64;

/// A tensor may lie as far into a page as it does in its file: then the disk can bring it into place.
const PAGE: usize = 4096;

/// The storages of a load, and the place of each tensor.
pub(super) struct Layout {
    /// In the order of their first tensors in the file.
    pub(super) groups: Vec<Group>,
    /// By name; tensors that candle cannot hold have none.
    places: HashMap<String, Place>,
}

/// One storage.
pub(super) struct Group {
    pub(super) dtype: DType,
    /// The bytes that it takes, wherever memory starts.
    pub(super) bytes: usize,
    /// Its only tensor's dimensions, if candle is not to cut the storage.
    pub(super) dims: Option<Vec<usize>>,
    /// In file order.
    pub(super) members: Vec<Member>,
}

/// A tensor in a storage.
pub(super) struct Member {
    /// Its number among the checkpoint's tensors.
    pub(super) tensor: usize,
    /// Where it starts, in bytes from the storage's origin.
    pub(super) offset: usize,
    pub(super) bytes: usize,
}

/// Where to find a tensor.
pub(super) struct Place {
    pub(super) group: usize,
    pub(super) dtype: DType,
    offset: usize,
    dims: Vec<usize>,
}

/// A storage with its tensors in it.
#[derive(Clone)]
pub(super) struct Base {
    /// All of the storage.
    pub(super) tensor: Tensor,
    /// Where the origin of the offsets is, in bytes from its start.
    pub(super) origin: usize,
}

impl Layout {
    /// The layout of the tensors of `checkpoint` as `wanted`, or each of its own type: in groups on the CPU, each for itself on a device.
    pub(super) fn new(checkpoint: &Checkpoint, wanted: Option<DType>, device: &Device) -> Self {
        let mut layout = Self {
            groups: Vec::new(),
            places: HashMap::with_capacity(checkpoint.tensors().len()),
        };
        let mut open = HashMap::new();
        for (tensor, info) in checkpoint.tensors().iter().enumerate() {
            // Refused when it is asked for.
            if let Ok(dtype) = dtype::held_as(info, wanted) {
                layout.add(tensor, info, dtype, device, &mut open);
            }
        }
        layout
    }

    pub(super) fn place(&self, name: &str) -> Option<&Place> {
        self.places.get(name)
    }

    /// Adds a tensor to the group of its type that is `open`, or to a new one.
    fn add(
        &mut self,
        tensor: usize,
        info: &TensorInfo,
        dtype: DType,
        device: &Device,
        open: &mut HashMap<DType, usize>,
    ) {
        let dims = dtype::dims(info);
        let is_whole = !device.is_cpu() || dtype::is_opaque(dtype);
        let bytes = if dtype::is_converted(info, dtype) {
            dims.iter().product::<usize>() * dtype::width(dtype)
        } else {
            info.bytes as usize
        };
        let joined = open.get(&dtype).copied().filter(|&group| {
            !is_whole && bytes <= GROUP_BYTES.saturating_sub(self.groups[group].bytes)
        });
        let number = joined.unwrap_or_else(|| {
            self.groups.push(Group {
                dtype,
                bytes: if is_whole { 0 } else { PAGE },
                dims: is_whole.then(|| dims.clone()),
                members: Vec::new(),
            });
            let number = self.groups.len() - 1;
            if !is_whole && bytes < GROUP_BYTES {
                open.insert(dtype, number);
            }
            number
        });
        let group = &mut self.groups[number];
        let end = group.members.last().map_or(0, Member::end);
        let offset = if is_whole {
            0
        } else {
            offset_behind(end, info, dtype, bytes)
        };
        // A page more, since the origin is at the first page that begins in the storage.
        group.bytes = offset + bytes + if is_whole { 0 } else { PAGE };
        group.members.push(Member {
            tensor,
            offset,
            bytes,
        });
        let place = Place {
            group: number,
            dtype,
            offset,
            dims,
        };
        self.places.insert(info.name.clone(), place);
    }
}

/// Where a tensor goes behind the one that ends at `end`: as far into a page as in its file, if that leaves little room unused.
///
/// The kernel copies quickest between addresses that agree modulo a line, and a disk brings blocks to where pages begin.
fn offset_behind(end: usize, info: &TensorInfo, dtype: DType, bytes: usize) -> usize {
    let is_read_in_place =
        info.arrangement() == Arrangement::InPlace && !dtype::is_converted(info, dtype);
    let in_file = info.offset as usize % PAGE;
    if is_read_in_place && in_file.is_multiple_of(dtype::width(dtype)) {
        let gap = (PAGE + in_file - end % PAGE) % PAGE;
        if gap < LINE || gap <= bytes / 32 {
            return end + gap;
        }
    }
    end.next_multiple_of(LINE)
}

impl Member {
    fn end(&self) -> usize {
        self.offset + self.bytes
    }
}

impl Group {
    /// How far into `memory` the origin is: at the first page that begins there, unless the storage is one tensor's.
    pub(super) fn origin_in(&self, memory: &[u8]) -> usize {
        if self.dims.is_some() {
            0
        } else {
            memory.as_ptr().align_offset(PAGE)
        }
    }
}

impl Place {
    pub(super) fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// The tensor, which shares the storage of `base`.
    pub(super) fn view(&self, base: &Base) -> Result<Tensor> {
        if base.tensor.dims() == self.dims {
            return Ok(base.tensor.clone());
        }
        let start = (base.origin + self.offset) / dtype::width(self.dtype);
        let len = self.dims.iter().product();
        base.tensor.narrow(0, start, len)?.reshape(&self.dims[..])
    }
}
