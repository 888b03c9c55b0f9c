//! What each error says: the file, the place, and what to do next.

use std::collections::BTreeSet;

use super::*;
use crate::{ByteOrder, Dtype, Shard};

fn path(text: &str) -> PathBuf {
    text.into()
}

fn text(text: &str) -> String {
    text.to_owned()
}

fn refused(errno: rustix::io::Errno) -> io::Error {
    errno.into()
}

/// What is wrong with files and folders.
fn of_sources() -> Vec<(Error, &'static str)> {
    vec![
        (
            Error::Io {
                action: "open",
                path: path("m.gguf"),
                source: refused(rustix::io::Errno::ACCESS),
            },
            "cannot open m.gguf: Permission denied (os error 13); let this user read it (`chmod`), or run as a user who may",
        ),
        (
            Error::NotFound {
                path: path("gtp2"),
                nearest: Some(path("gpt2")),
            },
            "cannot open gtp2: no such file or folder; did you mean gpt2?",
        ),
        (
            Error::NotFound {
                path: path("gtp2"),
                nearest: None,
            },
            "cannot open gtp2: no such file or folder; a model is a file, a folder, an index, a quoted pattern, or org/name in the cache \
             of Hugging Face",
        ),
        (
            Error::NoCheckpoint {
                path: path("m"),
                reason: "holds no checkpoint",
            },
            "m holds no checkpoint; point at a checkpoint's file, its folder, or its .index.json",
        ),
        (
            Error::Ambiguous {
                path: path("m"),
                candidates: vec![path("m/a.gguf"), path("m/b.gguf")],
            },
            "m holds several checkpoints: a.gguf, b.gguf; point at one of them, such as m/a.gguf",
        ),
        (
            Error::BrokenLink {
                path: path("m.gguf"),
                target: path("gone"),
            },
            "m.gguf is a link to gone, where nothing is; bring back the file, or point at the checkpoint where it is now",
        ),
        (
            Error::NotCached {
                repo: text("org/name"),
                revision: Some(text("v2")),
                cache: path("hub"),
                nearest: None,
            },
            "org/name is neither a file, nor a folder, nor in the cache of Hugging Face (hub); `hf download org/name --revision v2` fetches \
             it, if it is a repository",
        ),
        (
            Error::NotCached {
                repo: text("org/nam"),
                revision: None,
                cache: path("hub"),
                nearest: Some(path("org/name")),
            },
            "org/nam is neither a file, nor a folder, nor in the cache of Hugging Face (hub); did you mean org/name? `hf download org/nam` \
             fetches it, if it is a repository",
        ),
        (
            Error::NoSnapshot {
                path: path("hub/m"),
                reason: text("has no revision v2"),
                remedy: text("hf download m"),
            },
            "hub/m has no revision v2; `hf download m` fetches it",
        ),
        (
            Error::UnfinishedDownload {
                path: path("hub/m"),
                what: text("it has no weights"),
                remedy: text("hf download m"),
            },
            "hub/m is incomplete: it has no weights; the download was not finished, `hf download m` goes on with it",
        ),
        (
            Error::LfsPointer {
                path: path("m.bin"),
                bytes: Some(9),
            },
            "m.bin is a Git LFS pointer, not the checkpoint itself (which has 9 bytes); run `git lfs pull` in its repository, or download \
             the file again",
        ),
        (
            Error::HtmlPage {
                path: path("m.bin"),
            },
            "m.bin is an HTML page that was saved under the model's name; download it again (a login or an access token may be needed)",
        ),
        (
            Error::OtherFormat {
                path: path("m.bin"),
                found: "text",
            },
            "m.bin is not a checkpoint of a known format: it looks like text; ckload reads safetensors, GGUF, PyTorch and NumPy",
        ),
        (
            Error::MissingShard {
                path: path("m.index.json"),
                shard: text("m-2"),
            },
            "m.index.json needs the file \"m-2\", which is not in its folder; download the missing shard",
        ),
        (
            Error::ShardOutsideFolder {
                path: path("m.index.json"),
                shard: text("../m"),
            },
            "m.index.json names the file \"../m\", which leaves the index's folder; refused, an index may only name files beside it",
        ),
        (
            Error::NotInShard {
                path: path("m.index.json"),
                tensor: text("a"),
                shard: text("m-2"),
            },
            "m.index.json places the tensor \"a\" in \"m-2\", which does not hold it; index and files are from different downloads, fetch \
             them together",
        ),
        (
            Error::DuplicateTensor {
                path: path("m-2"),
                first: path("m-1"),
                tensor: text("a"),
            },
            "the tensor \"a\" is in m-1 and in m-2 as well; point at one of the files, or at the index",
        ),
        (
            Error::Manifest {
                path: path("sums"),
                place: text("line 1"),
                reason: text("no digest"),
            },
            "sums is not a list of digests: line 1: no digest; give what `ckload verify --json` or `sha256sum` printed",
        ),
    ]
}

