//! Views of storages: how PyTorch and NumPy describe a tensor.

use std::sync::Arc;

use crate::stored::{ByteOrder, Scattered, Storage, Stored};
use crate::{Dtype, TensorInfo};

/// A tensor as a view of a storage; see [`Scattered`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<u64>,
    /// In elements.
    pub(super) strides: Vec<u64>,
    /// The first element, in bytes from the storage's start.
    pub(super) start: u64,
    pub(super) storage: Storage,
}

impl View {
    /// The tensor of this name; an error says which rule the view breaks.
    pub(super) fn into_info(
        self,
        name: String,
        byte_order: ByteOrder,
    ) -> Result<TensorInfo, String> {
        let Self {
            dtype,
            shape,
            strides,
            start,
            storage,
        } = self;
        if shape.len() != strides.len() {
            return Err(format!(
                "it has {} dimensions and {} strides",
                shape.len(),
                strides.len()
            ));
        }
        let Some(bytes) = dtype.bytes_of(&shape) else {
            return Err(format!("{dtype} of shape {shape:?} overflows"));
        };
        let (Storage::Plain { offset: base, .. } | Storage::Deflated { offset: base, .. }) =
            storage;
        let mut info = TensorInfo::in_place(name, dtype, shape, bytes, base);
        info.byte_order = byte_order;
        if bytes == 0 {
            return Ok(info);
        }
        let element = dtype.block().bytes;
        let end = (info.shape.iter().zip(&strides))
            .try_fold(0u64, |last, (&dim, &stride)| {
                last.checked_add((dim - 1).checked_mul(stride)?)
            })
            .and_then(|last| {
                last.checked_add(1)?
                    .checked_mul(element)?
                    .checked_add(start)
            });
        match end {
            Some(end) if end <= storage.bytes() => {}
            end => {
                let end = end.map_or("beyond all numbers".to_owned(), |end| end.to_string());
                return Err(format!(
                    "it ends at byte {end} of a storage of {} bytes",
                    storage.bytes()
                ));
            }
        }
        match storage {
            Storage::Plain { offset, .. } => {
                info.offset = offset + start;
                if is_row_major(&info.shape, &strides) {
                    return Ok(info);
                }
            }
            Storage::Deflated { .. } => {}
        }
        info.stored = Stored::Scattered(Arc::new(Scattered {
            storage,
            start,
            strides,
        }));
        Ok(info)
    }
}

/// The strides of a tensor whose elements lie one behind the other, the last dimension's closest together.
pub(super) fn row_major(shape: &[u64]) -> Vec<u64> {
    let mut strides = vec![1; shape.len()];
    for at in (1..shape.len()).rev() {
        // Too large a product belongs to a shape that is refused.
        strides[at - 1] = shape[at].saturating_mul(strides[at]);
    }
    strides
}

/// Whether elements lie one behind the other; where a dimension is 1, its stride does not matter.
fn is_row_major(shape: &[u64], strides: &[u64]) -> bool {
    (shape.iter().zip(strides).zip(row_major(shape)))
        .all(|((&dim, &stride), plain)| dim == 1 || stride == plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Storage = Storage::Plain {
        offset: 1000,
        bytes: 96,
    };

    fn view(shape: &[u64], strides: &[u64], start: u64) -> View {
        View {
            dtype: Dtype::F32,
            shape: shape.to_vec(),
            strides: strides.to_vec(),
            start,
            storage: PLAIN,
        }
    }

    fn info(view: View) -> Result<TensorInfo, String> {
        view.into_info("t".to_owned(), ByteOrder::Little)
    }

    #[test]
    fn views_without_gaps_are_in_place() {
        let cases: [(&[u64], &[u64], u64, u64); 7] = [
            (&[4, 6], &[6, 1], 0, 1000),
            (&[2, 6], &[6, 1], 48, 1048),
            (&[], &[], 92, 1092),
            (&[1, 6], &[77, 1], 0, 1000),
            (&[6, 1], &[1, 0], 4, 1004),
            (&[3], &[1], 4, 1004),
            // Without elements nothing matters but the shape.
            (&[3, 0], &[5, 9], 1 << 60, 1000),
        ];
        for (shape, strides, start, offset) in cases {
            let info = info(view(shape, strides, start)).expect("a view");
            assert_eq!(info.offset, offset, "{shape:?}");
            assert_eq!(info.stored, Stored::InPlace, "{shape:?}");
            assert_eq!(info.shape, shape);
            assert_eq!(info.bytes, 4 * shape.iter().product::<u64>());
        }
    }

    #[test]
    fn other_views_are_scattered() {
        let cases: [(&[u64], &[u64], u64); 4] = [
            (&[6, 4], &[1, 6], 0),
            (&[3], &[2], 4),
            (&[5, 6], &[0, 1], 0),
            (&[4, 2], &[6, 1], 8),
        ];
        for (shape, strides, start) in cases {
            let info = info(view(shape, strides, start)).expect("a view");
            assert_eq!(info.offset, 1000 + start, "{shape:?}");
            let Stored::Scattered(scattered) = info.stored else {
                panic!("{shape:?} is in place");
            };
            assert_eq!(scattered.strides, strides);
            assert_eq!((scattered.start, &scattered.storage), (start, &PLAIN));
        }
        let mut packed = view(&[2, 6], &[6, 1], 48);
        packed.storage = Storage::Deflated {
            offset: 7,
            packed: 20,
            bytes: 96,
        };
        let info = info(packed).expect("a view");
        assert_eq!(info.offset, 7);
        assert!(matches!(info.stored, Stored::Scattered(_)));
    }

    #[test]
    fn views_beyond_their_storage_are_refused() {
        let cases: [(&[u64], &[u64], u64, &str); 7] = [
            (&[4, 6], &[6, 1], 4, "byte 100 of"),
            (&[25], &[1], 0, "byte 100 of"),
            (&[2], &[24], 0, "byte 100 of"),
            (&[2], &[u64::MAX], 0, "beyond all numbers"),
            (&[3], &[1 << 63], 0, "beyond all numbers"),
            (&[1 << 62], &[1], 0, "overflows"),
            (&[2, 2], &[1], 0, "2 dimensions and 1 strides"),
        ];
        for (shape, strides, start, says) in cases {
            let error = info(view(shape, strides, start)).expect_err("beyond its storage");
            assert!(error.contains(says), "{shape:?}: {error}");
        }
    }
}
