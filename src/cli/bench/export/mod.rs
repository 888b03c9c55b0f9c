//! The result in files.

mod csv;
mod file;
mod html;
mod markdown;

use super::results::Results;
use crate::cli::Error;
use crate::cli::interrupt::CleansUp;
use crate::cli::options::Exports;

/// Looks whether the files can be written, before anything is measured.
pub(super) fn check(exports: &Exports) -> Result<(), Error> {
    let _cleans_up = CleansUp::new();
    exports.files().try_for_each(file::check)
}

/// Writes every file that was asked for; each is there whole, or as it was before.
pub(super) fn write(exports: &Exports, results: &Results) -> Result<(), Error> {
    let _cleans_up = CleansUp::new();
    if let Some(path) = &exports.json {
        let json = serde_json::to_string_pretty(results).map_err(|source| Error::Export {
            path: path.clone(),
            source: source.into(),
        })?;
        file::write(path, &(json + "\n"))?;
    }
    if let Some(path) = &exports.markdown {
        file::write(path, &markdown::page(results))?;
    }
    if let Some(path) = &exports.csv {
        file::write(path, &csv::lines(results))?;
    }
    if let Some(path) = &exports.html {
        file::write(path, &html::page(results))?;
    }
    Ok(())
}
