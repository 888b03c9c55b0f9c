//! ckload
fn main() {}
