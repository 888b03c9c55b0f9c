//! How a command line is spelled. Each command has a file; `help` is how help looks.

mod bench;
mod demo;
mod help;
mod load;
mod meta;
mod mistakes;
mod output;
mod reading;
mod synth;
#[cfg(test)]
mod tests;
mod values;
mod verify;

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand, ValueHint};

use self::bench::BenchArgs;
use self::demo::DemoArgs;
pub(crate) use self::help::Example;
use self::help::group;
use self::load::LoadArgs;
use self::meta::{CompletionsArgs, ManArgs};
use self::output::OutputArgs;
use self::synth::SynthArgs;
use self::verify::VerifyArgs;
use super::options::{Action, Invocation};

/// The version, and whether times are worth measuring with this build.
const LONG_VERSION: &str = if cfg!(debug_assertions) {
    concat!(
        env!("CARGO_PKG_VERSION"),
        "\ndebug build: not for measuring"
    )
} else {
    concat!(env!("CARGO_PKG_VERSION"), "\noptimised build")
};

const MORE_HELP: &str =
    "`ckload --help` has all options and examples, `ckload help <COMMAND>` those of a command.";

const NOTES: &str = "\
A model that is named like a command is loaded by `ckload ./demo` or `ckload -- demo`.
Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.";

/// Loads model checkpoints in parallel into recycled buffers, and says what pooling saved
///
/// Without a command, every tensor of each MODEL (safetensors, GGUF, PyTorch, NumPy) is streamed through one pool of buffers; a report
/// says how fast that was, what allocation cost, and what the pool saved.
#[derive(Debug, Parser)]
#[command(
    name = "ckload",
    version,
    long_version = LONG_VERSION,
    subcommand_negates_reqs = true,
    arg_required_else_help = true,
    disable_help_flag = true,
    disable_version_flag = true,
    override_usage = "ckload [OPTIONS] <MODEL>...\n       ckload <COMMAND>",
    after_help = MORE_HELP,
    after_long_help = help::examples_and(load::EXAMPLES, NOTES),
    styles = help::STYLES,
    max_term_width = 100
)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    load: LoadArgs,

    #[command(flatten)]
    output: OutputArgs,

    /// Print the version; --version says as well how it was built
    #[arg(short = 'V', long, action = ArgAction::Version, hide_short_help = true, help_heading = group::OUTPUT)]
    version: Option<bool>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Load a GPT-2-shaped checkpoint in several ways, and compare them
    ///
    /// The checkpoint (548 MB) is written once, kept in the cache folder of the user, and used again. The comparison needs up to 1.3 GB
    /// of memory.
    Demo(DemoArgs),
    /// Measure every way of loading, side by side
    ///
    /// Each round runs every way once, in an order drawn anew, with the page cache warm and then cold: before each load the kernel is
    /// asked what is cached. The ways that keep all tensors in memory need up to three times the checkpoint's size; where that is not to
    /// be had they are left out.
    Bench(Box<BenchArgs>),
    /// List tensors, types, shapes and files; reads only the headers
    Inspect {
        /// File, folder, index, quoted pattern, or org/name in the cache of Hugging Face
        #[arg(value_hint = ValueHint::AnyPath)]
        model: PathBuf,
    },
    /// Hash every file and tensor, and name what is damaged
    ///
    /// Every byte is read, and the SHA-256 of each file and tensor printed. A file that a Hugging Face cache has named by its digest is
    /// compared with that, and all with what --against names. What differs is named, with exit status 1.
    Verify(VerifyArgs),
    /// Write a checkpoint with a known model's names and shapes, and random values
    Synth(SynthArgs),
    /// Print a shell's completion script
    Completions(CompletionsArgs),
    /// Write the manual's pages into a folder, or print the main one
    Man(ManArgs),
}

/// The examples of each command.
const EXAMPLES: &[(&str, &[Example])] = &[
    ("demo", demo::EXAMPLES),
    ("bench", bench::EXAMPLES),
    ("inspect", INSPECT_EXAMPLES),
    ("verify", verify::EXAMPLES),
    ("synth", synth::EXAMPLES),
    ("completions", meta::COMPLETIONS_EXAMPLES),
    ("man", meta::MAN_EXAMPLES),
];

const INSPECT_EXAMPLES: &[Example] = &[
    Example::new("ckload inspect model.safetensors", "a table of the tensors"),
    Example::new(
        "ckload inspect openai-community/gpt2",
        "in the local cache of Hugging Face",
    ),
    Example::new(
        "ckload inspect --json models/llama",
        "names, types, shapes, offsets, metadata",
    ),
];

/// The parser, as help, completions and the manual see it.
pub(crate) fn command() -> clap::Command {
    EXAMPLES
        .iter()
        .fold(Args::command(), |command, (name, examples)| {
            command.mut_subcommand(name, |command| command.after_help(help::examples(examples)))
        })
}

/// The examples of the command `name`, or of a load.
pub(crate) fn examples_of(name: &str) -> &'static [Example] {
    let found = EXAMPLES.iter().find(|(command, _)| *command == name);
    found.map_or(load::EXAMPLES, |(_, examples)| examples)
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
        let mut command = command();
        let matches = command.try_get_matches_from_mut(arguments)?;
        mistakes::refuse_load_options_before_a_command(&mut command, &matches)?;
        let args = Args::from_arg_matches(&matches)?;
        let is_json = args.output.is_json();
        Ok(Self {
            action: match args.command {
                None => {
                    mistakes::refuse_a_mistyped_command(&mut command, args.load.models())?;
                    let options = args.load.resolve();
                    let invalid = |error| command.error(ErrorKind::ValueValidation, error);
                    Action::Load(Box::new(options.map_err(invalid)?))
                }
                Some(Command::Bench(bench)) => {
                    let command = command.find_subcommand_mut("bench");
                    let command = command.expect("it is one of the commands");
                    let invalid = |error| command.error(ErrorKind::ValueValidation, error);
                    Action::Bench(Box::new(bench.resolve().map_err(invalid)?))
                }
                Some(Command::Demo(demo)) => Action::Demo(demo.into()),
                Some(Command::Inspect { model }) => Action::Inspect { model },
                Some(Command::Synth(synth)) => Action::Synth(synth.into()),
                Some(Command::Verify(verify)) => Action::Verify(verify.into()),
                Some(Command::Completions(_)) if is_json => {
                    return Err(mistakes::refused(&mut command, "--json", "completions"));
                }
                Some(Command::Completions(CompletionsArgs { shell })) => Action::Completions(shell),
                Some(Command::Man(_)) if is_json => {
                    return Err(mistakes::refused(&mut command, "--json", "man"));
                }
                Some(Command::Man(ManArgs { folder })) => Action::Man { folder },
            },
            output: args.output.into(),
        })
    }
}
