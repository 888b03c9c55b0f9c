//! ckload
