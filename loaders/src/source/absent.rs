//! A path where nothing is, and what it may have been meant to be.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::similar::similar;

/// So many entries of a folder are looked at.
const SEEN_ENTRIES: usize = 10_000;

/// The path that is there and most like `path`, which is not: it differs in the first part that is missing.
pub(super) fn nearest(path: &Path) -> Option<PathBuf> {
    let mut missing = path;
    loop {
        let folder = missing.parent()?;
        if folder.as_os_str().is_empty() || folder.is_dir() {
            let like = like(missing.file_name()?, folder)?;
            let rest = path.strip_prefix(missing).ok()?;
            let whole = folder.join(&like).join(rest);
            return Some(if whole.exists() {
                whole
            } else {
                folder.join(like)
            });
        }
        missing = folder;
    }
}

/// The name in `folder` that is most like `name`.
fn like(name: &OsStr, folder: &Path) -> Option<String> {
    let here = Path::new(".");
    let entries = fs::read_dir(if folder.as_os_str().is_empty() {
        here
    } else {
        folder
    });
    let mut names: Vec<String> = entries
        .ok()?
        .take(SEEN_ENTRIES)
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    // A folder's order is its file system's: of names that are equally like, the first is meant to be the same everywhere.
    names.sort_unstable();
    let found = similar(name.to_str()?, names.iter().map(String::as_str));
    found.first().map(|&name| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_part_that_is_missing_is_put_right() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        fs::create_dir_all(root.join("llama/8b")).expect("a folder");
        fs::write(root.join("llama/8b/model.safetensors"), "").expect("a file");
        for (typed, meant) in [
            ("llama/8b/modle.safetensors", "llama/8b/model.safetensors"),
            ("lama/8b/model.safetensors", "llama/8b/model.safetensors"),
            ("lama/8b/other", "llama"),
        ] {
            assert_eq!(
                nearest(&root.join(typed)),
                Some(root.join(meant)),
                "{typed}"
            );
        }
        for typed in ["gpt2", "llama/8b/config.json", "llama/../x"] {
            assert_eq!(nearest(&root.join(typed)), None, "{typed}");
        }
    }
}
