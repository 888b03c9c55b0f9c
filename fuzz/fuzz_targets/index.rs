//! The index of a checkpoint in several files.

#![no_main]

libfuzzer_sys::fuzz_target!(|content: &[u8]| ckload_fuzz::index(content));