/// What is wrong inside of files.
fn of_contents() -> Vec<(Error, &'static str)> {
    vec![
        (
            Error::Truncated {
                path: path("m.gguf"),
                expected: 9,
                found: 5,
            },
            "m.gguf is incomplete: 5 of 9 bytes, 4 are missing; the download stopped short, fetch the file again",
        ),
        (
            Error::TrailingBytes {
                path: path("m.gguf"),
                expected: 5,
                found: 9,
            },
            "m.gguf has 4 bytes after its last tensor (9 bytes, 5 are described); the format allows none, fetch the file again",
        ),
        (
            Error::Malformed {
                path: path("m.gguf"),
                format: "GGUF",
                place: text("bytes 0..8"),
                reason: text("no magic"),
            },
            "m.gguf is not a valid GGUF file: bytes 0..8: no magic; fetch it again, or have it written anew",
        ),
        (
            Error::Unsupported {
                path: path("m.pt"),
                place: text("tensor a"),
                reason: text("it is sparse"),
            },
            "m.pt cannot be loaded: tensor a: it is sparse; save it anew as safetensors",
        ),
        (
            Error::Changed {
                path: path("m.gguf"),
                what: "its size",
            },
            "m.gguf changed since it was opened (its size); open the checkpoint again",
        ),
        (
            Error::Read {
                path: path("m.gguf"),
                tensor: text("a"),
                range: 5..9,
                source: io::Error::new(io::ErrorKind::UnexpectedEof, "the file ended"),
            },
            "cannot read bytes 5..9 of m.gguf (tensor \"a\"): the file ended; the file became shorter, fetch it again or wait until it is \
             written",
        ),
        (
            Error::NotInSafetensors {
                path: path("m.gguf"),
                tensor: text("a"),
                dtype: Dtype::Q4_0,
            },
            "the tensor \"a\" of m.gguf is Q4_0, for which safetensors has no type; leave it out with a `Select`, or convert the checkpoint",
        ),
    ]
}

/// What is wrong with what was asked for.
fn of_requests() -> Vec<(Error, &'static str)> {
    let shard = Shard::new(0, 8, 8);
    vec![
        (
            Error::NamedTwice { tensor: text("a") },
            "the tensor \"a\" is named twice: it can have one place in the order, name it once",
        ),
        (
            Error::Target {
                tensor: text("a"),
                reason: text("4 bytes are given, it has 8"),
            },
            "the memory given for the tensor \"a\" does not fit: 4 bytes are given, it has 8",
        ),
        (
            Error::WrongDtype {
                tensor: text("a"),
                dtype: Dtype::F32,
                requested: "u8",
            },
            "the tensor \"a\" is F32, which cannot be viewed as a slice of u8; ask for a slice of its own type, or for its bytes",
        ),
        (
            Error::ForeignByteOrder {
                tensor: text("a"),
                byte_order: ByteOrder::Big,
            },
            "the elements of the tensor \"a\" are big-endian in its file, and nothing is converted: take its bytes and swap them",
        ),
        (
            Error::NoSuchRank { shard },
            "0:8/8 is no part: of 8 ranks the last is 7",
        ),
        (
            Error::Shard {
                tensor: text("a"),
                shape: vec![3],
                shard: Shard::new(0, 0, 2),
                reason: text("3 is odd"),
            },
            "the tensor \"a\" of shape [3] cannot be divided as 0:0/2: 3 is odd; give it a rule of its own, 0:0/1 leaves it whole",
        ),
        (
            Error::PoolTooSmall {
                needed: 9,
                max_bytes: 5,
            },
            "the load needs 9 bytes at once, the pool may hold 5; raise its max_bytes, or stream the checkpoint if the load is resident",
        ),
        (
            Error::BudgetTooSmall {
                tensor: text("a"),
                needed: 9,
                budget: ByteSize::b(5),
            },
            "the tensor \"a\" needs 9 bytes, more than the stream's budget of 5; the smallest budget that works is 9 bytes",
        ),
        (
            Error::BudgetHeld {
                held: 5,
                needed: 9,
                budget: ByteSize::b(10),
                waited: Duration::from_secs(1),
                tensors: vec![text("a"), text("b")],
                others: 2,
            },
            "5 of the stream's budget of 10 bytes are in tensors that the consumer still holds, and the next needs 9; nothing was dropped \
             in 1s: drop tensors as they are used, or raise the budget; held: a, b and 2 more",
        ),
        (Error::Cancelled, "the load was cancelled"),
        (
            Error::WorkerPanicked {
                message: text("no"),
            },
            "a panic ended the load: no; this is a bug, of ckload or of the observer",
        ),
    ]
}

/// Kinds of errors that hold what cannot be made here; those are met in tests of what gives them.
const MADE_ELSEWHERE: [&str; 4] = ["memory", "pattern", "threads", "unknown_tensor"];

#[test]
fn errors_name_the_place_and_the_remedy() {
    let table = [of_sources(), of_contents(), of_requests()];
    let mut kinds = BTreeSet::from(MADE_ELSEWHERE);
    for (error, says) in table.into_iter().flatten() {
        assert_eq!(error.to_string(), says);
        kinds.insert(error.kind());
    }
    let known = include_str!("../error.rs").matches(" => \"").count();
    assert_eq!(kinds.len(), known, "a kind of error is not in the table");
}

#[test]
fn the_operating_system_s_answers_have_remedies() {
    use rustix::io::Errno;
    for (errno, says) in [
        (Errno::NOENT, "mistyped"),
        (Errno::PERM, "chmod"),
        (Errno::MFILE, "ulimit -n"),
        (Errno::IO, "dmesg"),
        (Errno::STALE, "mount"),
        (Errno::LOOP, "link"),
        (Errno::NAMETOOLONG, "long"),
    ] {
        let remedy = remedy::of_io(&refused(errno));
        assert!(
            remedy.starts_with("; ") && remedy.contains(says),
            "{remedy}"
        );
    }
    assert_eq!(remedy::of_io(&refused(Errno::NODEV)), "");
}
