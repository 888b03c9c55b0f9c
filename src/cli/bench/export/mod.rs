//! The result in files.

mod csv;
mod html;
mod markdown;

use super::results::Results;
use crate::cli::options::Exports;
use crate::cli::{Error, whole_file};

/// Looks whether the files can be written, before anything is measured.
pub(super) fn check(exports: &Exports) -> Result<(), Error> {
    exports.files().try_for_each(whole_file::check)
}

/// Writes every file that was asked for; each is there whole, or as it was before.
pub(super) fn write(exports: &Exports, results: &Results) -> Result<(), Error> {
    if let Some(path) = &exports.json {
        whole_file::write(path, |out| {
            serde_json::to_writer_pretty(&mut *out, results)?;
            writeln!(out)
        })?;
    }
    for (path, text) in [
        (&exports.markdown, markdown::page as fn(&Results) -> String),
        (&exports.csv, csv::lines),
        (&exports.html, html::page),
    ] {
        if let Some(path) = path {
            whole_file::write(path, |out| out.write_all(text(results).as_bytes()))?;
        }
    }
    Ok(())
}
