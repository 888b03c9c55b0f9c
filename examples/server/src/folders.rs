//! Which folders models may come from.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use axum::http::StatusCode;

use crate::error::ApiError;

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
    /// What is outside is refused whether it exists or not, so that nobody learns which of them it is.
    pub(crate) fn admit(&self, path: &str) -> Result<PathBuf, ApiError> {
        let mut error = refused(Path::new(path));
        for root in &self.roots {
            match fs::canonicalize(root.join(path)) {
                Ok(found) if self.holds(&found) => {
                    self.check_entries(&found)?;
                    return Ok(found);
                }
                Err(failed) if lies_below(root, &root.join(path)) => {
                    error = unreadable(Path::new(path), &failed);
                }
                _ => {}
            }
        }
        Err(error)
    }

    /// Refuses a folder of which a part is elsewhere. (Links within the folders are usual: the cache of Hugging Face is made of them.)
    fn check_entries(&self, folder: &Path) -> Result<(), ApiError> {
        let entries = fs::read_dir(folder).map_err(|failed| unreadable(folder, &failed))?;
        for entry in entries {
            let path = entry.map_err(|failed| unreadable(folder, &failed))?.path();
            match fs::canonicalize(&path) {
                Ok(found) if self.holds(&found) => {}
                Ok(_) => return Err(refused(&path)),
                Err(failed) => return Err(unreadable(&path, &failed)),
            }
        }
        Ok(())
    }

    fn holds(&self, path: &Path) -> bool {
        self.roots.iter().any(|root| path.starts_with(root))
    }
}

/// Whether the nearest part of `path` that exists is in `root`.
fn lies_below(root: &Path, path: &Path) -> bool {
    let existing = path
        .ancestors()
        .find_map(|part| fs::canonicalize(part).ok());
    existing.is_some_and(|part| part.starts_with(root))
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// `inside/{model,link → model,leak → outside,mixed/weights → outside/secret}` and `outside/secret`.
    fn tree() -> (tempfile::TempDir, Folders) {
        let top = tempfile::tempdir().unwrap();
        let path = |name: &str| top.path().join(name);
        for folder in ["inside/model", "inside/mixed", "outside"] {
            fs::create_dir_all(path(folder)).unwrap();
        }
        fs::write(path("outside/secret"), "x").unwrap();
        fs::write(path("inside/model/config.json"), "{}").unwrap();
        symlink("model", path("inside/link")).unwrap();
        symlink("../outside", path("inside/leak")).unwrap();
        symlink("../../outside/secret", path("inside/mixed/weights")).unwrap();
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
            "/etc",
            "/absent",
        ];
        for path in paths.into_iter().chain([&*outside, &absent]) {
            assert_eq!(folders.admit(path).unwrap_err().kind, "outside", "{path}");
        }
        assert_eq!(folders.admit("absent").unwrap_err().kind, "no_folder");
        assert_eq!(
            folders.admit("model/config.json").unwrap_err().kind,
            "no_folder"
        );
    }
}
