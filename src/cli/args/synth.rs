//! `ckload synth`.

use std::path::PathBuf;

use ckload::synth::IfExists;
use clap::Subcommand;

use super::values::SizeArg;
use crate::cli::options::{SynthModel, SynthOptions};

#[derive(Debug, Subcommand)]
pub(super) enum SynthArgs {
    /// The 160 float32 tensors of the published GPT-2 checkpoint, 548 MB in one file
    Gpt2(WriteArgs),
    /// 16 blocks of Llama 3.2 3B in bfloat16, 4.0 GB in a folder of 4 files with an index
    Llama(WriteArgs),
    /// 100,100 small tensors of a mixture of experts, 0.8 GB in a folder of 160 files with an index
    Moe(WriteArgs),
}

#[derive(clap::Args, Debug)]
pub(super) struct WriteArgs {
    /// File or folder to write
    out: PathBuf,

    /// Decides the random values
    #[arg(long, value_name = "N", default_value_t)]
    seed: u64,

    /// Replace OUT if it is there already; in a folder, the files of the same names
    #[arg(long)]
    force: bool,

    /// Size of the model
    #[arg(long, value_enum, value_name = "SIZE", default_value_t)]
    size: SizeArg,
}

impl From<SynthArgs> for SynthOptions {
    fn from(args: SynthArgs) -> Self {
        let (model, args) = match args {
            SynthArgs::Gpt2(args) => (SynthModel::Gpt2, args),
            SynthArgs::Llama(args) => (SynthModel::Llama, args),
            SynthArgs::Moe(args) => (SynthModel::Moe, args),
        };
        Self {
            model,
            size: args.size.into(),
            out: args.out,
            seed: args.seed,
            if_exists: if args.force {
                IfExists::Replace
            } else {
                IfExists::Refuse
            },
        }
    }
}
