//! The cache of Hugging Face: what was downloaded with `hf download`, `huggingface_hub` or whatever builds on it. Only looked at.
//!
//! Its layout, as the Hub's documentation gives it ("Hub Local Cache"): `models--org--name/` has `refs/main`, a file that names a commit;
//! `snapshots/<commit>/`, whose files are links to `blobs/<digest>`; and in `blobs/` what is still on its way, called `….incomplete`.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use super::{absent, is_absent, open_regular};
use crate::Error;

/// How a repository's folder begins; between its owner and its name stands [`SEPARATOR`], which neither may hold.
const PREFIX: &str = "models--";
const SEPARATOR: &str = "--";

/// A file of `refs/` has a commit's 40 digits; more than this many bytes are not looked at.
const MAX_REF_BYTES: u64 = 256;

/// The longest name of a repository (`huggingface_hub`'s `validate_repo_id`).
const MAX_NAME_CHARS: usize = 96;

/// The snapshot of `org/name`, `name`, or either with `@revision`, in the cache that the environment names.
///
/// A `name` alone that is not in the cache may be anything, and is none of ours: `None`.
pub(super) fn find(word: &str) -> Result<Option<PathBuf>, Error> {
    let (repo, revision) = match word.split_once('@') {
        Some((repo, revision)) => (repo, Some(revision)),
        None => (word, None),
    };
    if !is_repo(repo) {
        return Ok(None);
    }
    let cache = cache_folder(|variable| env::var_os(variable), env::home_dir());
    let folder = cache
        .as_ref()
        .map(|cache| cache.join(format!("{PREFIX}{}", repo.replace('/', SEPARATOR))));
    match folder {
        Some(folder) if folder.is_dir() => snapshot(&folder, revision).map(Some),
        _ if repo.contains('/') => Err(Error::NotCached {
            repo: repo.to_owned(),
            revision: revision.map(str::to_owned),
            cache: cache.unwrap_or_default(),
            nearest: absent::nearest(Path::new(word)),
        }),
        _ => Ok(None),
    }
}

/// Where the cache is, by the rules of `huggingface_hub`'s `constants.py`.
///
/// `HF_HUB_CACHE`, its older name `HUGGINGFACE_HUB_CACHE`, `HF_HOME`, `XDG_CACHE_HOME`, `~/.cache`: the first that is set and not empty.
fn cache_folder(
    variable: impl Fn(&str) -> Option<OsString>,
    home: Option<PathBuf>,
) -> Option<PathBuf> {
    let home = home.filter(|home| !home.as_os_str().is_empty());
    let folder = |name: &str| {
        let value = variable(name).filter(|value| !value.is_empty())?;
        Some(match value.to_str() {
            Some(value) => {
                let home = || home.as_ref().and_then(|home| home.to_str());
                let other = |name: &str| variable(name)?.into_string().ok();
                PathBuf::from(shellexpand::full_with_context_no_errors(value, home, other).as_ref())
            }
            None => PathBuf::from(value),
        })
    };
    let hub = |home: PathBuf| home.join("hub");
    folder("HF_HUB_CACHE")
        .or_else(|| folder("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| folder("HF_HOME").map(hub))
        .or_else(|| folder("XDG_CACHE_HOME").map(|cache| hub(cache.join("huggingface"))))
        .or_else(|| Some(hub(home.as_ref()?.join(".cache/huggingface"))))
}

/// Whether `word` is `name` or `org/name` as the Hub allows it (`validate_repo_id`).
fn is_repo(word: &str) -> bool {
    let is_name = |name: &str| {
        let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        name.bytes()
            .all(|byte| is_inner(byte) || matches!(byte, b'-' | b'.'))
            && name.bytes().next().is_some_and(is_inner)
            && name.bytes().next_back().is_some_and(is_inner)
            && name.len() <= MAX_NAME_CHARS
    };
    word.splitn(2, '/').all(is_name)
        && !word.contains(SEPARATOR)
        && !word.contains("..")
        && !word.ends_with(".git")
}

/// Whether `folder` is a repository's folder in a cache, and not what a person keeps models in.
pub(super) fn is_repository(folder: &Path) -> bool {
    let has = |name: &str| folder.join(name).is_dir();
    has("snapshots") && (has("blobs") || has("refs")) || has("blobs") && has("refs")
}

/// The snapshot of `revision` in a repository's `folder`: a branch, a tag or a commit.
///
/// Without one it is that of `main`; where nothing is said of that, the only one.
pub(super) fn snapshot(folder: &Path, revision: Option<&str>) -> Result<PathBuf, Error> {
    let unusable = |reason: String| Error::NoSnapshot {
        path: folder.to_owned(),
        reason,
        remedy: download(&repo_of(folder), revision),
    };
    let name = revision.unwrap_or("main");
    let is_inside = |part| matches!(part, Component::Normal(_));
    if name.is_empty() || name.contains('\0') || !Path::new(name).components().all(is_inside) {
        return Err(unusable(format!("has no revision {name:?}")));
    }
    let commit = match read_ref(&folder.join("refs").join(name))? {
        Some(Ok(commit)) => commit,
        Some(Err(content)) => {
            let reason = format!("has a refs/{name} that names no commit but {content:?}");
            return Err(unusable(reason));
        }
        None if revision.is_some() => name.to_owned(),
        None => only_snapshot(folder, &unusable)?,
    };
    let snapshot = folder.join("snapshots").join(&commit);
    match fs::metadata(&snapshot) {
        Ok(metadata) if metadata.is_dir() => Ok(snapshot),
        Err(error) if !is_absent(&error) => Err(Error::io("open", &snapshot)(error)),
        _ if commit == name => Err(unusable(format!("has no revision {name:?}"))),
        _ => Err(unusable(format!(
            "has no snapshot of {name}, which is commit {commit}"
        ))),
    }
}

/// The commit that a file of `refs/` names, or what it has instead; `None` if there is no such file.
fn read_ref(path: &Path) -> Result<Option<Result<String, String>>, Error> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => {}
        Err(error) if !is_absent(&error) => return Err(Error::io("open", path)(error)),
        _ => return Ok(None),
    }
    let mut content = Vec::new();
    let (file, _) = open_regular(path)?;
    file.take(MAX_REF_BYTES)
        .read_to_end(&mut content)
        .map_err(Error::io("read", path))?;
    let content = String::from_utf8_lossy(&content);
    let commit = content.trim();
    let is_commit = commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    Ok(Some(if is_commit {
        Ok(commit.to_owned())
    } else {
        Err(commit.to_owned())
    }))
}

