//! Element types, as checkpoint files name them.

use std::fmt;

use safetensors::Dtype as Published;

/// The type of a tensor's elements.
///
/// The names are those of the safetensors format, version 0.8 of its reference implementation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(non_camel_case_types)] // the names are the file format's
#[non_exhaustive]
pub enum Dtype {
    /// Boolean, one byte each.
    BOOL,
    /// 4-bit float (OCP MXFP4), two to a byte.
    F4,
    /// 6-bit float (OCP MXFP6, 2 exponent and 3 mantissa bits), four to three bytes.
    F6_E2M3,
    /// 6-bit float (OCP MXFP6, 3 exponent and 2 mantissa bits), four to three bytes.
    F6_E3M2,
    /// Unsigned 8-bit integer.
    U8,
    /// Signed 8-bit integer.
    I8,
    /// 8-bit float, 5 exponent and 2 mantissa bits.
    F8_E5M2,
    /// 8-bit float, 4 exponent and 3 mantissa bits.
    F8_E4M3,
    /// 8-bit power-of-two scale (OCP microscaling formats).
    F8_E8M0,
    /// 8-bit float, 4 exponent and 3 mantissa bits, finite, without negative zero.
    F8_E4M3FNUZ,
    /// 8-bit float, 5 exponent and 2 mantissa bits, finite, without negative zero.
    F8_E5M2FNUZ,
    /// Signed 16-bit integer.
    I16,
    /// Unsigned 16-bit integer.
    U16,
    /// IEEE 754 half precision.
    F16,
    /// Brain floating point: the upper half of an `F32`.
    BF16,
    /// Signed 32-bit integer.
    I32,
    /// Unsigned 32-bit integer.
    U32,
    /// IEEE 754 single precision.
    F32,
    /// Complex number of two `F32`.
    C64,
    /// IEEE 754 double precision.
    F64,
    /// Signed 64-bit integer.
    I64,
    /// Unsigned 64-bit integer.
    U64,
}

impl Dtype {
    /// The size of one element in bits; not a multiple of 8 for the packed floats.
    #[must_use]
    pub fn bits(self) -> u64 {
        Published::from(self).bitsize() as u64
    }

    /// The alignment in bytes that a slice of such elements needs in memory; 1 for packed elements.
    ///
    /// Always a power of two, at most 8.
    #[must_use]
    pub fn alignment(self) -> u64 {
        match self.bits() {
            bits if bits.is_multiple_of(8) => bits / 8,
            _ => 1,
        }
    }

    /// The bytes that `shape` takes, or `None` if the count overflows or does not end on a whole byte.
    pub(crate) fn bytes_of(self, shape: &[u64]) -> Option<u64> {
        let elements = shape
            .iter()
            .try_fold(1u64, |product, &dim| product.checked_mul(dim))?;
        let bits = elements.checked_mul(self.bits())?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Published::from(*self), f)
    }
}

macro_rules! same_names {
    ($($name:ident),+ $(,)?) => {
        impl From<Dtype> for Published {
            fn from(dtype: Dtype) -> Self {
                match dtype { $(Dtype::$name => Self::$name),+ }
            }
        }

        impl Dtype {
            /// Every element type.
            pub const ALL: [Self; [$(stringify!($name)),+].len()] = [$(Self::$name),+];

            /// The same type in our terms; `None` for one that the format has gained since.
            pub(crate) fn from_published(dtype: Published) -> Option<Self> {
                match dtype {
                    $(Published::$name => Some(Self::$name),)+
                    #[allow(unreachable_patterns)] // the published enum is non-exhaustive
                    _ => None,
                }
            }
        }
    };
}

same_names!(
    BOOL,
    F4,
    F6_E2M3,
    F6_E3M2,
    U8,
    I8,
    F8_E5M2,
    F8_E4M3,
    F8_E8M0,
    F8_E4M3FNUZ,
    F8_E5M2FNUZ,
    I16,
    U16,
    F16,
    BF16,
    I32,
    U32,
    F32,
    C64,
    F64,
    I64,
    U64,
);

/// A Rust type that tensors of some [`Dtype`]s can be viewed as, for [`Tensor::as_slice`](crate::Tensor::as_slice).
///
/// `u8` also views booleans and the 8-bit floats, for which Rust has no type of its own.
pub trait Element: bytemuck::AnyBitPattern {
    /// The element types whose bytes are valid values of this type, one for one.
    const DTYPES: &'static [Dtype];
}

macro_rules! elements {
    ($($rust:ty => $($dtype:ident)|+),+ $(,)?) => {
        $(impl Element for $rust {
            const DTYPES: &'static [Dtype] = &[$(Dtype::$dtype),+];
        })+
    };
}

elements!(
    u8 => U8 | BOOL | F8_E5M2 | F8_E4M3 | F8_E8M0 | F8_E4M3FNUZ | F8_E5M2FNUZ,
    i8 => I8,
    i16 => I16,
    u16 => U16,
    half::f16 => F16,
    half::bf16 => BF16,
    i32 => I32,
    u32 => U32,
    f32 => F32,
    [f32; 2] => C64,
    f64 => F64,
    i64 => I64,
    u64 => U64,
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_the_one_in_the_file_format() {
        for dtype in Dtype::ALL {
            let published: Published =
                serde_json::from_str(&format!("\"{dtype}\"")).expect("a name of the format");
            assert_eq!(Dtype::from_published(published), Some(dtype));
            assert_eq!(format!("{dtype:?}"), dtype.to_string());
        }
    }

    #[test]
    fn bytes_are_checked_for_overflow_and_whole_bytes() {
        assert_eq!(Dtype::F32.bytes_of(&[]), Some(4));
        assert_eq!(Dtype::F32.bytes_of(&[0, u64::MAX]), Some(0));
        assert_eq!(Dtype::F32.bytes_of(&[1 << 62]), None);
        assert_eq!(Dtype::U8.bytes_of(&[u64::MAX, 2]), None);
        assert_eq!(Dtype::F4.bytes_of(&[3]), None);
        assert_eq!(Dtype::F4.bytes_of(&[4]), Some(2));
        assert_eq!(Dtype::F6_E2M3.bytes_of(&[4]), Some(3));
    }

    #[test]
    fn alignments_are_powers_of_two() {
        for dtype in Dtype::ALL {
            assert!(dtype.alignment().is_power_of_two(), "{dtype}");
        }
        assert_eq!(Dtype::F6_E2M3.alignment(), 1);
        assert_eq!(Dtype::C64.alignment(), 8);
    }
}
