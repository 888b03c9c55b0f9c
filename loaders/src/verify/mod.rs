//! Verification: the SHA-256 of every file and of every tensor, from one pass over their bytes.

mod digest;
mod finite;
mod lane;
mod manifest;
mod mismatch;
mod pass;

use std::io;
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

pub use self::digest::{Digest, NotADigest};
pub use self::finite::NonFinite;
use self::lane::{Found, is_in_place};
pub use self::manifest::Manifest;
pub use self::mismatch::Mismatch;
use self::pass::{Outcome, Setting, pass};
use crate::observer::Planned;
use crate::report::Meter;
use crate::{Checkpoint, Dtype, Error, FileInfo, Loader, Report, Tensor, TensorInfo};

/// What a verification looks at besides digests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifyOptions {
    finite: bool,
}

impl VerifyOptions {
    /// Counts the values of float tensors that are NaN or infinite. Default: `false`.
    ///
    /// Halves, singles, doubles, brain floats, the 8-bit floats and the parts of complex numbers are looked at, in their file's byte order;
    /// what is quantised in blocks is not, and the 4- and 6-bit floats have no such values.
    #[must_use]
    pub fn finite(mut self, finite: bool) -> Self {
        self.finite = finite;
        self
    }
}

/// What a checkpoint's bytes are; see [`Loader::verify`].
#[derive(Clone, Debug)]
pub struct Verification {
    files: Vec<FileDigest>,
    tensors: Vec<TensorDigest>,
    report: Report,
}

/// The digest of a file; serialised, an entry of a [`Manifest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct FileDigest {
    /// Its path; what is not UTF-8 in it is replaced where it is serialised.
    #[serde(serialize_with = "lossy")]
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// Of all its bytes.
    pub sha256: Digest,
    /// What its name in a Hugging Face cache says that the digest is; `None` elsewhere, and for a small file, which that cache names by
    /// git's digest.
    pub expected_sha256: Option<Digest>,
}

/// The digest of a tensor; serialised, an entry of a [`Manifest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TensorDigest {
    /// Its name.
    pub name: String,
    /// The type of its elements.
    #[serde(serialize_with = "name_of")]
    pub dtype: Dtype,
    /// Its dimensions, outermost first.
    pub shape: Vec<u64>,
    /// Its size in bytes.
    pub bytes: u64,
    /// Of its bytes, as a load brings them.
    pub sha256: Digest,
    /// How many of its values are not finite; `None` for what is no float, and if it was not asked for.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub non_finite: Option<NonFinite>,
}

impl FileDigest {
    fn new(file: &FileInfo, sha256: Digest) -> Self {
        Self {
            path: file.path.clone(),
            bytes: file.bytes,
            sha256,
            expected_sha256: file.hub_blob.as_ref().and_then(|name| name.parse().ok()),
        }
    }
}

impl TensorDigest {
    /// The digest of a tensor that a loader loaded; `None` unless it was asked for [`digests`](Loader::digests).
    #[must_use]
    pub fn of(tensor: &Tensor) -> Option<Self> {
        let found = Found {
            sha256: *tensor.sha256()?,
            non_finite: None,
        };
        Some(Self::new(tensor.info(), found))
    }

    fn new(info: &TensorInfo, found: Found) -> Self {
        Self {
            name: info.name.clone(),
            dtype: info.dtype,
            shape: info.shape.clone(),
            bytes: info.bytes,
            sha256: found.sha256,
            non_finite: found.non_finite,
        }
    }
}

impl Verification {
    /// The files, in the checkpoint's order.
    #[must_use]
    pub fn files(&self) -> &[FileDigest] {
        &self.files
    }

    /// The tensors, in the checkpoint's order.
    #[must_use]
    pub fn tensors(&self) -> &[TensorDigest] {
        &self.tensors
    }

    /// What it took. `bytes` are those of the files, and of tensors that are not in place again.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// What is wrong by itself: files that are not what their names in a Hugging Face cache say, and tensors with values that are not finite,
    /// if these were counted. [`Manifest::mismatches`] finds what differs from what was recorded.
    #[must_use]
    pub fn mismatches(&self) -> Vec<Mismatch> {
        let files = self.files.iter().filter_map(Mismatch::with_blob_name);
        let tensors = self.tensors.iter().filter_map(Mismatch::not_finite);
        files.chain(tensors).collect()
    }
}

