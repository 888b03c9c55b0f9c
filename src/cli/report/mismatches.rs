//! What is not as it should be.

use std::io::{self, Write};
use std::path::Path;

use ckload::Mismatch;

use crate::cli::{style, units};

use super::Table;

/// Writes how what was found compares with what is recorded at `path`.
pub(super) fn write_comparison(
    out: &mut impl Write,
    path: &Path,
    mismatches: &[Mismatch],
) -> io::Result<()> {
    if !mismatches.is_empty() {
        return write_mismatches(out, mismatches);
    }
    let (gain, path) = (style::GAIN, path.to_string_lossy());
    writeln!(
        out,
        "{gain}Everything is as recorded in {}.{gain:#}",
        style::escape(&path)
    )
}

/// Writes what is not as it should be, in brief; sentences about it go to standard error.
pub(crate) fn write_mismatches(out: &mut impl Write, mismatches: &[Mismatch]) -> io::Result<()> {
    let mut table = Table::new(["not as it should be", ""]);
    for mismatch in mismatches {
        let name = match (mismatch.tensor(), mismatch.file()) {
            (Some(name), _) => style::escape(name).into_owned(),
            (None, Some(path)) => style::escape(&path.to_string_lossy()).into_owned(),
            (None, None) => String::new(),
        };
        table.row([name, in_brief(mismatch)]);
    }
    table.write(out)?;
    writeln!(out)
}

fn in_brief(mismatch: &Mismatch) -> String {
    let brief = match mismatch {
        Mismatch::BlobName { .. } => "file's SHA-256 is not its name in the cache",
        Mismatch::FileDigest { .. } => "file's SHA-256 differs",
        Mismatch::FileBytes { .. } => "file's size differs",
        Mismatch::FileMissing { .. } => "file is missing",
        Mismatch::FileExtra { .. } => "file is not recorded",
        Mismatch::TensorDigest { .. } => "tensor's SHA-256 differs",
        Mismatch::TensorDtype { .. } => "tensor's dtype differs",
        Mismatch::TensorShape { .. } => "tensor's shape differs",
        Mismatch::TensorMissing { .. } => "tensor is missing",
        Mismatch::TensorExtra { .. } => "tensor is not recorded",
        Mismatch::NotFinite { nan, infinite, .. } => {
            let (nan, infinite) = (units::count(*nan), units::count(*infinite));
            return format!("{nan} NaN, {infinite} infinite");
        }
        other => return other.to_string(),
    };
    brief.to_owned()
}
