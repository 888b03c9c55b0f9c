//! `ckload demo`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use super::reading::ThreadArgs;
use super::values::SizeArg;
use crate::cli::options::{DemoOptions, Reading};

#[derive(clap::Args, Debug)]
pub(super) struct DemoArgs {
    /// Measured rounds, after one that warms up
    #[arg(long, value_name = "N", default_value = "5")]
    repeat: NonZeroUsize,

    #[command(flatten)]
    threads: ThreadArgs,

    /// Folder that keeps the checkpoint [default: ckload in the cache folder of the user]
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,

    /// Size of the model
    #[arg(long, value_enum, value_name = "SIZE", default_value_t)]
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
