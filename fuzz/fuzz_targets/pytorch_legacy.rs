//! A PyTorch file as it was before archives.

#![no_main]

libfuzzer_sys::fuzz_target!(|content: &[u8]| ckload_fuzz::pytorch_legacy(content));
