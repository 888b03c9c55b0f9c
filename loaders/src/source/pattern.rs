//! Patterns of paths, as shells have them: `*` stops at a slash and passes over hidden files, `**` stands for any folders below.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use globset::{Glob, GlobMatcher};
use walkdir::WalkDir;

use super::is_absent;
use crate::Error;

/// One step on the way to what a pattern matches.
enum Step<'a> {
    /// A name as it stands, or `/`, `.` or `..`.
    Literal(Component<'a>),
    /// Whatever matches, in a folder.
    Names { glob: GlobMatcher, hidden: bool },
    /// A folder and all below it. Links are not followed here: with links in circles there would be no end of folders.
    Below,
}

/// What matches `pattern`, in the order of the names; `None` if it has no wildcard, or is not a valid pattern.
pub(super) fn matches(pattern: &Path) -> Result<Option<Vec<PathBuf>>, Error> {
    let Some(steps) = steps(pattern) else {
        return Ok(None);
    };
    let mut found = BTreeSet::from([PathBuf::new()]);
    for step in &steps {
        let mut next = BTreeSet::new();
        for path in found {
            match step {
                Step::Literal(part) => {
                    next.insert(path.join(part));
                }
                Step::Names { glob, hidden } => add_names(&path, glob, *hidden, &mut next)?,
                Step::Below => add_below(&path, &mut next)?,
            }
        }
        found = next;
    }
    let is_there = |path: &PathBuf| fs::symlink_metadata(path).is_ok();
    Ok(Some(found.into_iter().filter(is_there).collect()))
}

fn steps(pattern: &Path) -> Option<Vec<Step<'_>>> {
    let mut steps = Vec::new();
    let mut has_wildcard = false;
    for part in pattern.components() {
        let name = match part {
            Component::Normal(name) => name.to_str()?,
            _ => "",
        };
        let is_wildcard = name.contains(['*', '?', '[', '{']);
        has_wildcard |= is_wildcard;
        steps.push(if name == "**" {
            Step::Below
        } else if is_wildcard {
            Step::Names {
                glob: Glob::new(name).ok()?.compile_matcher(),
                hidden: name.starts_with('.'),
            }
        } else {
            Step::Literal(part)
        });
    }
    has_wildcard.then_some(steps)
}

/// Adds what matches `glob` in `folder`, if that is one.
fn add_names(
    folder: &Path,
    glob: &GlobMatcher,
    hidden: bool,
    next: &mut BTreeSet<PathBuf>,
) -> Result<(), Error> {
    let entries = match fs::read_dir(or_here(folder)) {
        Err(error) if is_absent(&error) => return Ok(()),
        entries => entries.map_err(Error::io("read the folder", folder))?,
    };
    for entry in entries {
        let name = entry
            .map_err(Error::io("read the folder", folder))?
            .file_name();
        let is_shown = hidden || !name.as_encoded_bytes().starts_with(b".");
        if is_shown && glob.is_match(&name) {
            next.insert(folder.join(name));
        }
    }
    Ok(())
}

/// Adds `folder` and the folders below it.
fn add_below(folder: &Path, next: &mut BTreeSet<PathBuf>) -> Result<(), Error> {
    if !or_here(folder).is_dir() {
        return Ok(());
    }
    next.insert(folder.to_owned());
    let below = WalkDir::new(or_here(folder)).min_depth(1);
    let below = below.into_iter().filter_entry(|entry| {
        entry.file_type().is_dir() && !entry.file_name().as_encoded_bytes().starts_with(b".")
    });
    for entry in below {
        let entry = entry.map_err(|error| {
            let path = error.path().unwrap_or(folder).to_owned();
            Error::io("read the folder", &path)(error.into())
        })?;
        let path = entry.path();
        let below = path.strip_prefix(or_here(folder)).unwrap_or(path);
        next.insert(folder.join(below));
    }
    Ok(())
}

/// The empty path begins a relative one, and cannot be opened.
fn or_here(folder: &Path) -> &Path {
    if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    }
}
