//! `ckload bench`.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{ValueEnum, ValueHint};

use super::help::{Example, group};
use super::reading::ThreadArgs;
use crate::cli::bench::{State, Way};
use crate::cli::options::{BenchOptions, Exports};

pub(super) const EXAMPLES: &[Example] = &[
    Example::new("ckload bench models/llama", "warm, then cold"),
    Example::new(
        "ckload bench gpt2 --ways read,resident",
        "two ways and their limit",
    ),
    Example::new(
        "ckload bench gpt2 --export-html gpt2.html",
        "a page with charts",
    ),
];

#[derive(clap::Args, Debug)]
pub(super) struct BenchArgs {
    /// File, folder, index, quoted pattern, or org/name in the cache of Hugging Face
    #[arg(value_hint = ValueHint::AnyPath)]
    model: PathBuf,

    /// Measured rounds in each state of the page cache
    ///
    /// Default: 10, of checkpoints over 2 GiB 5, over 16 GiB 3.
    #[arg(long, value_name = "N", help_heading = group::MEASURING)]
    runs: Option<NonZeroUsize>,

    /// Rounds before them that do not count
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = group::MEASURING)]
    warmup: usize,

    /// Whether the page cache has the files before each load
    #[arg(long, value_enum, value_name = "STATE", default_value_t, help_heading = group::MEASURING)]
    cache: CacheArg,

    /// Measure only these ways of loading, and their limits
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', value_parser = way_parser(), help_heading = group::MEASURING)]
    ways: Vec<Way>,

    #[command(flatten)]
    threads: ThreadArgs,

    #[command(flatten)]
    exports: ExportArgs,
}

#[derive(clap::Args, Debug)]
#[command(next_help_heading = group::OUTPUT)]
struct ExportArgs {
    /// Write what --json prints
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    export_json: Option<PathBuf>,

    /// Write the tables as Markdown
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    export_markdown: Option<PathBuf>,

    /// Write a line for each load that was measured
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    export_csv: Option<PathBuf>,

    /// Write a page with charts, which needs no network
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    export_html: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum CacheArg {
    /// It has all of them
    Warm,
    /// It has nothing of them
    Cold,
    /// One after the other
    #[default]
    Both,
}

impl BenchArgs {
    pub(super) fn resolve(self) -> Result<BenchOptions, String> {
        let exports = Exports {
            json: self.exports.export_json,
            markdown: self.exports.export_markdown,
            csv: self.exports.export_csv,
            html: self.exports.export_html,
        };
        let files: Vec<&Path> = exports.files().collect();
        for (number, file) in files.iter().enumerate() {
            if files[..number].iter().any(|other| is_same(other, file)) {
                return Err(format!("two exports go to {}", file.display()));
            }
        }
        Ok(BenchOptions {
            model: self.model,
            runs: self.runs,
            warmup: self.warmup,
            states: match self.cache {
                CacheArg::Warm => vec![State::Warm],
                CacheArg::Cold => vec![State::Cold],
                CacheArg::Both => vec![State::Warm, State::Cold],
            },
            ways: self.ways,
            threads: self.threads.threads,
            exports,
        })
    }
}

/// Whether both name one file, however they are spelled.
fn is_same(one: &Path, other: &Path) -> bool {
    let absolute = |path| std::path::absolute(path).ok();
    let real = |path: &Path| path.canonicalize().ok();
    absolute(one) == absolute(other) || real(one).is_some_and(|one| Some(one) == real(other))
}

fn way_parser() -> impl TypedValueParser<Value = Way> {
    let names = Way::ALL.map(|way| PossibleValue::new(way.name()).help(way.says()));
    PossibleValuesParser::new(names).try_map(|name| name.parse::<Way>())
}
