//! `ckload verify`.

use std::path::PathBuf;

use ckload::ByteSize;

use super::reading::ReadArgs;
use super::values::parse_budget;
use crate::cli::options::VerifyOptions;

#[derive(clap::Args, Debug)]
pub(super) struct VerifyArgs {
    /// A checkpoint: a file, a folder, an index, a quoted pattern, or org/name in the cache of Hugging Face
    model: PathBuf,

    /// Compare with what `ckload verify --json` printed, or with a list of files as `sha256sum` prints it
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,

    /// Count the NaN and the infinities of float tensors; there are to be none
    #[arg(long)]
    finite: bool,

    #[command(flatten)]
    reading: ReadArgs,

    /// Memory for what is being read and hashed, such as 64MiB [default: two more reads than threads]
    #[arg(long, value_name = "SIZE", value_parser = parse_budget)]
    budget: Option<ByteSize>,

    /// Show the tensors as well
    #[arg(short, long, conflicts_with = "quiet")]
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