/// The name of the only folder in `snapshots/`.
fn only_snapshot(folder: &Path, unusable: &dyn Fn(String) -> Error) -> Result<String, Error> {
    let snapshots = folder.join("snapshots");
    let entries = match fs::read_dir(&snapshots) {
        Err(error) if is_absent(&error) => Vec::new(),
        entries => entries
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(Error::io("read the folder", &snapshots))?,
    };
    let mut names: Vec<String> = entries
        .iter()
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    match names.as_slice() {
        [name] => Ok(name.clone()),
        [] => Err(unusable("has no snapshot".to_owned())),
        _ => Err(Error::Ambiguous {
            path: snapshots.clone(),
            candidates: names.iter().map(|name| snapshots.join(name)).collect(),
        }),
    }
}

/// The name of the blob that `path` is, or is a link to; `None` outside of a cache.
pub(crate) fn blob_of(path: &Path) -> Option<String> {
    let is_link = fs::symlink_metadata(path).ok()?.is_symlink();
    let real = if is_link {
        fs::canonicalize(path).ok()?
    } else {
        path.to_owned()
    };
    let is_blob = real.parent()?.file_name()? == "blobs";
    is_blob.then(|| Some(real.file_name()?.to_str()?.to_owned()))?
}

/// `error`, or what it means in a cache: that a download did not come to its end.
pub(super) fn or_unfinished(error: Error) -> Error {
    let (path, folder, what) = match &error {
        Error::MissingShard { path, shard } => {
            (path, path.parent(), format!("{shard} is not there"))
        }
        Error::BrokenLink { path, .. } => {
            let what = "it is a link to a blob that is not there";
            (path, path.parent(), what.to_owned())
        }
        Error::NoCheckpoint { path, .. } => {
            (path, Some(path.as_path()), "it has no weights".to_owned())
        }
        _ => return error,
    };
    let folder = folder.filter(|folder| !folder.as_os_str().is_empty());
    let Some((repository, commit)) = snapshot_of(folder.unwrap_or(Path::new("."))) else {
        return error;
    };
    // A repository may well have no weights, unless some are on their way.
    if matches!(error, Error::NoCheckpoint { .. }) && !has_incomplete_blob(&repository) {
        return error;
    }
    Error::UnfinishedDownload {
        path: path.clone(),
        what,
        remedy: download(&repo_of(&repository), Some(&commit)),
    }
}

