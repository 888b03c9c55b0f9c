//! What a command line means, free of how it is spelled.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use ckload::synth::{Blueprint, Gpt2, IfExists, gpt2};
use ckload::{ByteSize, Io, Loader, Select};
use clap_complete::Shell;

use super::bench::{State, Way};

/// A command line, understood.
#[derive(Debug)]
pub(crate) struct Invocation {
    pub(crate) action: Action,
    pub(crate) output: OutputOptions,
}

/// What to do.
#[derive(Debug)]
pub(crate) enum Action {
    Load(Box<LoadOptions>),
    Bench(Box<BenchOptions>),
    Demo(DemoOptions),
    Inspect {
        model: PathBuf,
    },
    Synth(SynthOptions),
    Verify(VerifyOptions),
    Completions(Shell),
    Man {
        /// Where the pages go; the main one is printed if none.
        folder: Option<PathBuf>,
    },
}

/// How results are shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OutputOptions {
    pub(crate) json: bool,
    pub(crate) quiet: bool,
    pub(crate) color: anstream::ColorChoice,
}

/// How models are loaded.
#[derive(Debug)]
pub(crate) struct LoadOptions {
    pub(crate) models: Vec<PathBuf>,
    pub(crate) select: Select,
    /// The globs that `select` was made of.
    pub(crate) patterns: Vec<NamePattern>,
    /// Keep everything in memory instead of streaming it.
    pub(crate) resident: bool,
    pub(crate) rounds: NonZeroUsize,
    pub(crate) sides: Sides,
    pub(crate) reading: Reading,
    /// Of a stream.
    pub(crate) budget: Option<ByteSize>,
    pub(crate) pin: Pin,
    /// Hash every tensor.
    pub(crate) verify: bool,
    /// Recorded digests, which what was loaded is compared with.
    pub(crate) against: Option<PathBuf>,
    pub(crate) verbose: bool,
    pub(crate) dry_run: bool,
    /// Where to show what the threads did when.
    pub(crate) timeline: Option<TimelineFile>,
}

/// A file that shows what loads did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TimelineFile {
    pub(crate) path: PathBuf,
    pub(crate) format: TimelineFormat,
}

/// What a timeline is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimelineFormat {
    /// A page with a chart.
    Html,
    /// A trace.
    Json,
}

/// A glob over tensors' names.
#[derive(Debug)]
pub(crate) struct NamePattern {
    /// The option that it was given to.
    pub(crate) option: &'static str,
    pub(crate) glob: String,
}

/// How files are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) io: Io,
    /// As many as suit the state of the page cache if none.
    pub(crate) threads: Option<NonZeroUsize>,
    /// The most that is read at a time; what suits the device if none.
    pub(crate) read_size: Option<ByteSize>,
    pub(crate) drop_cache: bool,
}

impl Reading {
    /// Threads that read what the page cache has.
    pub(crate) fn threads_or_cores(&self) -> usize {
        self.threads.map_or_else(num_cpus::get, NonZeroUsize::get)
    }

    /// A loader that reads in this way.
    pub(crate) fn loader(&self) -> Loader {
        let mut loader = Loader::new().io(self.io).drop_cache(self.drop_cache);
        if let Some(threads) = self.threads {
            loader = loader.threads(threads.get());
        }
        if let Some(size) = self.read_size {
            loader = loader.read_size(size);
        }
        loader
    }
}

/// Which of the two ways to get memory a load is measured with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sides {
    WithPool,
    WithoutPool,
    /// Both, interleaved.
    Compare,
}

/// Whether the pool's memory is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pin {
    /// Where it costs next to nothing; a refusal is reported and harmless.
    Auto,
    /// A refusal is an error.
    Always,
    Never,
}

/// How a checkpoint is verified.
#[derive(Debug)]
pub(crate) struct VerifyOptions {
    pub(crate) model: PathBuf,
    /// Recorded digests.
    pub(crate) against: Option<PathBuf>,
    /// Count NaN and infinities.
    pub(crate) finite: bool,
    pub(crate) reading: Reading,
    /// Of the pieces in memory.
    pub(crate) budget: Option<ByteSize>,
    pub(crate) verbose: bool,
}

/// What is measured beside what, and where the result goes.
#[derive(Debug)]
pub(crate) struct BenchOptions {
    pub(crate) model: PathBuf,
    /// Measured rounds in each state; as many as suit the checkpoint's size if none.
    pub(crate) runs: Option<NonZeroUsize>,
    /// Rounds before them.
    pub(crate) warmup: usize,
    pub(crate) states: Vec<State>,
    /// All if empty.
    pub(crate) ways: Vec<Way>,
    pub(crate) threads: Option<NonZeroUsize>,
    pub(crate) exports: Exports,
}

/// Files that a result goes to.
#[derive(Debug, Default)]
pub(crate) struct Exports {
    pub(crate) json: Option<PathBuf>,
    pub(crate) markdown: Option<PathBuf>,
    pub(crate) csv: Option<PathBuf>,
    pub(crate) html: Option<PathBuf>,
}

impl Exports {
    /// All of them.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        let files = [&self.json, &self.markdown, &self.csv, &self.html];
        files.into_iter().flatten().map(PathBuf::as_path)
    }
}

/// How the demonstration runs.
#[derive(Debug)]
pub(crate) struct DemoOptions {
    pub(crate) size: ModelSize,
    /// Where the checkpoint is kept; the user's cache folder if none.
    pub(crate) folder: Option<PathBuf>,
    pub(crate) rounds: NonZeroUsize,
    pub(crate) reading: Reading,
}

/// What checkpoint is written, and where.
#[derive(Debug)]
pub(crate) struct SynthOptions {
    pub(crate) model: SynthModel,
    pub(crate) size: ModelSize,
    pub(crate) out: PathBuf,
    pub(crate) seed: u64,
    pub(crate) if_exists: IfExists,
}

/// The models that can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SynthModel {
    /// In one file.
    Gpt2,
    /// In a folder.
    Llama,
    /// In a folder.
    Moe,
}

/// The sizes of models that can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ModelSize {
    Tiny,
    Small,
}

impl ModelSize {
    pub(crate) fn blueprint(self) -> Blueprint {
        match self {
            Self::Tiny => Gpt2::TINY.blueprint(),
            Self::Small => gpt2(),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tiny => "gpt2-tiny",
            Self::Small => "gpt2",
        }
    }
}
