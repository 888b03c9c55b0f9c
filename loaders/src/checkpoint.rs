//! A checkpoint that was opened: its headers are read, its tensors are known, none is loaded.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use rayon::ThreadPoolBuilder;
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use serde::Serialize;

use crate::format::gguf::{Part, check_parts};
use crate::format::{self, Format, Header};
use crate::plan::STEP;
use crate::read::is_remote;
use crate::similar::similar;
use crate::source::{self, Source};
use crate::stored::{Arrangement, ByteOrder, Stored};
use crate::{Dtype, Error, MetadataValue, Select, Shard};

/// So many headers are read at a time: a network takes its time for each, a disk and the parser have enough to do.
const HEADER_THREADS: usize = 8;

/// A file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct FileInfo {
    /// Its path.
    pub path: PathBuf,
    /// Its size in bytes, header included.
    pub bytes: u64,
    /// The name of the blob that the file links to in a cache of Hugging Face: there a large file is named by its SHA-256 (64 hexadecimal
    /// digits), a small one by its object name in git (40). `None` for a file that is no such link.
    pub hub_blob: Option<String>,
}

/// A tensor of a checkpoint: what its file's header says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorInfo {
    /// Its name, unique in the checkpoint.
    pub name: String,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its dimensions, outermost first; empty for a scalar.
    pub shape: Vec<u64>,
    /// Its size in bytes.
    pub bytes: u64,
    /// The file that holds it, as an index into [`Checkpoint::files`].
    pub file: usize,
    /// Its first byte, from the start of the file; of a compressed tensor the first byte of what is compressed.
    pub offset: u64,
    /// In which order the bytes of an element lie.
    pub byte_order: ByteOrder,
    pub(crate) stored: Stored,
    pub(crate) shards: Box<[Shard]>,
}

impl TensorInfo {
    /// A tensor whose elements lie in its file one behind the other, little-endian, in the checkpoint's first file.
    pub(crate) fn in_place(
        name: String,
        dtype: Dtype,
        shape: Vec<u64>,
        bytes: u64,
        offset: u64,
    ) -> Self {
        Self {
            name,
            dtype,
            shape,
            bytes,
            file: 0,
            offset,
            byte_order: ByteOrder::Little,
            stored: Stored::InPlace,
            shards: Box::default(),
        }
    }

    /// Which part this is of the tensor in the file: a [`Select`] has taken these parts one of the other, the first of the whole. Empty for a
    /// whole tensor.
    #[must_use]
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// How far from a page's start the tensor is to lie in memory so that its file's blocks can be read into place: as far as in the
    /// file, if its dtype may lie there; else 0.
    pub(crate) fn step(&self) -> u64 {
        let agrees = self.offset.is_multiple_of(self.dtype.alignment());
        match self.stored {
            Stored::InPlace if agrees => self.offset % STEP,
            _ => 0,
        }
    }

    /// What a load has to do to the bytes besides reading them: nothing, but for some tensors of PyTorch and NumPy files.
    #[must_use]
    pub fn arrangement(&self) -> Arrangement {
        self.stored.arrangement()
    }
}

/// A checkpoint whose headers were read; cheap to clone.
///
/// Opening reads kilobytes, whatever the checkpoint's size; of a GGUF file also the vocabulary, some megabytes. The files themselves are
/// opened again by each load, which refuses files that are not those whose headers were read.
///
/// ```no_run
/// # fn main() -> Result<(), ckload_loaders::Error> {
/// let checkpoint = ckload_loaders::Checkpoint::open("model.safetensors")?;
/// for tensor in checkpoint.tensors() {
///     println!("{} {} {:?}", tensor.name, tensor.dtype, tensor.shape);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Checkpoint {
    opened: Arc<Opened>,
    tensors: Arc<Tensors>,
}

#[derive(Debug)]
struct Opened {
    path: PathBuf,
    format: Format,
    files: Vec<FileInfo>,
    ignored: Vec<PathBuf>,
    identities: Vec<Identity>,
    /// Whether a file is on a network file system.
    is_remote: bool,
    metadata: BTreeMap<String, MetadataValue>,
    open_time: Duration,
}

/// The tensors in file order, and where each name is.
#[derive(Debug, Default)]
struct Tensors {
    infos: Vec<TensorInfo>,
    /// Numbers in `infos`, by the hash of the name: a checkpoint can have so many tensors that their names are not to be there twice.
    by_name: HashTable<u32>,
    hasher: RandomState,
}

