//! How a command line is spelled: the only module that sees the argument parser.

use std::error::Error;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use ckload::synth::IfExists;
use ckload::{ByteSize, Io, Select, Shard};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use super::options::{
    Action, DemoOptions, Invocation, LoadOptions, ModelSize, OutputOptions, Pin, Reading, Sides,
    SynthModel, SynthOptions, VerifyOptions,
};

/// Rounds of a comparison, unless `--repeat` says otherwise: enough for a median.
const COMPARED_ROUNDS: NonZeroUsize = NonZeroUsize::new(5).unwrap();

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
struct LoadArgs {
    /// Checkpoints: files, folders, indexes, quoted patterns, or org/name in the cache of Hugging Face
    ///
    /// A pattern, such as 'models/*.safetensors', is one checkpoint. The cache is looked for as huggingface_hub does (HF_HUB_CACHE,
    /// HF_HOME); org/name@revision means another revision than main. Nothing is downloaded.
    #[arg(required = true)]
    model: Vec<PathBuf>,

    /// Keep every tensor in memory until the model is loaded, instead of streaming them
    #[arg(long)]
    resident: bool,

    /// Load each model N times, one model after the other [default: 1, or 5 with --compare]
    #[arg(long, value_name = "N")]
    repeat: Option<NonZeroUsize>,

    /// Load without the pool as well, in turns with it, to measure what pooling saves
    ///
    /// With --resident this takes the memory of two models: what the pool keeps, and the load without it.
    #[arg(long, conflicts_with = "no_pool")]
    compare: bool,

    /// Load only without the pool: fresh memory for each buffer of each load
    #[arg(long, conflicts_with = "pin")]
    no_pool: bool,

    #[command(flatten)]
    reading: ReadArgs,

    /// Memory that a stream may hold, such as 256MiB [default: enough for the largest tensor and to read ahead]
    #[arg(long, value_name = "SIZE", value_parser = parse_budget, conflicts_with = "resident")]
    budget: Option<ByteSize>,

    /// Lock the memory of the pool in RAM: auto where it is cheap and allowed, always fails where it is not allowed
    #[arg(long, value_enum, value_name = "WHEN", default_value_t)]
    pin: PinArg,

    /// Load only tensors whose names match; may be given several times
    #[arg(long, value_name = "GLOB", value_parser = parse_glob)]
    include: Vec<String>,

    /// Leave out tensors whose names match; may be given several times
    #[arg(long, value_name = "GLOB", value_parser = parse_glob)]
    exclude: Vec<String>,

    /// Hash every tensor (SHA-256) on the thread that has just read it, and show what that costs
    #[arg(long, conflicts_with = "dry_run")]
    verify: bool,

    /// Compare with the digests of tensors that `ckload verify --json` printed; exit status 1 if they differ
    #[arg(long, value_name = "FILE", requires = "verify")]
    against: Option<PathBuf>,

    /// Load only one rank's part of each tensor, such as 0:3/8: of 8 equal parts along dimension 0 the one of number 3
    ///
    /// Without a glob it is meant for all tensors that have the dimension, and no other --shard names; those of fewer dimensions stay
    /// whole. With one, such as '*.o_proj.weight=1:3/8', for those whose names match; of several the first decides, and '*norm*=0:0/1'
    /// keeps tensors whole. A tensor that does not divide into equal parts is an error. May be given several times.
    #[arg(long, value_name = "[GLOB=]DIM:RANK/WORLD", value_parser = parse_shard)]
    shard: Vec<ShardArg>,

    /// Show what a load would read and where it would go, without loading
    #[arg(long, conflicts_with_all = ["compare", "repeat"])]
    dry_run: bool,

    /// Show the settings and each run as well
    #[arg(short, long, conflicts_with = "quiet")]
    verbose: bool,
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

#[derive(clap::Args, Debug)]
struct ReadArgs {
    /// How files are read
    #[arg(long, value_name = "HOW", default_value = "auto", value_parser = io_parser())]
    io: Io,

    #[command(flatten)]
    threads: ThreadArgs,

    /// The most that is read at a time, such as 1MiB [default: 4 MiB, over a network 8 MiB, less for small models]
    #[arg(long, value_name = "SIZE", value_parser = parse_read_size)]
    read_size: Option<ByteSize>,

