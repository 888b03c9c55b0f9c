//! The target whose input is a list of digests.

use std::sync::LazyLock;

use ckload_loaders::{Checkpoint, Manifest, Verification, VerifyOptions};

use crate::checks::{LOADER, check_error};
use crate::file::MemoryFile;
use crate::memory::{LITTLE, limited};

/// One tensor of four bytes, `t`.
const CHECKPOINT: &[u8] =
    b"\x38\0\0\0\0\0\0\0{\"t\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}   abcd";

static VERIFIED: LazyLock<Verification> = LazyLock::new(|| {
    let file = MemoryFile::new(CHECKPOINT, 0);
    let checkpoint = Checkpoint::open(file.path()).expect("the file is valid");
    let options = VerifyOptions::default();
    LOADER.verify(&checkpoint, &options).expect("it is there")
});

/// Reads recorded digests, and compares them with a checkpoint's.
pub fn manifest(content: &[u8]) {
    let verified = &*VERIFIED;
    let file = MemoryFile::new(content, 0);
    match limited(LITTLE, || Manifest::read(file.path())) {
        Ok(manifest) => {
            for mismatch in manifest.mismatches(verified) {
                assert!(!mismatch.to_string().is_empty());
            }
        }
        Err(error) => check_error(&error),
    }
}
