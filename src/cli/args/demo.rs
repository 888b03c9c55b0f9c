//! `ckload demo`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::ValueHint;

use super::help::{Example, group};
use super::reading::ThreadArgs;
use super::values::SizeArg;
use crate::cli::options::{DemoOptions, Reading};

pub(super) const EXAMPLES: &[Example] = &[
    Example::new("ckload demo", "GPT-2's shapes, 548 MB"),
    Example::new(
        "ckload demo --size tiny",
        "about 1 MB: whether it works at all",
    ),
    Example::new(
        "ckload demo --repeat 20 --json",
        "more rounds; all figures as JSON",
    ),
];

#[derive(clap::Args, Debug)]
pub(super) struct DemoArgs {
    /// Measured rounds, after one that warms up
    #[arg(long, value_name = "N", default_value = "5", help_heading = group::MEASURING)]
    repeat: NonZeroUsize,

    #[command(flatten)]
    threads: ThreadArgs,

    /// Folder that keeps the checkpoint [default: ckload in the cache folder of the user]
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath, help_heading = group::MEASURING)]
    dir: Option<PathBuf>,

    /// Size of the model
    #[arg(long, value_enum, value_name = "SIZE", default_value_t, help_heading = group::MEASURING)]
    size: SizeArg,
}

impl From<DemoArgs> for DemoOptions {
    fn from(args: DemoArgs) -> Self {
        Self {
            size: args.size.into(),
            folder: args.dir,
            rounds: args.repeat,
            reading: Reading {
                threads: args.threads.threads,
                ..Reading::default()
            },
        }
    }
}
