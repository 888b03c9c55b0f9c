//! Counts what is not a number, and what is infinite.

use std::ops::AddAssign;

use serde::Serialize;

use crate::{ByteOrder, Dtype};

/// As many values are counted at a time: few enough for a count of 8 bits.
const BLOCK_VALUES: usize = 128;

/// No value that is counted is larger, in bytes.
const LARGEST: usize = 8;

/// Counts the values of `$bytes` that are NaN and that are infinite, as `$kind` tells from their bits.
///
/// Counts of a block are as wide as its values, so that the compiler can add up many at once.
macro_rules! count_bits {
    ($bits:ty, $order:expr, $bytes:expr, |$value:ident| $kind:expr) => {
        match $order {
            ByteOrder::Little => count_bits!($bits, from_le_bytes, $bytes, $value, $kind),
            ByteOrder::Big => count_bits!($bits, from_be_bytes, $bytes, $value, $kind),
        }
    };
    ($bits:ty, $from_bytes:ident, $bytes:expr, $value:ident, $kind:expr) => {{
        const SIZE: usize = size_of::<$bits>();
        let mut counts = NonFinite::default();
        for block in $bytes.chunks(BLOCK_VALUES * SIZE) {
            let (mut nan, mut infinite): ($bits, $bits) = (0, 0);
            for value in block.as_chunks::<SIZE>().0 {
                let $value = <$bits>::$from_bytes(*value);
                let (is_nan, is_infinite) = $kind;
                nan += <$bits>::from(is_nan);
                infinite += <$bits>::from(is_infinite);
            }
            counts.nan += nan as u64;
            counts.infinite += infinite as u64;
        }
        counts
    }};
}

/// How many of a float tensor's values are not finite; a complex number has two values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct NonFinite {
    /// Values that are NaN.
    pub nan: u64,
    /// Positive and negative infinities.
    pub infinite: u64,
}

impl NonFinite {
    /// Whether all values are finite.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl AddAssign for NonFinite {
    fn add_assign(&mut self, other: Self) {
        self.nan += other.nan;
        self.infinite += other.infinite;
    }
}

/// Counts in a tensor's bytes, piece by piece.
#[derive(Clone, Debug)]
pub(super) struct Counter {
    dtype: Dtype,
    order: ByteOrder,
    counts: NonFinite,
    /// A value that the last piece ended within.
    cut: [u8; LARGEST],
    cut_bytes: usize,
}

impl Counter {
    /// `None` if no element can be other than finite (integers, the 4- and 6-bit floats), or elements are quantised in blocks.
    pub(super) fn new(dtype: Dtype, order: ByteOrder) -> Option<Self> {
        value_bytes(dtype)?;
        Some(Self {
            dtype,
            order,
            counts: NonFinite::default(),
            cut: [0; LARGEST],
            cut_bytes: 0,
        })
    }

    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        let size = value_bytes(self.dtype).unwrap_or(1);
        if self.cut_bytes > 0 {
            let missing = (size - self.cut_bytes).min(bytes.len());
            let (now, later) = bytes.split_at(missing);
            self.cut[self.cut_bytes..self.cut_bytes + missing].copy_from_slice(now);
            self.cut_bytes += missing;
            bytes = later;
            if self.cut_bytes < size {
                return;
            }
            self.counts += count(self.dtype, self.order, &self.cut[..size]);
            self.cut_bytes = 0;
        }
        let (whole, cut) = bytes.split_at(bytes.len() - bytes.len() % size);
        self.counts += count(self.dtype, self.order, whole);
        self.cut[..cut.len()].copy_from_slice(cut);
        self.cut_bytes = cut.len();
    }

    pub(super) fn finish(self) -> NonFinite {
        self.counts
    }
}

/// The bytes of a float of `dtype`, or of a part of a complex number; `None` for types that are not counted.
fn value_bytes(dtype: Dtype) -> Option<usize> {
    match dtype {
        Dtype::F8_E5M2
        | Dtype::F8_E4M3
        | Dtype::F8_E8M0
        | Dtype::F8_E4M3FNUZ
        | Dtype::F8_E5M2FNUZ => Some(1),
        Dtype::F16 | Dtype::BF16 | Dtype::C32 => Some(2),
        Dtype::F32 | Dtype::C64 => Some(4),
        Dtype::F64 | Dtype::C128 => Some(8),
        _ => None,
    }
}