    /// Drop from the page cache what the load brought there; what was there before stays
    #[arg(long)]
    drop_cache: bool,
}

#[derive(clap::Args, Debug)]
struct VerifyArgs {
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

#[derive(clap::Args, Debug)]
struct ThreadArgs {
    /// Threads that read [default: one for each core; once a disk is asked, 8, or over a network 32, if these are more]
    #[arg(short = 'j', long, value_name = "N")]
    threads: Option<NonZeroUsize>,
}

#[derive(clap::Args, Debug)]
struct DemoArgs {
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

#[derive(Debug, Subcommand)]
enum SynthArgs {
    /// The 160 float32 tensors of the published GPT-2 checkpoint, 548 MB in one file
    Gpt2(WriteArgs),
    /// 16 blocks of Llama 3.2 3B in bfloat16, 4.0 GB in a folder of 4 files with an index
    Llama(WriteArgs),
    /// 100,100 small tensors of a mixture of experts, 0.8 GB in a folder of 160 files with an index
    Moe(WriteArgs),
}

#[derive(clap::Args, Debug)]
struct WriteArgs {
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

/// A part of the tensors that a glob matches, or of all others.
#[derive(Clone, Debug)]
struct ShardArg {
    pattern: Option<String>,
    shard: Shard,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum ColorArg {
    #[default]
    Auto,
    Always,
    Never,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum PinArg {
    #[default]
    Auto,
    Always,
    Never,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum SizeArg {
    /// About 1 MB: for tests
    Tiny,
    /// The model as described
    #[default]
    Small,
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

impl LoadArgs {
    fn resolve(self) -> Result<LoadOptions, Box<dyn Error>> {
        if self.against.is_some() && self.model.len() > 1 {
            return Err("--against has the digests of one model; load one at a time".into());
        }
        if self.against.is_some() && !self.shard.is_empty() {
            return Err("--against has the digests of whole tensors, --shard loads parts".into());
        }
        let mut select = Select::all();
        for glob in &self.include {
            select = select.include(glob)?;
        }
        for glob in &self.exclude {
            select = select.exclude(glob)?;
        }
        if self
            .shard
            .iter()
            .filter(|arg| arg.pattern.is_none())
            .count()
            > 1
        {
            return Err("--shard is given twice without a glob: which is for what?".into());
        }
        for ShardArg { pattern, shard } in &self.shard {
            select = match pattern {
                Some(glob) => select.shard(glob, *shard)?,
                None => select.shard_rest(*shard)?,
            };
        }
        let sides = match (self.compare, self.no_pool) {
            (true, _) => Sides::Compare,
            (false, true) => Sides::WithoutPool,
            (false, false) => Sides::WithPool,
        };
        let usual_rounds = if self.compare {
            COMPARED_ROUNDS
        } else {
            NonZeroUsize::MIN
        };
        Ok(LoadOptions {
            models: self.model,
            select,
            resident: self.resident,
            rounds: self.repeat.unwrap_or(usual_rounds),
            sides,
            reading: self.reading.into(),
            budget: self.budget,
            pin: match self.pin {
                PinArg::Auto => Pin::Auto,
                PinArg::Always => Pin::Always,
                PinArg::Never => Pin::Never,
            },
            verify: self.verify,
            against: self.against,
            verbose: self.verbose,
            dry_run: self.dry_run,
        })
    }
}

impl From<ReadArgs> for Reading {
    fn from(args: ReadArgs) -> Self {
        Self {
            io: args.io,
            threads: args.threads.threads,
            read_size: args.read_size,
            drop_cache: args.drop_cache,
        }
    }
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

impl From<SizeArg> for ModelSize {
    fn from(size: SizeArg) -> Self {
        match size {
            SizeArg::Tiny => Self::Tiny,
            SizeArg::Small => Self::Small,
        }
    }
}

fn io_parser() -> impl TypedValueParser<Value = Io> {
    PossibleValuesParser::new(["auto", "buffered", "direct", "mmap"])
        .try_map(|name| name.parse::<Io>())
}

fn parse_budget(text: &str) -> Result<ByteSize, String> {
    match parse_size(text)? {
        ByteSize(0) => Err("a stream needs memory".into()),
        size => Ok(size),
    }
}

fn parse_read_size(text: &str) -> Result<ByteSize, String> {
    match parse_size(text)? {
        size if size < ByteSize::kib(4) => {
            Err("4KiB is the least, since pages are as large".into())
        }
        size => Ok(size),
    }
}

fn parse_size(text: &str) -> Result<ByteSize, &'static str> {
    text.parse::<ByteSize>()
        .map_err(|_| "expected a number of bytes, or a number and a unit such as 256MiB or 1GB")
}

fn parse_shard(text: &str) -> Result<ShardArg, Box<dyn Error + Send + Sync>> {
    // A glob may hold the sign as well.
    let (pattern, shard) = match text.rsplit_once('=') {
        Some((glob, shard)) => (Some(parse_glob(glob)?), shard),
        None => (None, text),
    };
    let shard = shard.parse()?;
    Select::all().shard_rest(shard)?;
    Ok(ShardArg { pattern, shard })
}

fn parse_glob(text: &str) -> Result<String, ckload::Error> {
    Select::all().include(text).map(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Invocation, clap::Error> {
        Invocation::from_command_line(line.split(' '))
    }

    fn load(line: &str) -> LoadOptions {
        match parse(line).unwrap().action {
            Action::Load(options) => *options,
            other => panic!("not a load: {other:?}"),
        }
    }

    #[test]
    fn the_parser_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn models_are_streamed_once_through_the_pool_by_default() {
        let options = load("ckload a b");
        assert_eq!(options.models, [PathBuf::from("a"), PathBuf::from("b")]);
        assert!(!options.resident && !options.dry_run && !options.verbose);
        assert_eq!(options.rounds.get(), 1);
        assert_eq!(options.sides, Sides::WithPool);
        assert_eq!(options.pin, Pin::Auto);
        assert_eq!(options.reading, Reading::default());
        assert!(options.budget.is_none());
    }

    #[test]
    fn a_comparison_takes_five_rounds_unless_told() {
        assert_eq!(load("ckload --compare m").rounds.get(), 5);
        assert_eq!(load("ckload --compare --repeat 9 m").rounds.get(), 9);
        assert_eq!(load("ckload --repeat 3 m").rounds.get(), 3);
    }

    #[test]
    fn budgets_are_sizes_with_units() {
        assert_eq!(
            load("ckload --budget 256MiB m").budget,
            Some(ByteSize::mib(256))
        );
        assert_eq!(
            load("ckload --budget 1000000 m").budget,
            Some(ByteSize::b(1_000_000))
        );
        for wrong in ["0", "much", "-1", "12XB"] {
            let error = parse(&format!("ckload --budget={wrong} m")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ValueValidation, "{wrong}");
        }
    }

    #[test]
    fn a_shard_is_for_the_tensors_of_a_glob_or_for_all_others() {
        let select = load("ckload --shard 0:1/2 --shard w*=1:0/2 --shard a=b=1:0/2 m").select;
        let shown = format!("{select:?}");
        assert!(shown.contains("rest: Some(Shard { dim: 0, rank: 1, world_size: 2 })"));
        assert!(
            shown.contains("\"a=b\"") && shown.contains("\"w*\""),
            "{shown}"
        );
    }

    #[test]
    fn a_model_may_be_named_like_a_command() {
        assert_eq!(load("ckload -- demo").models, [PathBuf::from("demo")]);
        assert_eq!(load("ckload ./demo").models, [PathBuf::from("./demo")]);
    }

    #[test]
    fn output_options_stand_before_or_after_a_command() {
        for line in ["ckload --json inspect m", "ckload inspect m --json"] {
            let invocation = parse(line).unwrap();
            assert!(invocation.output.json, "{line}");
            assert!(
                matches!(invocation.action, Action::Inspect { .. }),
                "{line}"
            );
        }
    }

    #[test]
    fn options_that_would_have_no_effect_are_refused() {
        for line in [
            "ckload --resident demo",
            "ckload -j 2 inspect m",
            "ckload --compare --no-pool m",
            "ckload --no-pool --pin always m",
            "ckload --resident --budget 1GiB m",
            "ckload --dry-run --compare m",
            "ckload --dry-run --verify m",
            "ckload --verify verify m",
            "ckload -q -v m",
        ] {
            assert_eq!(
                parse(line).unwrap_err().kind(),
                ErrorKind::ArgumentConflict,
                "{line}"
            );
        }
    }

    #[test]
    fn wrong_values_are_refused() {
        for line in [
            "ckload --repeat 0 m",
            "ckload -j 0 m",
            "ckload --include [ m",
            "ckload --shard 1 m",
            "ckload --shard 0:2/2 m",
            "ckload --shard [=0:1/2 m",
            "ckload --shard 0:0/2 --shard 1:0/2 m",
            "ckload --io io_uring m",
            "ckload --read-size 4095 m",
            "ckload --pin maybe m",
            "ckload --against list m",
            "ckload --verify --against list m n",
            "ckload --color pink m",
            "ckload synth mamba out",
            "ckload",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
