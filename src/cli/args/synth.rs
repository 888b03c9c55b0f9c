//! `ckload synth`.

use std::path::PathBuf;

use ckload::synth::IfExists;
use clap::{ValueEnum, ValueHint};

use super::help::{Example, group};
use super::values::SizeArg;
use crate::cli::options::{SynthModel, SynthOptions};

pub(super) const EXAMPLES: &[Example] = &[
    Example::new("ckload synth gpt2 gpt2.safetensors", "one file"),
    Example::new(
        "ckload synth llama models/llama",
        "a folder of four files with an index",
    ),
    Example::new("ckload synth moe --size tiny moe", "about 1 MB, for tests"),
];

#[derive(clap::Args, Debug)]
pub(super) struct SynthArgs {
    /// The model whose names and shapes the tensors have
    #[arg(value_enum)]
    model: SynthModelArg,

    /// File or folder to write
    #[arg(value_hint = ValueHint::AnyPath)]
    out: PathBuf,

    /// Decides the random values
    #[arg(long, value_name = "N", default_value_t, help_heading = group::WRITING)]
    seed: u64,

    /// Replace OUT if it is there already; in a folder, the files of the same names
    #[arg(long, help_heading = group::WRITING)]
    force: bool,

    /// Size of the model
    #[arg(long, value_enum, value_name = "SIZE", default_value_t, help_heading = group::WRITING)]
    size: SizeArg,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SynthModelArg {
    /// The 160 float32 tensors of the published GPT-2 checkpoint, 548 MB in one file
    Gpt2,
    /// 16 blocks of Llama 3.2 3B in bfloat16, 4.0 GB in a folder of 4 files with an index
    Llama,
    /// 100,100 small tensors of a mixture of experts, 0.8 GB in a folder of 160 files with an index
    Moe,
}

impl From<SynthArgs> for SynthOptions {
    fn from(args: SynthArgs) -> Self {
        Self {
            model: match args.model {
                SynthModelArg::Gpt2 => SynthModel::Gpt2,
                SynthModelArg::Llama => SynthModel::Llama,
                SynthModelArg::Moe => SynthModel::Moe,
            },
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
