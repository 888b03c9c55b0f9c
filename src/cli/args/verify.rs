//! `ckload verify`.

use std::path::PathBuf;

use ckload::ByteSize;
use clap::ValueHint;

use super::help::{Example, group};
use super::reading::ReadArgs;
use super::values::parse_budget;
use crate::cli::options::VerifyOptions;

pub(super) const EXAMPLES: &[Example] = &[
    Example::new(
        "ckload verify model.safetensors",
        "the SHA-256 of each file",
    ),
    Example::new(
        "ckload verify --json gpt2 > digests.json",
        "record those of tensors as well",
    ),
    Example::new(
        "ckload verify --against digests.json gpt2",
        "name what has changed since",
    ),
    Example::new(
        "ckload verify --finite -v model.safetensors",
        "NaN and infinities of each tensor",
    ),
];

#[derive(clap::Args, Debug)]
pub(super) struct VerifyArgs {
    /// File, folder, index, quoted pattern, or org/name in the cache of Hugging Face
    #[arg(value_hint = ValueHint::AnyPath)]
    model: PathBuf,

    /// Compare with what `ckload verify --json` or `sha256sum` printed
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = group::CHECKING)]
    against: Option<PathBuf>,

    /// Count the NaN and the infinities of float tensors; there are to be none
    #[arg(long, help_heading = group::CHECKING)]
    finite: bool,

    #[command(flatten)]
    reading: ReadArgs,

    /// Memory for what is being read and hashed, such as 64MiB [default: two more reads than threads]
    #[arg(
        long,
        value_name = "SIZE",
        value_parser = parse_budget,
        hide_short_help = true,
        help_heading = group::READING
    )]
    budget: Option<ByteSize>,

    /// Show the tensors as well
    #[arg(short, long, conflicts_with = "quiet", help_heading = group::OUTPUT)]
    verbose: bool,
}

impl From<VerifyArgs> for VerifyOptions {
    fn from(args: VerifyArgs) -> Self {
        Self {
            model: args.model,
            against: args.against,
            finite: args.finite,
            reading: args.reading.into(),
            budget: args.budget,
            verbose: args.verbose,
        }
    }
}
