//! Which folders models may come from.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use axum::http::StatusCode;

use crate::error::ApiError;

/// What does not exist is looked for through no more links and folders than this, as the system does for what exists.
const MAX_LINKS: usize = 40;

/// The folders that the operator named; nothing is loaded from anywhere else.
pub(crate) struct Folders {
    /// Without links.
    roots: Vec<PathBuf>,
}

impl Folders {
    pub(crate) fn open(folders: &[PathBuf]) -> anyhow::Result<Self> {
        let root = |folder: &PathBuf| {
            let root = fs::canonicalize(folder).with_context(|| folder.display().to_string())?;
            ensure!(root.is_dir(), "{} is not a folder", folder.display());
            Ok(root)
        };
        let roots = folders.iter().map(root).collect::<anyhow::Result<_>>()?;
        Ok(Self { roots })
    }

    /// The model's folder that `path` means, without links; relative to any of the folders, or absolute.
    ///
    /// What is outside is refused whether it exists or not, so that nobody learns which of them it is. What its folders hold is not looked
    /// at: see [`check_place`](Self::check_place).
    pub(crate) fn admit(&self, path: &str) -> Result<PathBuf, ApiError> {
        let mut error = refused(Path::new(path));
        for root in &self.roots {
            let Some(found) = self.inside(&root.join(path)) else {
                continue;
            };
            match fs::metadata(&found) {
                Ok(_) => {
                    self.check_entries(&found)?;
                    return Ok(found);
                }
                Err(failed) => error = unreadable(Path::new(path), &failed),
            }
        }
        Err(error)
    }

    /// Refuses a file that is elsewhere. (Links within the folders are usual: the cache of Hugging Face is made of them.)
    pub(crate) fn check_place(&self, path: &Path) -> Result<PathBuf, ApiError> {
        self.inside(path).ok_or_else(|| refused(path))
    }

    /// Refuses a folder of which a part is elsewhere, or is what a reader might wait for, such as a pipe.
    fn check_entries(&self, folder: &Path) -> Result<(), ApiError> {
        let entries = fs::read_dir(folder).map_err(|failed| unreadable(folder, &failed))?;
        for entry in entries {
            let path = entry.map_err(|failed| unreadable(folder, &failed))?.path();
            let found = self.check_place(&path)?;
            let metadata = fs::metadata(found).map_err(|failed| unreadable(&path, &failed))?;
            if !metadata.is_file() && !metadata.is_dir() {
                return Err(not_a_file(&path));
            }
        }
        Ok(())
    }

    /// Where `path` leads, if that is in one of the folders.
    fn inside(&self, path: &Path) -> Option<PathBuf> {
        let found = leads_to(path, MAX_LINKS)?;
        let is_inside = self.roots.iter().any(|root| found.starts_with(root));
        is_inside.then_some(found)
    }
}

/// Where `path` leads, also if nothing is there; `None` if more than `links` links follow one another.
fn leads_to(path: &Path, links: usize) -> Option<PathBuf> {
    if let Ok(found) = fs::canonicalize(path) {
        return Some(found);
    }
    let (Some(folder), links) = (path.parent(), links.checked_sub(1)?) else {
        return Some(path.to_owned());
    };
    if let Ok(target) = fs::read_link(path) {
        return leads_to(&folder.join(target), links);
    }
    let mut found = leads_to(folder, links)?;
    match path.file_name() {
        Some(name) => found.push(name),
        // It ends in "..".
        None => _ = found.pop(),
    }
    // After ".." there may be links again.
    if found == path {
        Some(found)
    } else {
        leads_to(&found, links)
    }
}

fn refused(path: &Path) -> ApiError {
    let message = format!(
        "{} is not in a folder that models may be loaded from; the server's --models names those",
        path.display()
    );
    ApiError::new(StatusCode::FORBIDDEN, "outside", message).about(path)
}