impl Loader {
    /// Reads every byte of the checkpoint's files once, and computes the SHA-256 of each file and of each tensor.
    ///
    /// Files are read as loads read them, in pieces of [`read_size`](Self::read_size) through memory of the pool, as many as the
    /// [`budget`](Self::budget) admits; by default two more than threads that wait for a disk. One thread hashes a file and one the tensors in
    /// it, several files at a time. Tensors that are not in place (strided views, compressed ones) are streamed afterwards, within the budget
    /// of a stream, so that their bytes are read twice. Tensors that share bytes have each its digest.
    ///
    /// All tensors of the files are read, but only those of `checkpoint` are told. The observer is told of reads and of tensors, and that a
    /// load is planned and finished once more if tensors had to be loaded.
    ///
    /// # Errors
    ///
    /// A file cannot be read, or is not the one that was opened, or changes meanwhile; the budget is below 8 KiB, or too small for a tensor that
    /// is not in place; the observer panics. What the digests are is no error: see [`Verification::mismatches`] and [`Manifest::mismatches`].
    ///
    /// ```no_run
    /// # fn main() -> Result<(), ckload_loaders::Error> {
    /// use ckload_loaders::{Checkpoint, Loader, Manifest, VerifyOptions};
    ///
    /// let checkpoint = Checkpoint::open("models/gpt2")?;
    /// let verification = Loader::new().verify(&checkpoint, &VerifyOptions::default())?;
    /// let mut mismatches = verification.mismatches();
    /// mismatches.extend(Manifest::read("gpt2.sha256")?.mismatches(&verification));
    /// for mismatch in mismatches {
    ///     eprintln!("{mismatch}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn verify(
        &self,
        checkpoint: &Checkpoint,
        options: &VerifyOptions,
    ) -> Result<Verification, Error> {
        let loader = traced!(self, "verify", checkpoint);
        Error::catch(|| loader.verify_all(checkpoint, *options))
    }

    fn verify_all(
        &self,
        checkpoint: &Checkpoint,
        VerifyOptions { finite }: VerifyOptions,
    ) -> Result<Verification, Error> {
        let meter = Meter::start(checkpoint.open_time());
        let elsewhere = checkpoint.only(|info| !is_in_place(info));
        self.check_budget(&elsewhere)?;
        let outcome = self.pass(checkpoint, finite, &meter)?;
        let infos = checkpoint.tensors();
        let mut found = vec![None; infos.len()];
        for (number, in_tensor) in outcome.tensors {
            self.observer.tensor(&infos[number]);
            found[number] = Some(in_tensor);
        }
        let afterwards = self.load_elsewhere(checkpoint, &elsewhere, finite, &mut found)?;
        let mut sha256s = outcome.files;
        sha256s.sort_unstable_by_key(|(number, _)| *number);
        let files = checkpoint.files().iter().zip(sha256s);
        let tensors = infos.iter().zip(found);
        let verification = Verification {
            files: files
                .map(|(file, (_, sha256))| FileDigest::new(file, sha256))
                .collect(),
            tensors: tensors
                .map(|(info, found)| match found {
                    Some(found) => Ok(TensorDigest::new(info, found)),
                    None => Err(cut_off(checkpoint, info)),
                })
                .collect::<Result<_, _>>()?,
            report: meter.report().and(&afterwards),
        };
        self.observer.finished(&verification.report);
        Ok(verification)
    }

    /// Reads all files once.
    fn pass(&self, checkpoint: &Checkpoint, finite: bool, meter: &Meter) -> Result<Outcome, Error> {
        let bytes = checkpoint.files().iter().map(|file| file.bytes).sum();
        let policy = self.policy_for(bytes, checkpoint);
        let (piece_bytes, budget) =
            self.piece_bytes(checkpoint, Some(policy.read_bytes), &policy)?;
        let files = self.open_all(checkpoint, policy)?;
        self.observer.planned(&Planned {
            tensors: checkpoint.tensors().len(),
            bytes,
        });
        let setting = Setting {
            loader: self,
            checkpoint,
            files: &files,
            meter,
            finite,
            piece_bytes,
            most_pieces: (budget / self.capacity_for(piece_bytes)) as usize,
        };
        let outcome = self.workers(&policy)?.install(|| pass(&setting))?;
        files.check_unchanged()?;
        Ok(outcome)
    }

    /// Loads the tensors that are not in place in their files, which are those of `elsewhere`, and adds what is `found` in them.
    fn load_elsewhere(
        &self,
        checkpoint: &Checkpoint,
        elsewhere: &Checkpoint,
        finite: bool,
        found: &mut [Option<Found>],
    ) -> Result<Report, Error> {
        if elsewhere.tensors().is_empty() {
            return Ok(Report::default());
        }
        let mut stream = self.clone().digests(true).begin_stream(elsewhere)?;
        for tensor in stream.by_ref() {
            let tensor = tensor?;
            if let (Some(sha256), Some(number)) =
                (tensor.sha256(), checkpoint.position(tensor.name()))
            {
                let in_tensor = Found::in_whole(tensor.info(), *sha256, tensor.bytes(), finite);
                found[number] = Some(in_tensor);
            }
        }
        Ok(stream.report())
    }
}

/// Of a tensor whose bytes did not all pass.
fn cut_off(checkpoint: &Checkpoint, info: &TensorInfo) -> Error {
    let message = "the file ends before the tensor does";
    Error::Read {
        path: checkpoint.files()[info.file].path.clone(),
        tensor: info.name.clone(),
        range: info.offset..info.offset.saturating_add(info.bytes),
        source: io::Error::new(io::ErrorKind::UnexpectedEof, message),
    }
}

/// Serialises a path as text, as well as that goes.
fn lossy<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

fn name_of<S: Serializer>(dtype: &Dtype, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(dtype.name())
}
