//! What is not as it should be.

use std::io::{self, Write};
use std::path::Path;

use ckload::Mismatch;

use crate::cli::width::{cut_start, wrap};
use crate::cli::{style, units};

use super::{Table, write_text};

const TITLE: &str = "not as it should be";

/// Before what belongs to the line above.
const INDENT: &str = "  ";

/// Writes how what was found compares with what is recorded at `path`.
pub(super) fn write_comparison(
    out: &mut impl Write,
    path: &Path,
    mismatches: &[Mismatch],
) -> io::Result<()> {
    if !mismatches.is_empty() {
        return write_mismatches(out, mismatches);
    }
    write_agreement(out, path)
}

/// Writes that all is as recorded at `path`.
pub(crate) fn write_agreement(out: &mut impl Write, path: &Path) -> io::Result<()> {
    let path = path.to_string_lossy();
    let sentence = format!("Everything is as recorded in {}.", style::escape(&path));
    write_text(out, style::GAIN, &sentence)
}

/// Writes what is not as it should be, in brief; sentences about it go to standard error.
pub(crate) fn write_mismatches(out: &mut impl Write, mismatches: &[Mismatch]) -> io::Result<()> {
    write_within(out, mismatches, style::columns())?;
    writeln!(out)
}

/// In a table if lines of so many columns have room for it.
fn write_within(out: &mut impl Write, mismatches: &[Mismatch], columns: usize) -> io::Result<()> {
    let mut table = Table::new([TITLE, ""]);
    for mismatch in mismatches {
        table.row([name(mismatch), in_brief(mismatch)]);
    }
    table.fit(columns);
    if table.columns() <= columns {
        return table.write(out);
    }
    let title = style::TITLE;
    writeln!(out, "{title}{TITLE}{title:#}")?;
    for mismatch in mismatches {
        writeln!(out, "{}", cut_start(&name(mismatch), columns))?;
        for line in wrap(&in_brief(mismatch), columns.saturating_sub(INDENT.len())) {
            writeln!(out, "{INDENT}{line}")?;
        }
    }
    Ok(())
}

/// What a mismatch is of.
fn name(mismatch: &Mismatch) -> String {
    match (mismatch.tensor(), mismatch.file()) {
        (Some(name), _) => style::escape(name).into_owned(),
        (None, Some(path)) => style::escape(&path.to_string_lossy()).into_owned(),
        (None, None) => String::new(),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_is_too_wide_becomes_a_list() {
        let mismatches = [
            Mismatch::TensorMissing {
                name: "model.layers.10.mlp.gate_proj.weight".into(),
            },
            Mismatch::FileMissing {
                path: "model.safetensors".into(),
            },
        ];
        let written = |columns| {
            let mut out = Vec::new();
            let stripped = &mut anstream::StripStream::new(&mut out);
            write_within(stripped, &mismatches, columns).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            written(80),
            "not as it should be\n\
             model.layers.10.mlp.gate_proj.weight  tensor is missing\n\
             model.safetensors                       file is missing\n"
        );
        assert_eq!(
            written(24),
            "not as it should be\n\
             …10.mlp.gate_proj.weight\n\
             \u{20} tensor is missing\n\
             model.safetensors\n\
             \u{20} file is missing\n"
        );
    }
}
