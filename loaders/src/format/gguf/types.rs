//! The numbers by which GGUF names the types of tensors: `enum ggml_type` of llama.cpp's `ggml.h`.

use crate::Dtype;

const TYPES: &[(u32, Dtype)] = &[
    (0, Dtype::F32),
    (1, Dtype::F16),
    (2, Dtype::Q4_0),
    (3, Dtype::Q4_1),
    (6, Dtype::Q5_0),
    (7, Dtype::Q5_1),
    (8, Dtype::Q8_0),
    (9, Dtype::Q8_1),
    (10, Dtype::Q2_K),
    (11, Dtype::Q3_K),
    (12, Dtype::Q4_K),
    (13, Dtype::Q5_K),
    (14, Dtype::Q6_K),
    (15, Dtype::Q8_K),
    (16, Dtype::IQ2_XXS),
    (17, Dtype::IQ2_XS),
    (18, Dtype::IQ3_XXS),
    (19, Dtype::IQ1_S),
    (20, Dtype::IQ4_NL),
    (21, Dtype::IQ3_S),
    (22, Dtype::IQ2_S),
    (23, Dtype::IQ4_XS),
    (24, Dtype::I8),
    (25, Dtype::I16),
    (26, Dtype::I32),
    (27, Dtype::I64),
    (28, Dtype::F64),
    (29, Dtype::IQ1_M),
    (30, Dtype::BF16),
    (34, Dtype::TQ1_0),
    (35, Dtype::TQ2_0),
    (39, Dtype::MXFP4),
    (40, Dtype::NVFP4),
    (41, Dtype::Q1_0),
    (42, Dtype::Q2_0),
];

/// Types that ggml had once, and what stands in their place now.
const REMOVED: &[(u32, &str, &str)] = &[
    (4, "Q4_2", "Q4_0 or Q4_K"),
    (5, "Q4_3", "Q4_1 or Q4_K"),
    (31, "Q4_0_4_4", "Q4_0"),
    (32, "Q4_0_4_8", "Q4_0"),
    (33, "Q4_0_8_8", "Q4_0"),
    (36, "IQ4_NL_4_4", "IQ4_NL"),
    (37, "IQ4_NL_4_8", "IQ4_NL"),
    (38, "IQ4_NL_8_8", "IQ4_NL"),
];

/// The type that has the number, or what is wrong with it.
pub(super) fn dtype(number: u32) -> Result<Dtype, String> {
    if let Some((_, dtype)) = TYPES.iter().find(|(of, _)| *of == number) {
        return Ok(*dtype);
    }
    Err(match REMOVED.iter().find(|(of, ..)| *of == number) {
        Some((_, name, instead)) => format!(
            "its type {name} (number {number}) was removed from ggml; convert the model to {instead}"
        ),
        None => format!("its type has the number {number}, which ggml has not"),
    })
}
