//! An archive of PyTorch's.

#![no_main]

libfuzzer_sys::fuzz_target!(|content: &[u8]| ckload_fuzz::pytorch_zip(content));