fn unreadable(path: &Path, failed: &io::Error) -> ApiError {
    let status = match failed.kind() {
        io::ErrorKind::NotFound => StatusCode::NOT_FOUND,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    };
    ApiError::new(status, "no_folder", format!("{}: {failed}", path.display())).about(path)
}

fn not_a_file(path: &Path) -> ApiError {
    let message = format!("{} is neither a file nor a folder", path.display());
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "not_a_file", message).about(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use super::*;

    /// `inside/{model,link → model,leak → outside,mixed/weights → outside/secret}` and `outside/secret`; links to what does not exist
    /// are `inside/{dangling → ../absent,chain → dangling,hollow/weights → ../../absent,stale → absent,circle → circle}`.
    fn tree() -> (tempfile::TempDir, Folders) {
        let top = tempfile::tempdir().unwrap();
        let path = |name: &str| top.path().join(name);
        for folder in ["inside/model", "inside/mixed", "inside/hollow", "outside"] {
            fs::create_dir_all(path(folder)).unwrap();
        }
        fs::write(path("outside/secret"), "x").unwrap();
        fs::write(path("inside/model/config.json"), "{}").unwrap();
        symlink("model", path("inside/link")).unwrap();
        symlink("../outside", path("inside/leak")).unwrap();
        symlink("../../outside/secret", path("inside/mixed/weights")).unwrap();
        symlink("../absent", path("inside/dangling")).unwrap();
        symlink("dangling", path("inside/chain")).unwrap();
        symlink("absent", path("inside/stale")).unwrap();
        symlink("circle", path("inside/circle")).unwrap();
        symlink("../../absent", path("inside/hollow/weights")).unwrap();
        let folders = Folders::open(&[path("inside")]).unwrap();
        (top, folders)
    }

    #[test]
    fn what_is_inside_is_admitted_by_any_of_its_names() {
        let (top, folders) = tree();
        let model = fs::canonicalize(top.path().join("inside/model")).unwrap();
        let absolute = model.display().to_string();
        for path in ["model", "./model/", "link", "mixed/../model", &absolute] {
            assert_eq!(folders.admit(path).unwrap(), model, "{path}");
        }
    }

    #[test]
    fn what_leads_outside_is_refused() {
        let (top, folders) = tree();
        let outside = top.path().join("outside").display().to_string();
        let absent = top.path().join("absent").display().to_string();
        let paths = [
            "..",
            "../outside",
            "leak",
            "model/../../outside",
            "mixed",
            "../absent",
            "leak/absent",
            "leak/absent/../../absent",
            "absent/../leak",
            "absent/../leak/absent",
            "dangling",
            "dangling/absent",
            "chain",
            "hollow",
            "circle",
            "/etc",
            "/absent",
        ];
        for path in paths.into_iter().chain([&*outside, &absent]) {
            assert_eq!(folders.admit(path).unwrap_err().kind, "outside", "{path}");
        }
        for path in [
            "absent",
            "absent/../model/absent",
            "model/config.json",
            "stale",
        ] {
            assert_eq!(folders.admit(path).unwrap_err().kind, "no_folder", "{path}");
        }
    }

    #[test]
    fn a_file_of_a_subfolder_is_found_where_it_is() {
        let (top, folders) = tree();
        let inside = top.path().join("inside");
        for path in ["model/config.json", "link/config.json", "model/absent"] {
            assert!(folders.check_place(&inside.join(path)).is_ok(), "{path}");
        }
        for path in ["leak/secret", "leak/absent", "mixed/weights", "dangling"] {
            let refused = folders.check_place(&inside.join(path)).unwrap_err();
            assert_eq!(refused.kind, "outside", "{path}");
        }
    }

    #[test]
    fn a_pipe_is_not_waited_for() {
        let (top, folders) = tree();
        let pipe = top.path().join("inside/model/tokenizer.json");
        assert!(Command::new("mkfifo").arg(pipe).status().unwrap().success());
        assert_eq!(folders.admit("model").unwrap_err().kind, "not_a_file");
    }
}