/// The repository's folder and the commit of the snapshot in which `folder` lies; `None` if it lies in none.
fn snapshot_of(folder: &Path) -> Option<(PathBuf, String)> {
    let real = fs::canonicalize(folder).ok()?;
    real.ancestors().find_map(|snapshot| {
        let snapshots = snapshot.parent()?;
        let repository = snapshots.parent()?;
        let is_snapshot = snapshots.file_name()? == "snapshots" && is_repository(repository);
        let commit = snapshot.file_name()?.to_str()?;
        is_snapshot.then(|| (repository.to_owned(), commit.to_owned()))
    })
}

/// Whether a blob of the repository is still on its way.
fn has_incomplete_blob(repository: &Path) -> bool {
    fs::read_dir(repository.join("blobs")).is_ok_and(|blobs| {
        blobs.flatten().any(|blob| {
            let name = blob.file_name();
            name.as_encoded_bytes().ends_with(b".incomplete")
        })
    })
}

/// `org/name`, from the name of a repository's folder.
fn repo_of(folder: &Path) -> String {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let repo = name.strip_prefix(PREFIX).unwrap_or(&name);
    repo.replacen(SEPARATOR, "/", 1)
}

/// The command that downloads a repository.
pub(crate) fn download(repo: &str, revision: Option<&str>) -> String {
    match revision {
        Some(revision) => format!("hf download {repo} --revision {revision}"),
        None => format!("hf download {repo}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(variables: &[(&str, &str)], home: Option<&str>) -> Option<String> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| OsString::from(value))
        };
        let folder = cache_folder(variable, home.map(PathBuf::from));
        folder.map(|folder| folder.to_string_lossy().into_owned())
    }

    /// In the order of `huggingface_hub`: each stands back for those after it.
    #[test]
    fn the_cache_is_where_the_environment_says() {
        let variables = [
            ("XDG_CACHE_HOME", "/x"),
            ("HF_HOME", "/h"),
            ("HUGGINGFACE_HUB_CACHE", "/old"),
            ("HF_HUB_CACHE", "/new"),
        ];
        let folders = [
            "/home/me/.cache/huggingface/hub",
            "/x/huggingface/hub",
            "/h/hub",
            "/old",
            "/new",
        ];
        for (count, folder) in folders.iter().enumerate() {
            let found = cache(&variables[..count], Some("/home/me"));
            assert_eq!(found.as_deref(), Some(*folder));
        }
        assert_eq!(cache(&[("HF_HUB_CACHE", "")], None), None);
        assert_eq!(cache(&[], Some("")), None);
    }

    #[test]
    fn folders_may_begin_with_a_tilde_or_a_variable() {
        for (value, folder) in [
            ("~/hf", "/home/me/hf/hub"),
            ("$SCRATCH/hf", "/scratch/hf/hub"),
            ("${SCRATCH}/hf", "/scratch/hf/hub"),
            ("$NOBODY/hf", "$NOBODY/hf/hub"),
        ] {
            let variables = [("HF_HOME", value), ("SCRATCH", "/scratch")];
            assert_eq!(cache(&variables, Some("/home/me")).as_deref(), Some(folder));
        }
    }

    #[test]
    fn names_of_repositories() {
        for word in ["gpt2", "openai-community/gpt2", "a/b_c-d.e", "0/0"] {
            assert!(is_repo(word), "{word}");
        }
        let long = "x".repeat(97);
        for word in [
            "",
            "/",
            "a/",
            "/a",
            "a/b/c",
            "../a",
            "a/..",
            "a..b",
            "a--b/c",
            "-a/b",
            "a/b.",
            "./a",
            "a/b.git",
            "a b",
            "größe/a",
            "a/b\0",
            &long,
        ] {
            assert!(!is_repo(word), "{word:?}");
        }
    }

    #[test]
    fn folders_of_repositories_name_them() {
        assert_eq!(repo_of(Path::new("/hub/models--org--name")), "org/name");
        assert_eq!(repo_of(Path::new("/hub/models--gpt2")), "gpt2");
        assert_eq!(repo_of(Path::new("/hub/elsewhere")), "elsewhere");
    }
}
