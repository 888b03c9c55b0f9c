//! A GGUF file.

#![no_main]

libfuzzer_sys::fuzz_target!(|content: &[u8]| ckload_fuzz::gguf(content));
