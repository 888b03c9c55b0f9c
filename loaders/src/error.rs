//! What can go wrong, with the file, the place and the remedy.

mod remedy;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use ckload_pool::GetError;

use crate::Checkpoint;
use crate::similar::Names;

/// Of several checkpoints, so many are named.
const NAMED_FILES: usize = 8;

/// Why a checkpoint could not be opened or loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused an operation on a file.
    #[error("cannot {action} {}: {source}{}", path.display(), remedy::of_io(source))]
    Io {
        /// What was tried: "open", "read the folder", …
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },

    /// Nothing is at the path, and it is neither a pattern nor a repository in the cache of Hugging Face.
    #[error("cannot open {}: no such file or folder{}", path.display(), remedy::of_absent(nearest.as_deref()))]
    NotFound {
        /// The path as given.
        path: PathBuf,
        /// The path that is there and most like it, if one is like it.
        nearest: Option<PathBuf>,
    },

    /// A folder holds no checkpoint, or the path is neither a file nor a folder.
    #[error("{} {reason}; point at a checkpoint's file, its folder, or its .index.json", path.display())]
    NoCheckpoint {
        /// The path as given.
        path: PathBuf,
        /// What was found instead.
        reason: &'static str,
    },

    /// A folder holds several checkpoints, none of which is the better choice.
    #[error(
        "{} holds several checkpoints: {}; point at one of them{}",
        path.display(),
        file_names(candidates),
        candidates.first().map(|first| format!(", such as {}", first.display())).unwrap_or_default()
    )]
    Ambiguous {
        /// The folder, or the pattern that matched several folders.
        path: PathBuf,
        /// Their files, or indexes, or folders.
        candidates: Vec<PathBuf>,
    },

    /// A link leads to nothing.
    #[error(
        "{} is a link to {}, where nothing is; bring back the file, or point at the checkpoint where it is now",
        path.display(),
        target.display()
    )]
    BrokenLink {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },

    /// A path that does not exist is not the name of a repository in the cache of Hugging Face either.
    #[error(
        "{repo} is neither a file, nor a folder, nor in the cache of Hugging Face ({}); {}",
        cache.display(),
        remedy::of_not_cached(nearest.as_deref(), &crate::source::download(repo, revision.as_deref()))
    )]
    NotCached {
        /// What was taken for a repository: `org/name`.
        repo: String,
        /// The revision that was asked for.
        revision: Option<String>,
        /// The folder of the cache; empty if neither the environment nor the user has one.
        cache: PathBuf,
        /// The path that is there and most like it, if one is like it.
        nearest: Option<PathBuf>,
    },

    /// A repository in the cache of Hugging Face lacks the snapshot that is meant.
    #[error("{} {reason}; `{remedy}` fetches it", path.display())]
    NoSnapshot {
        /// The repository's folder.
        path: PathBuf,
        /// What was looked for, and what was found.
        reason: String,
        /// The command that helps.
        remedy: String,
    },

    /// A snapshot in the cache of Hugging Face lacks a file: its download did not come to its end.
    #[error("{} is incomplete: {what}; the download was not finished, `{remedy}` goes on with it", path.display())]
    UnfinishedDownload {
        /// The snapshot, the index or the file.
        path: PathBuf,
        /// What is missing.
        what: String,
        /// The command that helps.
        remedy: String,
    },

    /// The file is a Git LFS pointer: a few lines of text that stand for the real file.
    #[error(
        "{} is a Git LFS pointer, not the checkpoint itself{}; run `git lfs pull` in its repository, or download the file again",
        path.display(),
        bytes.map(|bytes| format!(" (which has {bytes} bytes)")).unwrap_or_default()
    )]
    LfsPointer {
        /// The file.
        path: PathBuf,
        /// The size in bytes of the file that it stands for, if the pointer says so.
        bytes: Option<u64>,
    },

    /// The file is a web page, as a server sends it in place of a file that it does not give out.
    #[error(
        "{} is an HTML page that was saved under the model's name; download it again (a login or an access token may be needed)",
        path.display()
    )]
    HtmlPage {
        /// The file.
        path: PathBuf,
    },

    /// The file is of another format.
    #[error("{} is not a checkpoint of a known format: it looks like {found}; ckload reads safetensors, GGUF, PyTorch and NumPy", path.display())]
    OtherFormat {
        /// The file.
        path: PathBuf,
        /// What its first bytes say that it is.
        found: &'static str,
    },

    /// The file is shorter than its own header says.
    #[error(
        "{} is incomplete: {found} of {expected} bytes, {} are missing; the download stopped short, fetch the file again",
        path.display(),
        expected.saturating_sub(*found)
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// The size in bytes that the header promises.
        expected: u64,
        /// The size in bytes that the file has.
        found: u64,
    },

    /// The file goes on after the last tensor.
    #[error(
        "{} has {} bytes after its last tensor ({found} bytes, {expected} are described); the format allows none, fetch the file again",
        path.display(),
        found.saturating_sub(*expected)
    )]
    TrailingBytes {
        /// The file.
        path: PathBuf,
        /// The size in bytes that the header describes.
        expected: u64,
        /// The size in bytes that the file has.
        found: u64,
    },

    /// The file's header breaks a rule of its format.
    #[error("{} is not a valid {format} file: {place}: {reason}; fetch it again, or have it written anew", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The format whose rule is broken.
        format: &'static str,
        /// Where: a byte range, or a tensor's name.
        place: String,
        /// Which rule.
        reason: String,
    },

    /// The file is well-formed, and has what cannot be loaded.
    #[error("{} cannot be loaded: {place}: {reason}; save it anew as safetensors", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// Where: a tensor's name, or a part of the file.
        place: String,
        /// Why it cannot be loaded.
        reason: String,
    },

    /// An index names a file that its folder lacks, or a file is one of several by its name (`-00001-of-00004`), and not all are there.
    #[error(
        "{} needs the file {shard:?}, which is not in its folder; download the missing shard",
        path.display()
    )]
    MissingShard {
        /// The index, or the file that is there.
        path: PathBuf,
        /// The missing file's name, as the index gives it.
        shard: String,
    },

    /// An index names a file outside its own folder.
    #[error(
        "{} names the file {shard:?}, which leaves the index's folder; refused, an index may only name files beside it",
        path.display()
    )]
    ShardOutsideFolder {
        /// The index.
        path: PathBuf,
        /// The file's name as the index gives it.
        shard: String,
    },

    /// An index places a tensor in a file that does not hold it.
    #[error(
        "{} places the tensor {tensor:?} in {shard:?}, which does not hold it; index and files are from different downloads, fetch them together",
        path.display()
    )]
    NotInShard {
        /// The index.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The file's name as the index gives it.
        shard: String,
    },

    /// Two files of a checkpoint hold a tensor of the same name.
    #[error(
        "the tensor {tensor:?} is in {} and in {} as well; point at one of the files, or at the index",
        first.display(),
        path.display()
    )]
    DuplicateTensor {
        /// The second file.
        path: PathBuf,
        /// The first file.
        first: PathBuf,
        /// The tensor's name.
        tensor: String,
    },

    /// The file is not the one any more whose header was read.
    #[error("{} changed since it was opened ({what}); open the checkpoint again", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// What differs: "its size", "its modification time", …
        what: &'static str,
    },

    /// A tensor's bytes could not be read.
    #[error(
        "cannot read bytes {}..{} of {} (tensor {tensor:?}): {source}{}",
        range.start,
        range.end,
        path.display(),
        remedy::of_io(source)
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// The tensor whose bytes were being read.
        tensor: String,
        /// The bytes of the file that were asked for.
        range: Range<u64>,
        /// The operating system's answer; `UnexpectedEof` if the file ended early.
        source: io::Error,
    },

    /// The memory for a load was not to be had.
    #[error("no memory for the load: {source}")]
    Memory {
        /// The pool's answer.
        source: GetError,
    },

    /// The pool may not hold what the load needs at once: all tensors if it is resident, the largest if it is a stream.
    #[error(
        "the load needs {needed} bytes at once, the pool may hold {max_bytes}; raise its max_bytes, or stream the checkpoint if the load is resident"
    )]
    PoolTooSmall {
        /// The bytes that the load needs at once.
        needed: u64,
        /// The pool's limit in bytes.
        max_bytes: u64,
    },

    /// A tensor is larger than the stream's budget.
    #[error(
        "the tensor {tensor:?} needs {needed} bytes, more than the stream's budget of {}; the smallest budget that works is {needed} bytes",
        budget.as_u64()
    )]
    BudgetTooSmall {
        /// The tensor's name.
        tensor: String,
        /// The smallest budget in bytes that admits every tensor of the stream.
        needed: u64,
        /// The budget.
        budget: ByteSize,
    },

    /// The consumer of a stream keeps so many tensors that no further one fits the budget.
    #[error(
        "{held} of the stream's budget of {} bytes are in tensors that the consumer still holds, and the next needs {needed}; nothing was dropped in {waited:?}: drop tensors as they are used, or raise the budget; held: {}",
        budget.as_u64(),
        named(tensors, *others)
    )]
    BudgetHeld {
        /// The bytes in tensors that were delivered and not dropped yet.
        held: u64,
        /// The bytes that the next tensor needs.
        needed: u64,
        /// The budget.
        budget: ByteSize,
        /// How long the stream waited.
        waited: Duration,
        /// The first few tensors that are held, by name.
        tensors: Vec<String>,
        /// How many more are held.
        others: usize,
    },

    /// No tensor has the name.
    #[error("{} has no tensor {tensor:?}{}", path.display(), names.hint(tensor))]
    UnknownTensor {
        /// The checkpoint as it was opened.
        path: PathBuf,
        /// The name that was asked for.
        tensor: String,
        /// The names that there are.
        names: Names,
    },

    /// A tensor is named twice where each may be once.
    #[error(
        "the tensor {tensor:?} is named twice: it can have one place in the order, name it once"
    )]
    NamedTwice {
        /// The name.
        tensor: String,
    },

    /// The caller's memory does not fit the tensor, or a tensor was given memory twice.
    #[error("the memory given for the tensor {tensor:?} does not fit: {reason}")]
    Target {
        /// The tensor's name.
        tensor: String,
        /// What is wrong with it.
        reason: String,
    },

    /// A tensor was asked for as a type that its bytes are not.
    #[error(
        "the tensor {tensor:?} is {dtype}, which cannot be viewed as a slice of {requested}; ask for a slice of its own type, or for its bytes"
    )]
    WrongDtype {
        /// The tensor's name.
        tensor: String,
        /// Its element type.
        dtype: crate::Dtype,
        /// The Rust type that was asked for.
        requested: &'static str,
    },

    /// A tensor's elements were asked for whose bytes are not in this machine's order.
    #[error(
        "the elements of the tensor {tensor:?} are {byte_order} in its file, and nothing is converted: take its bytes and swap them"
    )]
    ForeignByteOrder {
        /// The tensor's name.
        tensor: String,
        /// The order of its bytes.
        byte_order: crate::ByteOrder,
    },

    /// A safetensors file cannot hold tensors of this type.
    #[error(
        "the tensor {tensor:?} of {} is {dtype}, for which safetensors has no type; leave it out with a `Select`, or convert the checkpoint",
        path.display()
    )]
    NotInSafetensors {
        /// The tensor's file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// Its element type.
        dtype: crate::Dtype,
    },

    /// A pattern is not a valid glob.
    #[error(
        "{pattern:?} is not a valid glob: {source}; `*` stands for any characters, `[[]` for a bracket"
    )]
    Pattern {
        /// The pattern as given.
        pattern: String,
        /// What is wrong with it.
        source: globset::Error,
    },

    /// A list of digests is not one.
    #[error(
        "{} is not a list of digests: {place}: {reason}; give what `ckload verify --json` or `sha256sum` printed",
        path.display()
    )]
    Manifest {
        /// The list's file.
        path: PathBuf,
        /// Where: a line, or a part of the JSON object.
        place: String,
        /// What is wrong there.
        reason: String,
    },

    /// There is no such part of a tensor.
    #[error("{shard} is no part: of {} ranks the last is {}", shard.world_size, shard.world_size.saturating_sub(1))]
    NoSuchRank {
        /// What was asked for.
        shard: crate::Shard,
    },

    /// A tensor cannot be divided as asked.
    #[error(
        "the tensor {tensor:?} of shape {shape:?} cannot be divided as {shard}: {reason}; give it a rule of its own, 0:0/1 leaves it whole"
    )]
    Shard {
        /// The tensor's name.
        tensor: String,
        /// Its dimensions.
        shape: Vec<u64>,
        /// What was asked for.
        shard: crate::Shard,
        /// Why it cannot be.
        reason: String,
    },

    /// The loader's threads could not be started.
    #[error("cannot start the loader's threads: {source}; use fewer, or allow more (`ulimit -u`)")]
    Threads {
        /// The cause.
        source: rayon::ThreadPoolBuildError,
    },

    /// Somebody ended the load with its [`Cancel`](crate::Cancel) handle.
    #[error("the load was cancelled")]
    Cancelled,

    /// Code that the load called panicked, the observer's perhaps; the load has ended.
    #[error("a panic ended the load: {message}; this is a bug, of ckload or of the observer")]
    WorkerPanicked {
        /// The panic's message.
        message: String,
    },
}

