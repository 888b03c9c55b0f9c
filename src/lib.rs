//! ckload
pub mod synth;