/// Counts in whole values of a type that has [`value_bytes`].
fn count(dtype: Dtype, order: ByteOrder, bytes: &[u8]) -> NonFinite {
    // IEEE 754: an exponent of ones is infinity, or NaN where the fraction is not zero. Compared without the sign.
    macro_rules! ieee {
        ($bits:ty, $infinity:literal) => {
            count_bits!($bits, order, bytes, |bits| {
                let magnitude = bits & (<$bits>::MAX >> 1);
                (magnitude > $infinity, magnitude == $infinity)
            })
        };
    }
    match dtype {
        Dtype::F16 | Dtype::C32 => ieee!(u16, 0x7c00),
        Dtype::BF16 => ieee!(u16, 0x7f80),
        Dtype::F32 | Dtype::C64 => ieee!(u32, 0x7f80_0000),
        Dtype::F64 | Dtype::C128 => ieee!(u64, 0x7ff0_0000_0000_0000),
        // OCP 8-bit floating point: E5M2 is as IEEE 754 would have it, E4M3 has one NaN of each sign and no infinity.
        Dtype::F8_E5M2 => ieee!(u8, 0x7c),
        Dtype::F8_E4M3 => count_bits!(u8, order, bytes, |bits| (bits & 0x7f == 0x7f, false)),
        // OCP microscaling formats: a scale has no sign, no infinity, and one NaN.
        Dtype::F8_E8M0 => count_bits!(u8, order, bytes, |bits| (bits == 0xff, false)),
        // Finite, unsigned zero: what would be negative zero is the one NaN.
        Dtype::F8_E4M3FNUZ | Dtype::F8_E5M2FNUZ => {
            count_bits!(u8, order, bytes, |bits| (bits == 0x80, false))
        }
        _ => NonFinite::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(dtype: Dtype, order: ByteOrder, bytes: &[u8], piece: usize) -> (u64, u64) {
        let mut counter = Counter::new(dtype, order).expect("a float");
        bytes.chunks(piece).for_each(|piece| counter.update(piece));
        let counts = counter.finish();
        (counts.nan, counts.infinite)
    }

    #[test]
    fn all_16_bit_patterns_are_told_apart_as_by_the_half_crate() {
        let all: Vec<u16> = (0..=u16::MAX).collect();
        let little: Vec<u8> = all.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        let big: Vec<u8> = all.iter().flat_map(|bits| bits.to_be_bytes()).collect();
        let halves = all.iter().map(|&bits| half::f16::from_bits(bits));
        let brains = all.iter().map(|&bits| half::bf16::from_bits(bits));
        let expected = [
            (Dtype::F16, halves.filter(|value| value.is_nan()).count()),
            (Dtype::BF16, brains.filter(|value| value.is_nan()).count()),
        ];
        for (dtype, nan) in expected {
            for (order, bytes) in [(ByteOrder::Little, &little), (ByteOrder::Big, &big)] {
                for piece in [1, 3, 257, 1 << 20] {
                    assert_eq!(counted(dtype, order, bytes, piece), (nan as u64, 2));
                }
            }
        }
    }

    #[test]
    fn all_8_bit_patterns_are_told_apart_as_published() {
        let all: Vec<u8> = (0..=u8::MAX).collect();
        for (dtype, nan, infinite) in [
            (Dtype::F8_E5M2, 6, 2),
            (Dtype::F8_E4M3, 2, 0),
            (Dtype::F8_E8M0, 1, 0),
            (Dtype::F8_E4M3FNUZ, 1, 0),
            (Dtype::F8_E5M2FNUZ, 1, 0),
        ] {
            let counts = counted(dtype, ByteOrder::Little, &all, 7);
            assert_eq!(counts, (nan, infinite), "{dtype}");
        }
    }

    #[test]
    fn wide_floats_are_counted_across_pieces_in_either_order() {
        let values = [
            0.0,
            -0.0,
            f64::NAN,
            -f64::NAN,
            f64::INFINITY,
            f64::MAX,
            f64::MIN_POSITIVE,
            f64::NEG_INFINITY,
            f64::INFINITY,
        ];
        let singles = values.map(|value| value as f32);
        for piece in 1..20 {
            let bytes = singles.map(f32::to_le_bytes).concat();
            // The largest double is an infinite single.
            assert_eq!(
                counted(Dtype::F32, ByteOrder::Little, &bytes, piece),
                (2, 4)
            );
            let bytes = singles.map(f32::to_be_bytes).concat();
            assert_eq!(counted(Dtype::F32, ByteOrder::Big, &bytes, piece), (2, 4));
            let bytes = values.map(f64::to_be_bytes).concat();
            assert_eq!(counted(Dtype::F64, ByteOrder::Big, &bytes, piece), (2, 3));
            let bytes = values.map(f64::to_le_bytes).concat().repeat(2);
            let counts = counted(Dtype::C128, ByteOrder::Little, &bytes, piece);
            assert_eq!(counts, (4, 6));
        }
    }

    #[test]
    fn more_than_a_block_of_them_is_counted() {
        let bytes = vec![0xff; 100_000];
        assert_eq!(
            counted(Dtype::F8_E8M0, ByteOrder::Little, &bytes, 99_999),
            (100_000, 0)
        );
    }

    #[test]
    fn integers_and_packed_floats_are_not_counted() {
        for dtype in [
            Dtype::I32,
            Dtype::U8,
            Dtype::BOOL,
            Dtype::F4,
            Dtype::F6_E2M3,
        ] {
            assert!(Counter::new(dtype, ByteOrder::Little).is_none(), "{dtype}");
        }
    }
}
