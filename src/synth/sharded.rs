//! Checkpoints of several files with an index.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use serde_json::json;

use super::write::{check_space, folder_of};
use super::{Blueprint, Error, IfExists, TensorSpec};

/// The name of the index, as `transformers` has it.
const INDEX: &str = "model.safetensors.index.json";

/// A checkpoint of several files, `model-00001-of-00004.safetensors` and so on, with a `model.safetensors.index.json` that says which
/// tensor is where.
#[derive(Clone, Debug)]
pub struct ShardedBlueprint {
    shards: Vec<Blueprint>,
}

impl ShardedBlueprint {
    /// Divides `tensors`, in their order, into `count` files of about equal size. Within a file the tensors of wider elements come first,
    /// then they are in the order of their names, behind a header that is padded to 8 bytes, as the safetensors library writes them.
    pub fn new(tensors: Vec<TensorSpec>, count: usize) -> Self {
        let total: u64 = tensors.iter().map(TensorSpec::bytes).sum();
        let mut shards = vec![Vec::new(); count.max(1)];
        let mut before = 0;
        for tensor in tensors {
            let bytes = tensor.bytes();
            // Where the tensor's middle lies decides, so that files are never far from their share.
            let middle = u128::from(before + bytes / 2) * shards.len() as u128;
            let shard = (middle / u128::from(total.max(1))) as usize;
            let last = shards.len() - 1;
            shards[shard.min(last)].push(tensor);
            before += bytes;
        }
        let shards = shards.into_iter().map(|mut tensors: Vec<TensorSpec>| {
            tensors.sort_by(|a, b| {
                let wider = b.element.bytes().cmp(&a.element.bytes());
                wider.then_with(|| a.name.cmp(&b.name))
            });
            Blueprint::new(tensors)
                .with_metadata("format", "pt")
                .padded()
        });
        Self {
            shards: shards.collect(),
        }
    }

    /// The files, in their order.
    pub fn shards(&self) -> &[Blueprint] {
        &self.shards
    }

    /// Number of tensors of all files.
    pub fn tensor_count(&self) -> usize {
        let counts = self.shards.iter().map(|shard| shard.tensors().len());
        counts.sum()
    }

    /// Bytes of all tensors.
    pub fn data_bytes(&self) -> u64 {
        self.shards.iter().map(Blueprint::data_bytes).sum()
    }

    /// Bytes of all files but the index.
    pub fn file_bytes(&self) -> u64 {
        self.shards.iter().map(Blueprint::file_bytes).sum()
    }

    /// The name of file number `number`, from 0.
    pub fn file_name(&self, number: usize) -> String {
        let count = self.shards.len();
        format!("model-{:05}-of-{count:05}.safetensors", number + 1)
    }

    /// The text of the index.
    pub fn index(&self) -> String {
        let places: BTreeMap<&str, String> = (self.shards.iter().enumerate())
            .flat_map(|(number, shard)| {
                let names = shard.tensors().iter().map(|tensor| tensor.name.as_str());
                names.map(move |name| (name, self.file_name(number)))
            })
            .collect();
        let index = json!({
            "metadata": {"total_size": self.data_bytes()},
            "weight_map": places,
        });
        format!("{index:#}\n")
    }

    /// Writes the checkpoint to a folder, and calls `progress` with the number of bytes that each write added.
    ///
    /// The files go to a temporary folder beside it first, which is removed on every error and when `progress` returns
    /// [`ControlFlow::Break`]: nobody sees half a checkpoint. What is to be replaced in a folder that is there are the files of the same
    /// names; others stay.
    ///
    /// # Errors
    ///
    /// As [`Blueprint::write_file_with`].
    pub fn write_folder_with(
        &self,
        path: impl AsRef<Path>,
        seed: u64,
        if_exists: IfExists,
        mut progress: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let path = path.as_ref();
        let io_error = |source| Error::Io {
            path: path.to_owned(),
            source,
        };
        let is_there = check_folder(path, if_exists)?;
        let parent = folder_of(path);
        check_space(path, parent, self.file_bytes()).map_err(io_error)??;
        let temporary = tempfile::Builder::new()
            .prefix(".ckload-")
            .tempdir_in(parent)
            .map_err(io_error)?;
        for (number, shard) in self.shards.iter().enumerate() {
            let file = temporary.path().join(self.file_name(number));
            let own_seed = seed.wrapping_add(number as u64);
            shard
                .write_file_with(&file, own_seed, IfExists::Refuse, &mut progress)
                .map_err(|error| match error {
                    // Nobody knows the temporary folder.
                    Error::Stopped { .. } => Error::Stopped {
                        path: path.to_owned(),
                    },
                    Error::Io { source, .. } => io_error(source),
                    other => other,
                })?;
        }
        fs::write(temporary.path().join(INDEX), self.index()).map_err(io_error)?;
        if is_there {
            self.move_into(temporary.path(), path).map_err(io_error)
        } else {
            make_readable(temporary.path()).map_err(io_error)?;
            fs::rename(temporary.keep(), path).map_err(io_error)
        }
    }

    /// The index goes last: until then it is that of the old files.
    fn move_into(&self, from: &Path, to: &Path) -> io::Result<()> {
        let files = (0..self.shards.len()).map(|number| self.file_name(number));
        for name in files.chain([INDEX.to_owned()]) {
            fs::rename(from.join(&name), to.join(&name))?;
        }
        Ok(())
    }
}

/// Whether the folder is there; refuses what is not to be replaced or is no folder.
fn check_folder(path: &Path, if_exists: IfExists) -> Result<bool, Error> {
    let path = path.to_owned();
    match (path.symlink_metadata(), if_exists) {
        (Err(_), _) => Ok(false),
        (Ok(_), IfExists::Refuse) => Err(Error::Exists { path }),
        (Ok(found), IfExists::Replace) if !found.is_dir() => Err(Error::NotAFolder { path }),
        (Ok(_), IfExists::Replace) => Ok(true),
    }
}

/// Temporary folders are for their owner alone; this one becomes an ordinary one.
fn make_readable(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mask = rustix::process::umask(rustix::fs::Mode::empty());
    rustix::process::umask(mask);
    let mode = 0o777 & !mask.bits();
    fs::set_permissions(folder, fs::Permissions::from_mode(mode))
}
