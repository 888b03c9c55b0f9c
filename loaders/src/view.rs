//! Views of storages: where each element of a tensor lies among bytes that are not all its own.

use std::ops::Range;

use crate::stored::{Storage, Stored};
use crate::{Dtype, TensorInfo};

/// A tensor's elements among the bytes of a storage. All of them lie within it, and all sizes fit their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct View {
    /// The bytes of what is copied as one: an element, or one byte of a block of packed ones.
    pub(crate) unit: u64,
    /// The first one, in bytes from the storage's start.
    pub(crate) start: u64,
    /// Dimensions, outermost first.
    pub(crate) dims: Vec<Dim>,
}

/// A dimension of a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dim {
    pub(crate) len: u64,
    /// The distance between neighbours in the storage, bytes.
    pub(crate) stride: u64,
}

impl TensorInfo {
    /// The bytes of the file that the tensor lies among, from its first to its last; all that is compressed of one that is.
    pub(crate) fn file_range(&self) -> Range<u64> {
        let len = match &self.stored {
            Stored::InPlace => self.bytes,
            Stored::Runs { run, stride } => match self.bytes.checked_div(*run) {
                None | Some(0) => 0,
                Some(runs) => (runs - 1).saturating_mul(*stride).saturating_add(*run),
            },
            Stored::Scattered(scattered) => {
                let (Storage::Plain { offset, bytes: len }
                | Storage::Deflated {
                    offset,
                    packed: len,
                    ..
                }) = scattered.storage;
                return offset..offset.saturating_add(len);
            }
        };
        self.offset..self.offset.saturating_add(len)
    }

    /// The storage and the tensor's view of it; `None` if the view leaves the storage, or cuts a block of packed elements.
    pub(crate) fn view(&self) -> Option<(Storage, View)> {
        let (storage, view) = match &self.stored {
            Stored::InPlace => {
                let dims = vec![Dim::new(self.bytes, 1)];
                (self.plain(), View::new(1, 0, dims))
            }
            Stored::Runs { run, stride } => {
                let runs = self.bytes.checked_div(*run)?;
                let dims = vec![Dim::new(runs, *stride), Dim::new(*run, 1)];
                (self.plain(), View::new(1, 0, dims))
            }
            Stored::Scattered(scattered) => {
                let dims = self.shape.iter().zip(&scattered.strides);
                let dims: Vec<(u64, u64)> = dims.map(|(&len, &stride)| (len, stride)).collect();
                let view = View::of_elements(self.dtype, scattered.start, &dims)?;
                (scattered.storage.clone(), view)
            }
        };
        let is_whole = view.bytes()? == self.bytes && view.end()? <= storage.bytes();
        is_whole.then_some((storage, view))
    }

    /// The tensor's own bytes, and what lies between them, as a storage.
    fn plain(&self) -> Storage {
        let range = self.file_range();
        Storage::Plain {
            offset: range.start,
            bytes: range.end - range.start,
        }
    }
}

impl Dim {
    pub(crate) fn new(len: u64, stride: u64) -> Self {
        Self { len, stride }
    }
}

impl View {
    fn new(unit: u64, start: u64, dims: Vec<Dim>) -> Self {
        Self { unit, start, dims }
    }

    /// A view with these lengths and strides in elements; `None` if it cuts a block of packed ones.
    fn of_elements(dtype: Dtype, start: u64, dims: &[(u64, u64)]) -> Option<Self> {
        let block = dtype.block();
        if block.elements == 1 {
            let dims = dims
                .iter()
                .map(|&(len, stride)| Some(Dim::new(len, stride.checked_mul(block.bytes)?)));
            return Some(Self::new(block.bytes, start, dims.collect::<Option<_>>()?));
        }
        let blocks = |elements: u64| {
            elements
                .is_multiple_of(block.elements)
                .then(|| elements / block.elements)
        };
        let (&(len, stride), outer) = dims.split_last()?;
        if stride != 1 {
            return None;
        }
        let mut in_bytes = Vec::with_capacity(dims.len() + 1);
        for &(len, stride) in outer {
            // Where there is no neighbour the distance to it means nothing.
            let stride = if len > 1 { blocks(stride)? } else { 0 };
            in_bytes.push(Dim::new(len, stride.checked_mul(block.bytes)?));
        }
        in_bytes.push(Dim::new(blocks(len)?, block.bytes));
        in_bytes.push(Dim::new(block.bytes, 1));
        Some(Self::new(1, start, in_bytes))
    }

    /// The bytes of all elements together, each counted as often as it is repeated; `None` if that overflows.
    pub(crate) fn bytes(&self) -> Option<u64> {
        if self.dims.iter().any(|dim| dim.len == 0) {
            return Some(0);
        }
        let mut dims = self.dims.iter();
        dims.try_fold(self.unit, |bytes, dim| bytes.checked_mul(dim.len))
    }

