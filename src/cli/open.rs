//! Opening what a person named, and telling what was left out.

use std::path::{Path, PathBuf};

use ckload::Checkpoint;

use super::options::OutputOptions;
use super::{Error, style, units};

/// So many of the files that were left out are named.
const NAMED_FILES: usize = 4;

/// Opens the checkpoint at `path`, and warns if other files of its folder were left out.
pub(crate) fn open(path: &Path, output: &OutputOptions) -> Result<Checkpoint, Error> {
    let checkpoint = Checkpoint::open(path)?;
    if !checkpoint.ignored().is_empty() {
        output.warn(&format!(
            "{} also holds {}; ignored, name one to load it",
            path.display(),
            named(checkpoint.ignored())
        ))?;
    }
    Ok(checkpoint)
}

/// The names of the first few files, and how many more there are.
fn named(paths: &[PathBuf]) -> String {
    let names = paths.iter().take(NAMED_FILES).map(|path| file_name(path));
    let mut list = names.collect::<Vec<_>>().join(", ");
    if paths.len() > NAMED_FILES {
        let more = (paths.len() - NAMED_FILES) as u64;
        list += &format!(" and {} more", units::count(more));
    }
    list
}

/// What to call each file of `checkpoint`: its name, unless they lie in several folders.
pub(crate) fn file_labels(checkpoint: &Checkpoint) -> Vec<String> {
    let files = checkpoint.files();
    let are_together = files
        .windows(2)
        .all(|pair| pair[0].path.parent() == pair[1].path.parent());
    files
        .iter()
        .map(|file| {
            let label = if are_together {
                file_name(&file.path)
            } else {
                file.path.to_string_lossy().into_owned()
            };
            style::escape(&label).into_owned()
        })
        .collect()
}

/// The last part of `path`, for people.
pub(crate) fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}
