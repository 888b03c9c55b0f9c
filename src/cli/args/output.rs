//! How results are shown: options of every command.

use clap::{ArgAction, ValueEnum};

use super::help::group;
use crate::cli::options::OutputOptions;

#[derive(clap::Args, Debug)]
#[command(next_help_heading = group::OUTPUT)]
pub(super) struct OutputArgs {
    /// Print the result as JSON, errors included
    #[arg(long, global = true)]
    json: bool,

    /// Print nothing but errors
    #[arg(short, long, global = true)]
    quiet: bool,

    /// When to use colors; NO_COLOR counts
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        value_enum,
        value_name = "WHEN",
        default_value_t
    )]
    color: ColorArg,

    /// Print help: with -h what is used often, with --help everything
    #[arg(short, long, global = true, action = ArgAction::Help)]
    help: Option<bool>,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum ColorArg {
    #[default]
    Auto,
    Always,
    Never,
}

impl OutputArgs {
    pub(super) fn is_json(&self) -> bool {
        self.json
    }
}

impl From<OutputArgs> for OutputOptions {
    fn from(args: OutputArgs) -> Self {
        Self {
            json: args.json,
            quiet: args.quiet,
            color: match args.color {
                ColorArg::Auto => anstream::ColorChoice::Auto,
                ColorArg::Always => anstream::ColorChoice::Always,
                ColorArg::Never => anstream::ColorChoice::Never,
            },
        }
    }
}
