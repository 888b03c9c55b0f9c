//! Values that options of several commands take.

use ckload::{ByteSize, Select};
use clap::ValueEnum;

use crate::cli::options::ModelSize;

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
