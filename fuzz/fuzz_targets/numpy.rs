//! NumPy arrays, in an archive or alone.

#![no_main]

libfuzzer_sys::fuzz_target!(|content: &[u8]| ckload_fuzz::numpy(content));
