//! A pickle that describes tensors.

#![no_main]

libfuzzer_sys::fuzz_target!(|content: &[u8]| ckload_fuzz::pickle(content));