impl Tensors {
    /// Adds a tensor; gives its name back, and the number of the one that has it, if there is one.
    fn push(&mut self, info: TensorInfo) -> Result<(), (usize, String)> {
        let Self {
            infos,
            by_name,
            hasher,
        } = self;
        let name_of = |&number: &u32| &infos[number as usize].name;
        let slot = by_name.entry(
            hasher.hash_one(&info.name),
            |number| *name_of(number) == info.name,
            |number| hasher.hash_one(name_of(number)),
        );
        match slot {
            Entry::Occupied(first) => Err((*first.get() as usize, info.name)),
            Entry::Vacant(slot) => {
                slot.insert(infos.len() as u32);
                infos.push(info);
                Ok(())
            }
        }
    }

    fn position(&self, name: &str) -> Option<usize> {
        let has_name = |&number: &u32| self.infos[number as usize].name == name;
        let number = self.by_name.find(self.hasher.hash_one(name), has_name)?;
        Some(*number as usize)
    }
}

impl Checkpoint {
    /// Reads the headers of the checkpoint at `path`: a file, a folder, an index, or one of these in a cache of Hugging Face.
    ///
    /// * A file is read as what its first bytes say. Any part of a GGUF model that is split (`NAME-00001-of-00003.gguf`) stands for all of them.
    /// * In a folder safetensors come first, then PyTorch files with an index, GGUF, PyTorch files, NumPy. An index decides which files
    ///   belong to the checkpoint; without one every `.safetensors` file does that is no variant (`model.fp16.safetensors`) of
    ///   another. [`Checkpoint::ignored`] tells what was left out.
    /// * An index: `model.safetensors.index.json`, `pytorch_model.bin.index.json`.
    /// * In a cache of Hugging Face a repository's folder (`models--org--name`), which stands for its `main`, and a snapshot.
    /// * What does not exist and has one of `*?[{` is a pattern, as shells have them; the files that match are one checkpoint.
    /// * What does not exist and reads like `org/name`, or `org/name@revision`, is looked for in the cache of Hugging Face: in `HF_HUB_CACHE`,
    ///   else `HF_HOME/hub`, else `~/.cache/huggingface/hub`. Nothing is ever downloaded.
    ///
    /// # Errors
    ///
    /// The path cannot be read or holds no checkpoint; a header breaks a rule of its format; a file is shorter or longer than its
    /// header says; an index does not fit its files. See [`Error`] for each.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let start = Instant::now();
        let path = path.as_ref();
        #[cfg(feature = "tracing")]
        let _span = tracing::debug_span!("open", ?path).entered();
        let Source {
            files,
            index,
            ignored,
        } = source::find(path)?;
        let mut opened = Opened {
            path: path.to_owned(),
            format: Format::Safetensors,
            files: Vec::with_capacity(files.len()),
            ignored,
            identities: Vec::with_capacity(files.len()),
            is_remote: false,
            metadata: BTreeMap::new(),
            open_time: Duration::ZERO,
        };
        let mut tensors = Tensors::default();
        let mut bytes = 0;
        let mut parts = Vec::with_capacity(files.len());
        for (number, file) in read_headers(files).into_iter().enumerate() {
            let shard = index
                .as_ref()
                .map(|(_, index)| index.shards[number].0.as_str());
            let OpenedFile {
                info: file,
                identity,
                is_remote,
                header,
            } = file?;
            if number == 0 {
                opened.format = header.format;
            }
            parts.push(Part::of(&header));
            for (key, value) in header.metadata {
                opened.metadata.entry(key).or_insert(value);
            }
            for mut info in header.tensors {
                if let (Some((_, index)), Some(shard)) = (&index, shard)
                    && index
                        .weight_map
                        .get(&info.name)
                        .is_some_and(|owner| owner != shard)
                {
                    continue; // the index takes this tensor from another file
                }
                info.file = number;
                bytes = checked_sum(bytes, &info, &file.path)?;
                if let Err((first, tensor)) = tensors.push(info) {
                    let first = &opened.files[tensors.infos[first].file];
                    return Err(Error::DuplicateTensor {
                        path: file.path,
                        first: first.path.clone(),
                        tensor,
                    });
                }
            }
            opened.identities.push(identity);
            opened.is_remote |= is_remote;
            opened.files.push(file);
        }
        check_parts(&opened.files, &parts, tensors.infos.len())?;
        if let Some((path, index)) = index
            && let Some((tensor, shard)) = index
                .weight_map
                .iter()
                .find(|(name, _)| tensors.position(name).is_none())
        {
            return Err(Error::NotInShard {
                path,
                tensor: tensor.clone(),
                shard: shard.clone(),
            });
        }
        opened.open_time = start.elapsed();
        #[cfg(feature = "tracing")]
        tracing::debug!(
            format = %opened.format,
            files = opened.files.len(),
            tensors = tensors.infos.len(),
            bytes,
            duration = ?opened.open_time,
            "opened"
        );
        Ok(Self {
            opened: Arc::new(opened),
            tensors: Arc::new(tensors),
        })
    }

    /// One file with these tensors, whatever its format.
    #[cfg(test)]
    pub(crate) fn with_tensors(path: &Path, infos: Vec<TensorInfo>) -> Self {
        let (file, metadata) = source::open_regular(path).expect("a file");
        let opened = Opened {
            path: path.to_owned(),
            format: Format::Safetensors,
            files: vec![FileInfo {
                path: path.to_owned(),
                bytes: metadata.len(),
                hub_blob: None,
            }],
            ignored: Vec::new(),
            identities: vec![Identity::of(&metadata)],
            is_remote: is_remote(&file),
            metadata: BTreeMap::new(),
            open_time: Duration::ZERO,
        };
        let empty = Self {
            opened: Arc::new(opened),
            tensors: Arc::default(),
        };
        empty.of(infos)
    }

    /// The path as it was given.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.opened.path
    }

    /// The format of the files; of the first, if they are of several.
    #[must_use]
    pub fn format(&self) -> Format {
        self.opened.format
    }

    /// The files, in the order in which they are read.
    #[must_use]
    pub fn files(&self) -> &[FileInfo] {
        &self.opened.files
    }

    /// Files of the same folder that look like a checkpoint's and were left out, in the order of their names.
    ///
    /// Empty unless a folder was opened.
    #[must_use]
    pub fn ignored(&self) -> &[PathBuf] {
        &self.opened.ignored
    }

    /// The tensors in file order: by file, then by their place in it.
    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors.infos
    }

    /// The tensor called `name`.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.position(name).map(|at| &self.tensors.infos[at])
    }

    /// The names of tensors that are like `name`, the most alike first: what to suggest to whoever mistyped one. Of names that differ in
    /// numbers only, such as those of a model's blocks, the best is there. Empty if none is much alike.
    #[must_use]
    pub fn similar_names(&self, name: &str) -> Vec<&str> {
        let names = self.tensors().iter().map(|info| info.name.as_str());
        similar(name, names)
    }

    /// The free-form metadata of the files' headers; where several files have a key, the first one's value.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, MetadataValue> {
        &self.opened.metadata
    }

    /// The bytes of all tensors together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.tensors.infos.iter().map(|info| info.bytes).sum()
    }

    /// How long it took to find the files and to read their headers.
    #[must_use]
    pub fn open_time(&self) -> Duration {
        self.opened.open_time
    }

    /// Whether a file is on a network file system, or on one that may be.
    pub(crate) fn is_remote(&self) -> bool {
        self.opened.is_remote
    }

    /// The same checkpoint with only the tensors that `select` admits, and of these only the parts that it wants: their shapes, sizes
    /// and offsets are those of the parts.
    ///
    /// # Errors
    ///
    /// The checkpoint lacks a tensor that is named. A tensor cannot be divided as a rule says: it lacks the dimension, the parts would not
    /// be equal, or they would cut a block of elements that are packed together.
    pub fn select(&self, select: &Select) -> Result<Self, Error> {
        for name in select.required() {
            self.position(name)
                .ok_or_else(|| Error::unknown_tensor(self, name))?;
        }
        let admitted = self.tensors().iter();
        let admitted = admitted.filter(|info| select.admits(&info.name));
        let mut parts: Vec<TensorInfo> = admitted
            .map(|info| match select.shard_of(info) {
                Some(shard) => info.part(shard),
                None => Ok(info.clone()),
            })
            .collect::<Result<_, _>>()?;
        // Where tensors share bytes, parts may start in another order than the whole.
        parts.sort_by_key(|info| (info.file, info.offset));
        Ok(self.of(parts))
    }

    /// The same checkpoint with only the tensors that `admitted` is true of.
    pub(crate) fn only(&self, admitted: impl Fn(&TensorInfo) -> bool) -> Self {
        let admitted = self.tensors().iter().filter(|info| admitted(info));
        self.of(admitted.cloned())
    }

    /// The same checkpoint with these tensors, whose names differ.
    fn of(&self, infos: impl IntoIterator<Item = TensorInfo>) -> Self {
        let mut tensors = Tensors::default();
        for info in infos {
            let added = tensors.push(info);
            debug_assert!(added.is_ok(), "names were unique before");
        }
        Self {
            opened: Arc::clone(&self.opened),
            tensors: Arc::new(tensors),
        }
    }

    /// Where `name` is in [`Checkpoint::tensors`].
    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        self.tensors.position(name)
    }

    /// Refuses `file`, opened for number `number` of the files, if it is not the one whose header was read.
    pub(crate) fn check_unchanged(&self, number: usize, file: &File) -> Result<(), Error> {
        let path = &self.opened.files[number].path;
        let metadata = file.metadata().map_err(Error::io("inspect", path))?;
        match self.opened.identities[number].difference(&Identity::of(&metadata)) {
            None => Ok(()),
            Some(what) => Err(Error::Changed {
                path: path.clone(),
                what,
            }),
        }
    }

    /// The tensor whose bytes hold offset `at` of file number `file`, for an error's message.
    pub(crate) fn tensor_at(&self, file: usize, at: u64) -> Option<&TensorInfo> {
        let after = self
            .tensors
            .infos
            .partition_point(|info| (info.file, info.offset) <= (file, at));
        self.tensors.infos[..after]
            .iter()
            .rev()
            .find(|info| info.file == file && at < info.file_range().end)
    }
}

