//! Values that options of several commands take.

use std::ffi::OsString;
use std::path::PathBuf;

use ckload::{ByteSize, Select};
use clap::ValueEnum;
use clap::builder::{OsStringValueParser, TypedValueParser};

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

/// A name that need not be UTF-8.
pub(super) fn timeline_parser() -> impl TypedValueParser<Value = TimelineFile> {
    OsStringValueParser::new().try_map(parse_timeline)
}

/// What is written follows from the file's name.
fn parse_timeline(name: OsString) -> Result<TimelineFile, &'static str> {
    let path = PathBuf::from(name);
    let format = match path.extension().and_then(|extension| extension.to_str()) {
        Some("html" | "htm") => TimelineFormat::Html,
        Some("json") => TimelineFormat::Json,
        _ => {
            return Err("expected a name that ends in .html, for a page, or in .json, for a trace");
        }
    };
    Ok(TimelineFile { path, format })
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn a_timeline_may_have_any_name_that_says_what_it_is() {
        let file = parse_timeline(OsString::from_vec(b"caf\xe9.html".to_vec())).unwrap();
        assert_eq!(file.format, TimelineFormat::Html);
        assert_eq!(file.path.into_os_string().into_vec(), b"caf\xe9.html");
        assert!(parse_timeline(OsString::from_vec(b"caf.\xe9".to_vec())).is_err());
    }
}
