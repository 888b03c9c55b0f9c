//! A load: the command line without a command.

use std::error::Error;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use ckload::{ByteSize, Select, Shard};
use clap::{ValueEnum, ValueHint};

use super::help::{Example, group};
use super::reading::ReadArgs;
use super::values::{parse_budget, parse_glob, timeline_parser};
use crate::cli::options::{LoadOptions, NamePattern, Pin, Sides, TimelineFile};

/// Rounds of a comparison, unless `--repeat` says otherwise: enough for a median.
const COMPARED_ROUNDS: NonZeroUsize = NonZeroUsize::new(5).unwrap();

pub(super) const EXAMPLES: &[Example] = &[
    Example::new(
        "ckload model.safetensors",
        "stream all tensors through the pool",
    ),
    Example::new(
        "ckload --resident --compare models/gpt2",
        "all in memory; without the pool too",
    ),
    Example::new(
        "ckload openai-community/gpt2",
        "from the cache of Hugging Face",
    ),
    Example::new("ckload a.gguf b.gguf", "one by one through one pool"),
    Example::new(
        "ckload --budget 256MiB --json model.gguf",
        "in 256 MiB; the report as JSON",
    ),
    Example::new(
        "ckload --include 'h.*.attn.*' models/gpt2",
        "only these tensors",
    ),
    Example::new(
        "ckload --shard 0:3/8 models/llama",
        "one of 8 ranks' part of each tensor",
    ),
    Example::new(
        "ckload --timeline load.html model.gguf",
        "a page: who did what when",
    ),
    Example::new(
        "ckload --dry-run -v models/llama",
        "what would be read, and to where",
    ),
];

#[derive(clap::Args, Debug)]
pub(super) struct LoadArgs {
    /// File, folder, index, quoted pattern, or org/name in the cache of Hugging Face
    ///
    /// A pattern, such as 'models/*.safetensors', is one checkpoint. The cache is looked for as huggingface_hub does (HF_HUB_CACHE,
    /// HF_HOME); org/name@revision means another revision than main. Nothing is downloaded.
    #[arg(required = true, value_hint = ValueHint::AnyPath)]
    model: Vec<PathBuf>,

    /// Load only tensors whose names match; may be repeated
    #[arg(long, value_name = "GLOB", value_parser = parse_glob, help_heading = group::SELECTION)]
    include: Vec<String>,

    /// Leave out tensors whose names match; may be repeated
    #[arg(long, value_name = "GLOB", value_parser = parse_glob, help_heading = group::SELECTION)]
    exclude: Vec<String>,

