//! Element types, as checkpoint files name them.

use std::fmt;

use safetensors::Dtype as Published;

/// No element wants more than this, in bytes: the largest are complex numbers of two `F64`.
const MAX_ALIGNMENT: u64 = 8;

/// The type of a tensor's elements.
///
/// The names are those of the safetensors format, version 0.8 of its reference implementation; what that lacks has the name that its own
/// format gives it. The quantised blocks are those of `ggml.h` and `ggml-common.h` in llama.cpp, where GGUF has its types from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(non_camel_case_types)] // the names are the file formats'
#[non_exhaustive]
pub enum Dtype {
    /// Boolean, one byte each.
    BOOL,
    /// 4-bit float (the elements of OCP MXFP4, without their scales), two to a byte. GGUF's blocks with scales are [`Dtype::MXFP4`].
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
    /// Complex number of two `F16` (PyTorch's `complex32`).
    C32,
    /// Complex number of two `F64` (PyTorch's and NumPy's `complex128`).
    C128,
    /// GGUF block: 128 elements of 1 bit, a half precision scale.
    Q1_0,
    /// GGUF block: 64 elements of 2 bits, a half precision scale.
    Q2_0,
    /// GGUF block: 32 elements of 4 bits, a half precision scale.
    Q4_0,
    /// GGUF block: 32 elements of 4 bits, a half precision scale and minimum.
    Q4_1,
    /// GGUF block: 32 elements of 5 bits, a half precision scale.
    Q5_0,
    /// GGUF block: 32 elements of 5 bits, a half precision scale and minimum.
    Q5_1,
    /// GGUF block: 32 elements of 8 bits, a half precision scale.
    Q8_0,
    /// GGUF block: 32 elements of 8 bits, a half precision scale and sum. (Python's `gguf` has 40 bytes, from when both were single precision.)
    Q8_1,
    /// GGUF block: 256 elements of 2 bits in 16 groups, with scales and minimums.
    Q2_K,
    /// GGUF block: 256 elements of 3 bits in 16 groups, with scales.
    Q3_K,
    /// GGUF block: 256 elements of 4 bits in 8 groups, with scales and minimums.
    Q4_K,
    /// GGUF block: 256 elements of 5 bits in 8 groups, with scales and minimums.
    Q5_K,
    /// GGUF block: 256 elements of 6 bits in 16 groups, with scales.
    Q6_K,
    /// GGUF block: 256 elements of 8 bits, a single precision scale, and sums.
    Q8_K,
    /// GGUF block: 256 elements of 1.56 bits, by a codebook.
    IQ1_S,
    /// GGUF block: 256 elements of 1.75 bits, by a codebook.
    IQ1_M,
    /// GGUF block: 256 elements of 2.06 bits, by a codebook.
    IQ2_XXS,
    /// GGUF block: 256 elements of 2.31 bits, by a codebook.
    IQ2_XS,
    /// GGUF block: 256 elements of 2.56 bits, by a codebook.
    IQ2_S,
    /// GGUF block: 256 elements of 3.06 bits, by a codebook.
    IQ3_XXS,
    /// GGUF block: 256 elements of 3.44 bits, by a codebook.
    IQ3_S,
    /// GGUF block: 32 elements of 4 bits on a curve, a half precision scale.
    IQ4_NL,
    /// GGUF block: 256 elements of 4 bits on a curve in 8 groups, with scales.
    IQ4_XS,
    /// GGUF block: 256 ternary elements, five to a byte, a half precision scale.
    TQ1_0,
    /// GGUF block: 256 ternary elements, four to a byte, a half precision scale.
    TQ2_0,
    /// GGUF block: 32 elements of 4 bits behind an [`F8_E8M0`](Dtype::F8_E8M0) scale.
    MXFP4,
    /// GGUF block: 64 elements of 4 bits behind four [`F8_E4M3`](Dtype::F8_E4M3) scales.
    NVFP4,
}

/// How elements are packed: so many of them take so many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Block {
    /// Elements of one block; 1 for all types but packed and quantised ones.
    pub elements: u64,
    /// Bytes of one block.
    pub bytes: u64,
}

impl Dtype {
    /// The alignment in bytes that a slice of such elements, or of such blocks, needs in memory.
    ///
    /// The largest power of two, at most 8, that divides a block's bytes. Whatever a block is declared as, a C struct of its size needs no
    /// more: its alignment divides its size.
    #[must_use]
    pub fn alignment(self) -> u64 {
        let bytes = self.block().bytes;
        (1 << bytes.trailing_zeros()).min(MAX_ALIGNMENT)
    }