    /// Up to where it reaches into the storage, bytes; `None` if that overflows.
    fn end(&self) -> Option<u64> {
        if self.dims.iter().any(|dim| dim.len == 0) {
            return Some(0);
        }
        let mut dims = self.dims.iter();
        let first = self.start.checked_add(self.unit)?;
        dims.try_fold(first, |end, dim| {
            end.checked_add((dim.len - 1).checked_mul(dim.stride)?)
        })
    }

    /// Views of which each brings the bytes that follow the one before, in row-major order, and all together those of `range`: at most
    /// two for each dimension. The range holds whole units.
    pub(crate) fn cut(&self, range: Range<u64>) -> Vec<Self> {
        let (mut at, end) = (range.start / self.unit, range.end / self.unit);
        // Units in one step along each dimension.
        let mut steps = vec![1; self.dims.len()];
        for number in (1..self.dims.len()).rev() {
            steps[number - 1] = steps[number] * self.dims[number].len;
        }
        let mut views = Vec::new();
        while at < end {
            if self.dims.is_empty() {
                views.push(self.clone());
                break;
            }
            // The outermost dimension along which at least one whole step is wanted from here.
            let fits =
                |&number: &usize| at.is_multiple_of(steps[number]) && steps[number] <= end - at;
            let along = (0..self.dims.len()).find(fits);
            let along = along.unwrap_or(self.dims.len() - 1);
            let mut view = self.clone();
            for (number, dim) in self.dims.iter().enumerate().take(along + 1) {
                let index = at / steps[number] % dim.len;
                view.start += index * dim.stride;
                view.dims[number].len = if number < along {
                    1
                } else {
                    (dim.len - index).min((end - at) / steps[number])
                };
            }
            at += view.dims[along].len * steps[along];
            views.push(view);
        }
        views
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the units of `view` lie, in row-major order.
    fn offsets(view: &View) -> Vec<u64> {
        let mut offsets = vec![view.start];
        for dim in &view.dims {
            offsets = (offsets.iter())
                .flat_map(|&at| (0..dim.len).map(move |index| at + index * dim.stride))
                .collect();
        }
        offsets
    }

    #[test]
    fn any_range_of_a_view_is_a_few_views() {
        for seed in 0..300 {
            let mut random = fastrand::Rng::with_seed(seed);
            let dims = (0..random.usize(0..5))
                .map(|_| Dim::new(random.u64(1..5), random.u64(0..20)))
                .collect();
            let view = View::new(random.u64(1..4), random.u64(0..9), dims);
            let all = offsets(&view);
            let start = random.usize(0..=all.len());
            let range = start..random.usize(start..=all.len());
            let bytes = range.start as u64 * view.unit..range.end as u64 * view.unit;
            let views = view.cut(bytes.clone());
            assert!(views.len() <= 2 * view.dims.len().max(1), "seed {seed}");
            let found: Vec<u64> = views.iter().flat_map(offsets).collect();
            assert_eq!(found, all[range], "seed {seed}");
            let sum: u64 = views.iter().filter_map(View::bytes).sum();
            assert_eq!(sum, bytes.end - bytes.start, "seed {seed}");
        }
    }

    #[test]
    fn a_view_that_leaves_its_storage_or_cuts_a_block_is_none() {
        let of = |dtype, shape: &[u64], strides: &[u64], bytes| {
            let scattered = crate::stored::Scattered {
                storage: Storage::Plain { offset: 8, bytes },
                start: 4,
                strides: strides.to_vec(),
            };
            let size = Dtype::bytes_of(dtype, shape).unwrap_or(0);
            let mut info = TensorInfo::in_place("t".to_owned(), dtype, shape.to_vec(), size, 8);
            info.stored = Stored::Scattered(scattered.into());
            info.view().map(|(_, view)| view.dims)
        };
        assert!(of(Dtype::F32, &[2, 3], &[1, 2], 28).is_some());
        assert_eq!(of(Dtype::F32, &[2, 3], &[1, 2], 27), None);
        assert_eq!(of(Dtype::F32, &[2, 3], &[1, u64::MAX / 4], 28), None);
        assert_eq!(of(Dtype::F32, &[2, 3], &[1, 1 << 62], 28), None);
        assert!(of(Dtype::F32, &[0, 3], &[1 << 40, 1], 0).is_some());
        assert_eq!(
            of(Dtype::F4, &[2, 4], &[8, 1], 10),
            Some(vec![Dim::new(2, 4), Dim::new(2, 1), Dim::new(1, 1)])
        );
        assert_eq!(of(Dtype::F4, &[2, 4], &[7, 1], 10), None);
        assert_eq!(of(Dtype::F4, &[2, 4], &[1, 2], 10), None);
    }
}
