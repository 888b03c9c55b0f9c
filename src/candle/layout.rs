//! Which tensors share a storage, and where in it each lies. Nothing here takes memory.

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor};

use super::dtype;
use crate::{Arrangement, Checkpoint, TensorInfo};

/// Tensors share storages of up to this many bytes; a larger one has its own.
const GROUP_BYTES: usize = 64 << 20;

/// Storages of this size or more begin and end with huge pages.
const HUGE_BYTES: usize = 16 << 20;

/// The size of a huge page on most machines.
const HUGE_PAGE: usize = 2 << 20;

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
    /// From its origin to the end of its last tensor.
    bytes: usize,
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
        // Behind the tensors that take a storage up to `end`.
        let start = |end| {
            if is_whole {
                0
            } else {
                offset_behind(end, info, dtype, bytes)
            }
        };
        let has_room = |&group: &usize| {
            let start = start(self.groups[group].bytes);
            bytes <= GROUP_BYTES.saturating_sub(start)
        };
        let joined = open.get(&dtype).copied().filter(has_room);
        let number = joined.unwrap_or_else(|| {
            self.groups.push(Group {
                dtype,
                bytes: 0,
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
        let offset = start(group.bytes);
        group.bytes = offset + bytes;
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

impl Group {
    /// The bytes of memory that it takes, wherever that starts.
    ///
    /// An allocator's own bytes lie in front of large memory, and have a small page put there, so that no huge one fits. The data begin with
    /// the next huge page, and the last one is there in full: what is not touched costs addresses only. And storages are of few sizes, so
    /// that one model finds what another left.
    pub(super) fn room(&self) -> usize {
        match self.alignment() {
            Some(alignment) => self.bytes.next_multiple_of(alignment) + alignment,
            None => self.bytes,
        }
    }

    /// How far into `memory` the origin is.
    pub(super) fn origin_in(&self, memory: &[u8]) -> usize {
        let alignment = self.alignment();
        alignment.map_or(0, |alignment| memory.as_ptr().align_offset(alignment))
    }

    /// Where the origin may be; anywhere, if the storage is one tensor's.
    fn alignment(&self) -> Option<usize> {
        let alignment = if self.bytes < HUGE_BYTES {
            PAGE
        } else {
            HUGE_PAGE
        };
        self.dims.is_none().then_some(alignment)
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

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::path::Path;

    use fastrand::Rng;

    use super::*;

    /// A checkpoint of tensors of these types and sizes in elements, whose data are a hole in the file.
    fn checkpoint(path: &Path, tensors: &[(&str, usize, usize)]) -> Checkpoint {
        let mut header = String::from("{");
        let mut end = 0;
        for (number, (dtype, width, len)) in tensors.iter().enumerate() {
            let start = end;
            end += width * len;
            let comma = if number > 0 { "," } else { "" };
            header += &format!(
                r#"{comma}"{number:05}":{{"dtype":"{dtype}","shape":[{len}],"data_offsets":[{start},{end}]}}"#
            );
        }
        header += "}";
        let mut file = File::create(path).expect("a disk with room");
        file.write_all(&(header.len() as u64).to_le_bytes())
            .and_then(|()| file.write_all(header.as_bytes()))
            .and_then(|()| file.set_len((8 + header.len() + end) as u64))
            .expect("a disk with room");
        Checkpoint::open(path).expect("a valid file")
    }

    #[test]
    #[allow(clippy::print_stderr)]
    fn tensors_lie_apart_and_aligned_in_groups_that_are_not_too_large() {
        let seed = fastrand::u64(..);
        eprintln!("seed {seed}");
        let mut random = Rng::with_seed(seed);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let types = [("F32", 4), ("BF16", 2), ("U8", 1), ("I64", 8), ("U16", 2)];
        for wanted in [None, Some(DType::F32), Some(DType::F16)] {
            let tensors: Vec<_> = (0..300)
                .map(|_| {
                    let (dtype, width) = types[random.usize(..types.len())];
                    let most = [1, 100, 100_000, 3_000_000][random.usize(..4)];
                    (dtype, width, random.usize(..=most))
                })
                .chain([("F32", 4, 40_000_000)])
                .collect();
            let checkpoint = checkpoint(&folder.path().join("model.safetensors"), &tensors);
            let layout = Layout::new(&checkpoint, wanted, &Device::Cpu);
            let mut placed = 0;
            for group in &layout.groups {
                assert!(group.bytes <= GROUP_BYTES || group.members.len() == 1);
                let mut end = 0;
                for member in &group.members {
                    assert!(member.offset >= end);
                    assert!(member.offset.is_multiple_of(dtype::width(group.dtype)));
                    end = member.offset + member.bytes;
                    placed += 1;
                }
                assert!(end + PAGE <= group.room(), "room for the way to a page");
            }
            assert_eq!(placed, tensors.len());
            // Tensors that follow one another in the file leave little between them.
            let bytes: usize = layout.groups.iter().map(|group| group.bytes).sum();
            let members = layout.groups.iter().flat_map(|group| &group.members);
            let needed: usize = members.map(|member| member.bytes).sum();
            assert!(bytes <= needed + needed / 16, "{bytes} for {needed}");
        }
    }

    #[test]
    fn tensors_lie_in_step_with_their_file_where_that_costs_little() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("model.safetensors");
        let checkpoint = checkpoint(
            &path,
            &[("U8", 1, 1 << 20), ("U8", 1, 5), ("U8", 1, 1 << 20)],
        );
        let layout = Layout::new(&checkpoint, None, &Device::Cpu);
        let [group] = &layout.groups[..] else {
            panic!("one type, one group");
        };
        for member in &group.members {
            let in_file = checkpoint.tensors()[member.tensor].offset as usize;
            assert_eq!(member.offset % PAGE, in_file % PAGE);
        }
        assert_eq!(
            group.members[2].offset - group.members[0].offset,
            (1 << 20) + 5
        );
    }
}