    /// The bytes that `shape` takes, or `None` if the count overflows or does not end with a whole block.
    pub(crate) fn bytes_of(self, shape: &[u64]) -> Option<u64> {
        let elements = shape
            .iter()
            .try_fold(1u64, |product, &dim| product.checked_mul(dim))?;
        let block = self.block();
        let blocks = elements / block.elements;
        elements
            .is_multiple_of(block.elements)
            .then(|| blocks.checked_mul(block.bytes))?
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

macro_rules! dtypes {
    ($($name:ident $elements:literal / $bytes:literal),+ $(,)?) => {
        impl Dtype {
            /// Every element type.
            pub const ALL: [Self; [$(stringify!($name)),+].len()] = [$(Self::$name),+];

            /// The name, as the file format has it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),+ }
            }

            /// How elements are packed.
            #[must_use]
            pub fn block(self) -> Block {
                let (elements, bytes) = match self { $(Self::$name => ($elements, $bytes)),+ };
                Block { elements, bytes }
            }
        }
    };
}

// Elements of a block / its bytes.
dtypes!(
    BOOL 1 / 1,
    F4 2 / 1,
    F6_E2M3 4 / 3,
    F6_E3M2 4 / 3,
    U8 1 / 1,
    I8 1 / 1,
    F8_E5M2 1 / 1,
    F8_E4M3 1 / 1,
    F8_E8M0 1 / 1,
    F8_E4M3FNUZ 1 / 1,
    F8_E5M2FNUZ 1 / 1,
    I16 1 / 2,
    U16 1 / 2,
    F16 1 / 2,
    BF16 1 / 2,
    I32 1 / 4,
    U32 1 / 4,
    F32 1 / 4,
    C64 1 / 8,
    F64 1 / 8,
    I64 1 / 8,
    U64 1 / 8,
    C32 1 / 4,
    C128 1 / 16,
    Q1_0 128 / 18,
    Q2_0 64 / 18,
    Q4_0 32 / 18,
    Q4_1 32 / 20,
    Q5_0 32 / 22,
    Q5_1 32 / 24,
    Q8_0 32 / 34,
    Q8_1 32 / 36,
    Q2_K 256 / 84,
    Q3_K 256 / 110,
    Q4_K 256 / 144,
    Q5_K 256 / 176,
    Q6_K 256 / 210,
    Q8_K 256 / 292,
    IQ1_S 256 / 50,
    IQ1_M 256 / 56,
    IQ2_XXS 256 / 66,
    IQ2_XS 256 / 74,
    IQ2_S 256 / 82,
    IQ3_XXS 256 / 98,
    IQ3_S 256 / 110,
    IQ4_NL 32 / 18,
    IQ4_XS 256 / 136,
    TQ1_0 256 / 54,
    TQ2_0 256 / 66,
    MXFP4 32 / 17,
    NVFP4 64 / 36,
);

macro_rules! published {
    ($($name:ident),+ $(,)?) => {
        impl Dtype {
            /// The same type in the terms of the safetensors crate; `None` for one that a safetensors file cannot hold.
            #[must_use]
            pub fn to_safetensors(self) -> Option<Published> {
                match self {
                    $(Self::$name => Some(Published::$name),)+
                    _ => None,
                }
            }

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

published!(
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
    [half::f16; 2] => C32,
    [f32; 2] => C64,
    f64 => F64,
    [f64; 2] => C128,
    i64 => I64,
    u64 => U64,
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_the_one_in_the_file_format() {
        let mut published_types = 0;
        for dtype in Dtype::ALL {
            let Some(published) = dtype.to_safetensors() else {
                continue;
            };
            published_types += 1;
            let named: Published =
                serde_json::from_str(&format!("\"{dtype}\"")).expect("a name of the format");
            assert_eq!(named, published);
            assert_eq!(Dtype::from_published(published), Some(dtype));
            let block = dtype.block();
            assert_eq!(published.bitsize() as u64 * block.elements, 8 * block.bytes);
        }
        assert_eq!(published_types, 22);
        for dtype in Dtype::ALL {
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
        assert_eq!(Dtype::Q6_K.bytes_of(&[3, 512]), Some(6 * 210));
        assert_eq!(Dtype::Q6_K.bytes_of(&[128]), None);
    }

    #[test]
    fn alignments_are_powers_of_two() {
        for dtype in Dtype::ALL {
            assert!(dtype.alignment().is_power_of_two(), "{dtype}");
        }
        assert_eq!(Dtype::F6_E2M3.alignment(), 1);
        assert_eq!(Dtype::C64.alignment(), 8);
        assert_eq!(Dtype::C128.alignment(), 8);
        assert_eq!(Dtype::Q4_0.alignment(), 2);
        assert_eq!(Dtype::Q4_K.alignment(), 8);
        assert_eq!(Dtype::Q8_K.alignment(), 4);
        assert_eq!(Dtype::MXFP4.alignment(), 1);
    }
}