/// `bytes` and those of one more tensor, which is in the file at `path`: as many as memory has addresses for, at most.
///
/// Views and compressed members have more bytes than their file, which may itself be sparse.
fn checked_sum(bytes: u64, info: &TensorInfo, path: &Path) -> Result<u64, Error> {
    let sum = bytes.checked_add(info.bytes);
    sum.filter(|&sum| isize::try_from(sum).is_ok())
        .ok_or_else(|| Error::Unsupported {
            path: path.to_owned(),
            place: format!("tensor {:?}", info.name),
            reason: "with it the tensors have more bytes than memory has addresses".to_owned(),
        })
}

/// A file whose header was read.
struct OpenedFile {
    info: FileInfo,
    identity: Identity,
    is_remote: bool,
    header: Header,
}

impl OpenedFile {
    fn open(path: PathBuf) -> Result<Self, Error> {
        let (file, metadata) = source::open_regular(&path)?;
        Ok(Self {
            header: format::read_header(&path, &file, metadata.len())?,
            identity: Identity::of(&metadata),
            is_remote: is_remote(&file),
            info: FileInfo {
                bytes: metadata.len(),
                hub_blob: source::blob_of(&path),
                path,
            },
        })
    }
}

/// Reads the headers of several files at a time; the results are in the order of the files.
fn read_headers(files: Vec<PathBuf>) -> Vec<Result<OpenedFile, Error>> {
    let threads = ThreadPoolBuilder::new()
        .num_threads(files.len().min(HEADER_THREADS))
        .thread_name(|number| format!("ckload-open-{number}"));
    // Threads are a gain, not a need.
    match (files.len() > 1).then(|| threads.build()) {
        Some(Ok(threads)) => {
            threads.install(|| files.into_par_iter().map(OpenedFile::open).collect())
        }
        _ => files.into_iter().map(OpenedFile::open).collect(),
    }
}

/// What tells a file from one that took its place.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    bytes: u64,
    modified: (i64, i64),
    inode: (u64, u64),
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Self {
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            inode: (metadata.dev(), metadata.ino()),
        }
    }

    /// What differs in `now`, if anything does.
    fn difference(&self, now: &Self) -> Option<&'static str> {
        if self.inode != now.inode {
            Some("another file has taken its place")
        } else if self.bytes != now.bytes {
            Some("its size differs")
        } else if self.modified != now.modified {
            Some("its modification time differs")
        } else {
            None
        }
    }
}