    /// Load only one rank's part of each tensor, such as 0:3/8; may be repeated
    ///
    /// 0:3/8 is, of 8 equal parts along dimension 0, the one of number 3. Without a glob it is meant for all tensors that have the
    /// dimension and that no other --shard names; those of fewer dimensions stay whole. With one, such as '*.o_proj.weight=1:3/8', for
    /// those whose names match; of several the first decides, and '*norm*=0:0/1' keeps tensors whole. A tensor that does not divide into
    /// equal parts is an error.
    #[arg(
        long,
        value_name = "[GLOB=]DIM:RANK/WORLD",
        value_parser = parse_shard,
        hide_short_help = true,
        help_heading = group::SELECTION
    )]
    shard: Vec<ShardArg>,

    /// Keep every tensor of a model in memory, instead of streaming them
    #[arg(long, help_heading = group::MEMORY)]
    resident: bool,

    /// Memory that a stream may hold, such as 256MiB
    ///
    /// Default: enough for the largest tensor and to read ahead.
    #[arg(
        long,
        value_name = "SIZE",
        value_parser = parse_budget,
        conflicts_with = "resident",
        help_heading = group::MEMORY
    )]
    budget: Option<ByteSize>,

    /// Lock the pool's memory in RAM: auto where it is cheap and allowed; always fails where it is refused
    #[arg(
        long,
        value_enum,
        value_name = "WHEN",
        default_value_t,
        hide_short_help = true,
        help_heading = group::MEMORY
    )]
    pin: PinArg,

    /// Load only without the pool: fresh memory for each buffer of each load
    #[arg(long, conflicts_with = "pin", hide_short_help = true, help_heading = group::MEMORY)]
    no_pool: bool,

    #[command(flatten)]
    reading: ReadArgs,

    /// Load each model N times [default: 1, or 5 with --compare]
    #[arg(long, value_name = "N", help_heading = group::MEASURING)]
    repeat: Option<NonZeroUsize>,

    /// Load without the pool as well, to measure what pooling saves
    ///
    /// Both loads are done in turns, after one that does not count. With --resident this takes the memory of two models: what the pool keeps, and the load without it.
    #[arg(long, conflicts_with = "no_pool", help_heading = group::MEASURING)]
    compare: bool,

    /// Show what would be read and where it would go, without loading
    #[arg(long, conflicts_with_all = ["compare", "repeat"], help_heading = group::MEASURING)]
    dry_run: bool,

    /// Draw what each thread did when, as a page (.html), or write it as a trace for Perfetto (.json)
    ///
    /// Of several loads of a model the last one with the pool is shown; of several models each has its own.
    #[arg(
        long,
        value_name = "FILE",
        value_parser = timeline_parser(),
        conflicts_with = "dry_run",
        value_hint = ValueHint::FilePath,
        help_heading = group::MEASURING
    )]
    timeline: Option<TimelineFile>,

    /// Hash every tensor (SHA-256) on the thread that has just read it, and show what that costs
    #[arg(long, conflicts_with = "dry_run", hide_short_help = true, help_heading = group::CHECKING)]
    verify: bool,

    /// Compare with the digests that `ckload verify --json` printed; exit status 1 if they differ
    #[arg(
        long,
        value_name = "FILE",
        requires = "verify",
        hide_short_help = true,
        value_hint = ValueHint::FilePath,
        help_heading = group::CHECKING
    )]
    against: Option<PathBuf>,

    /// Show the settings and each run as well
    #[arg(short, long, conflicts_with = "quiet", help_heading = group::OUTPUT)]
    verbose: bool,
}

/// A part of the tensors that a glob matches, or of all others.
#[derive(Clone, Debug)]
struct ShardArg {
    pattern: Option<String>,
    shard: Shard,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum PinArg {
    #[default]
    Auto,
    Always,
    Never,
}

impl LoadArgs {
    pub(super) fn models(&self) -> &[PathBuf] {
        &self.model
    }

    pub(super) fn resolve(self) -> Result<LoadOptions, Box<dyn Error>> {
        if self.against.is_some() && self.model.len() > 1 {
            return Err("--against has the digests of one model; load one at a time".into());
        }
        if self.against.is_some() && !self.shard.is_empty() {
            return Err("--against has the digests of whole tensors, --shard loads parts".into());
        }
        let select = self.select()?;
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
            patterns: self.patterns(),
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
            timeline: self.timeline,
        })
    }

    fn select(&self) -> Result<Select, Box<dyn Error>> {
        let mut select = Select::all();
        for glob in &self.include {
            select = select.include(glob)?;
        }
        for glob in &self.exclude {
            select = select.exclude(glob)?;
        }
        let rests = self.shard.iter().filter(|arg| arg.pattern.is_none());
        if rests.count() > 1 {
            return Err("--shard is given twice without a glob: which is for what?".into());
        }
        for ShardArg { pattern, shard } in &self.shard {
            select = match pattern {
                Some(glob) => select.shard(glob, *shard)?,
                None => select.shard_rest(*shard)?,
            };
        }
        Ok(select)
    }

    /// Every glob of the command line, and the option that it was given to.
    fn patterns(&self) -> Vec<NamePattern> {
        let include = self.include.iter().map(|glob| ("--include", glob));
        let exclude = self.exclude.iter().map(|glob| ("--exclude", glob));
        let shards = self.shard.iter().filter_map(|arg| arg.pattern.as_ref());
        let shard = shards.map(|glob| ("--shard", glob));
        let all = include.chain(exclude).chain(shard);
        all.map(|(option, glob)| NamePattern {
            option,
            glob: glob.clone(),
        })
        .collect()
    }
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
