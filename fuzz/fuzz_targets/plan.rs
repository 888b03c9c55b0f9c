//! Tensors, and the plan of reading them.

#![no_main]

libfuzzer_sys::fuzz_target!(|planned: ckload_fuzz::Planned| ckload_fuzz::plan(&planned));
