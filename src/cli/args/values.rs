//! Values that options of several commands take.

use std::path::PathBuf;

use ckload::{ByteSize, Select};
use clap::ValueEnum;

use crate::cli::options::{ModelSize, TimelineFile, TimelineFormat};

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum SizeArg {
    /// About 1 MB: for tests
    Tiny,
    /// The model as described
    #[default]
    Small,
}

impl From<SizeArg> for ModelSize {
    fn from(size: SizeArg) -> Self {
        match size {
            SizeArg::Tiny => Self::Tiny,
            SizeArg::Small => Self::Small,
        }
    }
}

pub(super) fn parse_budget(text: &str) -> Result<ByteSize, String> {
    match parse_size(text)? {
        ByteSize(0) => Err("a stream needs memory".into()),
        size => Ok(size),
    }
}

pub(super) fn parse_size(text: &str) -> Result<ByteSize, &'static str> {
    text.parse::<ByteSize>()
        .map_err(|_| "expected a number of bytes, or a number and a unit such as 256MiB or 1GB")
}

pub(super) fn parse_glob(text: &str) -> Result<String, ckload::Error> {
    Select::all().include(text).map(|_| text.to_owned())
}

/// What is written follows from the file's name.
pub(super) fn parse_timeline(text: &str) -> Result<TimelineFile, &'static str> {
    let path = PathBuf::from(text);
    let format = match path.extension().and_then(|extension| extension.to_str()) {
        Some("html" | "htm") => TimelineFormat::Html,
        Some("json") => TimelineFormat::Json,
        _ => {
            return Err("expected a name that ends in .html, for a page, or in .json, for a trace");
        }
    };
    Ok(TimelineFile { path, format })
}
