//! Recorded digests, as `verify --against` reads them.

#![no_main]

libfuzzer_sys::fuzz_target!(|content: &[u8]| ckload_fuzz::manifest(content));