impl Error {
    /// A stable word for the kind of error, in snake case, for scripts.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Io { .. } | Self::NotFound { .. } => "io",
            Self::NoCheckpoint { .. } => "no_checkpoint",
            Self::Ambiguous { .. } => "ambiguous",
            Self::BrokenLink { .. } => "broken_link",
            Self::NotCached { .. } => "not_cached",
            Self::NoSnapshot { .. } => "no_snapshot",
            Self::UnfinishedDownload { .. } => "unfinished_download",
            Self::LfsPointer { .. } => "lfs_pointer",
            Self::HtmlPage { .. } => "html_page",
            Self::OtherFormat { .. } => "other_format",
            Self::Truncated { .. } => "truncated",
            Self::TrailingBytes { .. } => "trailing_bytes",
            Self::Malformed { .. } => "malformed",
            Self::Unsupported { .. } => "unsupported",
            Self::MissingShard { .. } => "missing_shard",
            Self::ShardOutsideFolder { .. } => "shard_outside_folder",
            Self::NotInShard { .. } => "not_in_shard",
            Self::DuplicateTensor { .. } => "duplicate_tensor",
            Self::Changed { .. } => "changed",
            Self::Read { .. } => "read",
            Self::Memory { .. } => "memory",
            Self::PoolTooSmall { .. } => "pool_too_small",
            Self::BudgetTooSmall { .. } => "budget_too_small",
            Self::BudgetHeld { .. } => "budget_held",
            Self::UnknownTensor { .. } => "unknown_tensor",
            Self::NamedTwice { .. } => "named_twice",
            Self::Target { .. } => "target",
            Self::WrongDtype { .. } => "wrong_dtype",
            Self::ForeignByteOrder { .. } => "foreign_byte_order",
            Self::NotInSafetensors { .. } => "not_in_safetensors",
            Self::Pattern { .. } => "pattern",
            Self::Manifest { .. } => "manifest",
            Self::NoSuchRank { .. } => "no_such_rank",
            Self::Shard { .. } => "shard",
            Self::Threads { .. } => "threads",
            Self::Cancelled => "cancelled",
            Self::WorkerPanicked { .. } => "worker_panicked",
        }
    }

    /// The file or folder that the error is about, if it is about one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Io { path, .. }
            | Self::NotFound { path, .. }
            | Self::NoCheckpoint { path, .. }
            | Self::Ambiguous { path, .. }
            | Self::BrokenLink { path, .. }
            | Self::NoSnapshot { path, .. }
            | Self::UnfinishedDownload { path, .. }
            | Self::LfsPointer { path, .. }
            | Self::HtmlPage { path }
            | Self::OtherFormat { path, .. }
            | Self::Truncated { path, .. }
            | Self::TrailingBytes { path, .. }
            | Self::Malformed { path, .. }
            | Self::Unsupported { path, .. }
            | Self::MissingShard { path, .. }
            | Self::ShardOutsideFolder { path, .. }
            | Self::NotInShard { path, .. }
            | Self::DuplicateTensor { path, .. }
            | Self::Changed { path, .. }
            | Self::Read { path, .. }
            | Self::NotInSafetensors { path, .. }
            | Self::Manifest { path, .. }
            | Self::UnknownTensor { path, .. } => Some(path),
            Self::NotCached { repo, .. } => Some(Path::new(repo)),
            _ => None,
        }
    }

    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    /// The error of a name that no tensor of `checkpoint` has.
    pub(crate) fn unknown_tensor(checkpoint: &Checkpoint, name: &str) -> Self {
        Self::UnknownTensor {
            path: checkpoint.path().to_owned(),
            tensor: name.to_owned(),
            names: Names::of(checkpoint),
        }
    }

    /// Does `work`, and makes an error of a panic in it. What `work` shared with others must be fit for use however far it came.
    pub(crate) fn catch<T>(work: impl FnOnce() -> Result<T, Self>) -> Result<T, Self> {
        catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
            Err(Self::WorkerPanicked {
                message: panic_message(&*panic),
            })
        })
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|message| (*message).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

/// The names of the first few files, and how many more there are.
fn file_names(paths: &[PathBuf]) -> String {
    let first = paths.iter().take(NAMED_FILES);
    let names = first.map(|path| path.file_name().unwrap_or(path.as_os_str()));
    let names: Vec<String> = names
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    named(&names, paths.len().saturating_sub(NAMED_FILES))
}

/// A list of names, and how many are left out.
fn named(names: &[String], others: usize) -> String {
    let list = names.join(", ");
    if others == 0 {
        list
    } else {
        format!("{list} and {others} more")
    }
}
