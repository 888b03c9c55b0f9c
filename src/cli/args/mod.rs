//! How a command line is spelled: the only module that sees the argument parser. Each command has a file.

mod bench;
mod demo;
mod load;
mod reading;
mod synth;
#[cfg(test)]
mod tests;
mod values;
mod verify;

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use self::bench::BenchArgs;
use self::demo::DemoArgs;
use self::load::LoadArgs;
use self::synth::SynthArgs;
use self::verify::VerifyArgs;
use super::options::{Action, Invocation, OutputOptions};

/// Loads model checkpoints in parallel into recycled buffers, and says what allocation cost and what pooling saved.
///
/// Without a command, every tensor of each MODEL is streamed through one pool of buffers, and a report follows.
#[derive(Debug, Parser)]
#[command(
    name = "ckload",
    version,
    subcommand_negates_reqs = true,
    arg_required_else_help = true,
    override_usage = "ckload [OPTIONS] <MODEL>...\n       ckload <COMMAND>",
    after_help = "A model whose name is that of a command is loaded by `ckload ./demo` or `ckload -- demo`.\n\
        Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.",
    max_term_width = 100
)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a GPT-2-shaped checkpoint once, load it in several ways, and compare them
    ///
    /// The checkpoint (548 MB) is kept in the cache folder of the user and used again. The comparison needs up to
    /// 1.3 GB of memory.
    Demo(DemoArgs),
    /// Measure every way of loading a checkpoint, side by side and beside the limit of this machine
    ///
    /// Each round runs every way once, in an order that rotates, with the page cache warm and then cold: before each load the kernel is
    /// asked what is cached. The ways that keep all tensors in memory need up to three times the checkpoint's size; where that is not to
    /// be had they are left out.
    Bench(Box<BenchArgs>),
    /// List the tensors, types, shapes and files of a checkpoint; reads only the headers
    Inspect {
        /// A checkpoint: a file, a folder, an index, a quoted pattern, or org/name in the cache of Hugging Face
        model: PathBuf,
    },
    /// Write a checkpoint with the tensor names and shapes of a known model and random values
    Synth {
        #[command(subcommand)]
        model: SynthArgs,
    },
    /// Read every byte and print the SHA-256 of each file and tensor; names what is damaged, with exit status 1
    ///
    /// A file that a Hugging Face cache has named by its digest is compared with that. With --json it prints what --against takes.
    Verify(VerifyArgs),
}

#[derive(clap::Args, Debug)]
struct OutputArgs {
    /// Print the result as JSON, errors included
    #[arg(long, global = true)]
    json: bool,

    /// Print nothing but errors
    #[arg(short, long, global = true)]
    quiet: bool,

    /// When to use colors
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t)]
    color: ColorArg,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum ColorArg {
    #[default]
    Auto,
    Always,
    Never,
}

impl Invocation {
    /// Understands the command line of this process, or explains what is wrong with it and exits with status 2.
    pub(crate) fn parse_or_exit() -> Self {
        Self::from_command_line(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    fn from_command_line<I, T>(arguments: I) -> Result<Self, clap::Error>
    where
        I: IntoIterator<Item = T>,
        T: Into<std::ffi::OsString> + Clone,
    {
        let mut command = Args::command();
        let matches = command.try_get_matches_from_mut(arguments)?;
        refuse_load_options_before_a_command(&mut command, &matches)?;
        let args = Args::from_arg_matches(&matches)?;
        Ok(Self {
            action: match args.command {
                None => Action::Load(Box::new(
                    args.load
                        .resolve()
                        .map_err(|error| command.error(ErrorKind::ValueValidation, error))?,
                )),
                Some(Command::Bench(bench)) => Action::Bench(Box::new(
                    bench
                        .resolve()
                        .map_err(|error| command.error(ErrorKind::ValueValidation, error))?,
                )),
                Some(Command::Demo(demo)) => Action::Demo(demo.into()),
                Some(Command::Inspect { model }) => Action::Inspect { model },
                Some(Command::Synth { model }) => Action::Synth(model.into()),
                Some(Command::Verify(verify)) => Action::Verify(verify.into()),
            },
            output: args.output.into(),
        })
    }
}

/// `ckload --resident demo` is a mistake, not a demonstration: the option would have no effect.
fn refuse_load_options_before_a_command(
    command: &mut clap::Command,
    matches: &ArgMatches,
) -> Result<(), clap::Error> {
    let Some(name) = matches.subcommand_name() else {
        return Ok(());
    };
    let load_options = <LoadArgs as clap::Args>::augment_args(clap::Command::new("load"));
    let given = load_options.get_arguments().find(|argument| {
        matches.value_source(argument.get_id().as_str()) == Some(ValueSource::CommandLine)
    });
    match given {
        None => Ok(()),
        Some(argument) => {
            let option = argument.get_long().unwrap_or(argument.get_id().as_str());
            let message = format!("'--{option}' cannot be used with the command '{name}'");
            Err(command.error(ErrorKind::ArgumentConflict, message))
        }
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
