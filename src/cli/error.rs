//! What can go wrong, and how it is told.

use std::borrow::Cow;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ckload::{Mismatch, synth};
use serde::Serialize;

use super::options::OutputOptions;
use super::width::cut_middle;
use super::{interrupt, style, units};

/// A message is shown in no more characters: the names in it may be as long as a file's header.
const SHOWN_CHARS: usize = 4000;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Load(#[from] ckload::Error),
    #[error(transparent)]
    Write(#[from] synth::Error),
    #[error("no tensor of {} is left to load: {reason}", .path.display())]
    NothingSelected { path: PathBuf, reason: String },
    #[error(
        "{} of the pool's {} could not be locked in memory ({reason}); \
         raise RLIMIT_MEMLOCK (`ulimit -l`), or use --pin auto",
        units::bytes(held.saturating_sub(*pinned)), units::bytes(*held)
    )]
    NotPinned {
        pinned: u64,
        held: u64,
        reason: String,
    },
    #[error("no cache folder is known for this user; set HOME, or name a folder with --dir")]
    NoCacheFolder,
    #[error("cannot create the folder {}: {source}", .path.display())]
    CreateFolder { path: PathBuf, source: io::Error },
    #[error("cannot read {}: {source}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {}: {source}; name a file in a folder that is there and that you may write to", .path.display())]
    WriteFile { path: PathBuf, source: io::Error },
    #[error("nothing of {} could be measured: {reasons}", .path.display())]
    NothingMeasured { path: PathBuf, reasons: String },
    /// The result has been printed, and is not what it should be.
    #[error("{} named above", units::counted(.0.len() as u64, "mismatch"))]
    Mismatched(Vec<Mismatch>),
    #[error("{} lists only files, and a load hashes tensors; use `ckload verify --against`", .path.display())]
    NoTensorDigests { path: PathBuf },
    /// Something else went wrong once the result was printed.
    #[error(transparent)]
    AfterResult(Box<Self>),
    #[error("interrupted")]
    Interrupted,
    #[error("cannot write to standard output: {0}")]
    Output(#[from] io::Error),
}

#[derive(Serialize)]
struct Failure<'a> {
    schema: u32,
    error: FailureDetails<'a>,
}

#[derive(Serialize)]
struct FailureDetails<'a> {
    kind: &'static str,
    message: String,
    path: Option<Cow<'a, str>>,
}

impl Error {
    /// A short name that scripts can rely on.
    fn kind(&self) -> &'static str {
        match self {
            Self::Load(error) => error.kind(),
            Self::Write(error) => error.kind(),
            Self::NothingSelected { .. } => "nothing_selected",
            Self::NotPinned { .. } => "not_pinned",
            Self::NoCacheFolder => "no_cache_folder",
            Self::NothingMeasured { .. } => "nothing_measured",
            Self::Mismatched(_) => "mismatched",
            Self::NoTensorDigests { .. } => "no_tensor_digests",
            Self::AfterResult(error) => error.kind(),
            Self::CreateFolder { .. }
            | Self::Read { .. }
            | Self::WriteFile { .. }
            | Self::Output(_) => "io",
            Self::Interrupted => "interrupted",
        }
    }

    fn path(&self) -> Option<&Path> {
        match self {
            Self::Load(error) => error.path(),
            Self::Write(error) => Some(error.path()),
            Self::AfterResult(error) => error.path(),
            Self::NothingSelected { path, .. }
            | Self::WriteFile { path, .. }
            | Self::CreateFolder { path, .. }
            | Self::NothingMeasured { path, .. }
            | Self::NoTensorDigests { path }
            | Self::Read { path, .. } => Some(path),
            Self::NotPinned { .. }
            | Self::NoCacheFolder
            | Self::Mismatched(_)
            | Self::Interrupted
            | Self::Output(_) => None,
        }
    }

    /// Tells the user, and gives the exit status.
    pub(crate) fn report(&self, output: &OutputOptions) -> ExitCode {
        match self {
            // Whoever reads our output has seen enough.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Self::Interrupted => ExitCode::from(interrupt::EXIT_STATUS),
            Self::Mismatched(mismatches) => {
                let _ = write_mismatches(mismatches, output);
                ExitCode::FAILURE
            }
            _ => {
                // Nothing is left to be done if even this cannot be written.
                let _ = self.write(output);
                ExitCode::FAILURE
            }
        }
    }

    fn write(&self, output: &OutputOptions) -> io::Result<()> {
        let error = style::ERROR;
        let message = cut_middle(&self.to_string(), SHOWN_CHARS);
        writeln!(
            output.stderr(),
            "{error}error{error:#}: {}",
            style::escape(&message)
        )?;
        // Whoever reads JSON gets one object.
        if output.json && !matches!(self, Self::AfterResult(_)) {
            output.write_json(&Failure {
                schema: super::report::SCHEMA,
                error: FailureDetails {
                    kind: self.kind(),
                    message,
                    path: self.path().map(Path::to_string_lossy),
                },
            })?;
        }
        Ok(())
    }
}

/// Names each culprit; the result, JSON or not, has been printed before.
fn write_mismatches(mismatches: &[Mismatch], output: &OutputOptions) -> io::Result<()> {
    let mut err = io::BufWriter::new(output.stderr());
    let error = style::ERROR;
    for mismatch in mismatches {
        let sentence = cut_middle(&mismatch.to_string(), SHOWN_CHARS);
        writeln!(
            err,
            "{error}mismatch{error:#}: {}",
            style::escape(&sentence)
        )?;
    }
    err.flush()
}
