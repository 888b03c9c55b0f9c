//! The models that are served, and how one takes another's place.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use axum::http::StatusCode;
use ckload::candle::{Storages, StoragesStats};
use ckload::{Cancel, Checkpoint, Loader};
use ckload_example_embed::{Embedder, ModelFolder};
use serde::Serialize;

use crate::error::ApiError;
use crate::folders::Folders;
use crate::metrics::{Loads, MemoryOf};

/// A model's name has no more letters.
const MAX_NAME: usize = 128;

/// The models by name.
pub(crate) struct Registry {
    folders: Folders,
    loader: Loader,
    storages: Storages,
    max_models: NonZeroUsize,
    loads: Loads,
    models: Mutex<BTreeMap<String, Entry>>,
    /// Held by the load that is under way: two would take the memory of two new models.
    turn: Mutex<()>,
}

/// A model that is whole.
pub(crate) struct Served {
    path: PathBuf,
    /// What it took to open and load the weights.
    seconds: f64,
    pub(crate) embedder: Embedder,
}

#[derive(Default)]
struct Entry {
    /// None yet while the first one loads.
    current: Option<Arc<Served>>,
    /// Another one is being loaded to take its place.
    is_changing: bool,
    /// Why the last one was refused.
    refused: Option<String>,
}

/// What a client is told of a model.
#[derive(Debug, Serialize)]
pub(crate) struct ModelState {
    name: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    load_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_refusal: Option<String>,
}

/// What a load is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A model of a name that there is none of.
    Load,
    /// A model in place of the one of that name.
    Swap,
}

impl Registry {
    pub(crate) fn new(
        folders: Folders,
        loader: Loader,
        storages: Storages,
        max_models: NonZeroUsize,
        loads: Loads,
    ) -> Self {
        Self {
            folders,
            loader,
            storages,
            max_models,
            loads,
            models: Mutex::default(),
            turn: Mutex::default(),
        }
    }

    /// The model of that name; without a name the only one.
    pub(crate) fn get(&self, name: Option<&str>) -> Result<Arc<Served>, ApiError> {
        let models = self.lock();
        let entry = match name {
            Some(name) => models.get(name).ok_or_else(|| unknown(name))?,
            None if models.len() == 1 => models.values().next().ok_or_else(|| unknown(""))?,
            None => {
                let names: Vec<&str> = models.keys().map(String::as_str).collect();
                let message = format!(
                    "name a model; there are {}: {}",
                    names.len(),
                    names.join(", ")
                );
                return Err(ApiError::new(StatusCode::BAD_REQUEST, "no_model", message));
            }
        };
        let loading = || {
            ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "loading",
                "the model is being loaded; try again later",
            )
        };
        entry.current.clone().ok_or_else(loading)
    }

    pub(crate) fn list(&self) -> Vec<ModelState> {
        let models = self.lock();
        models
            .iter()
            .map(|(name, entry)| entry.state(name))
            .collect()
    }

    pub(crate) fn unload(&self, name: &str) -> Result<Arc<Served>, ApiError> {
        let mut models = self.lock();
        let entry = models.get(name).ok_or_else(|| unknown(name))?;
        if entry.is_changing {
            return Err(changing(name));
        }
        let removed = models.remove(name).and_then(|entry| entry.current);
        removed.ok_or_else(|| unknown(name))
    }

    /// Notes that a model of that name is going to be loaded.
    pub(crate) fn begin(self: &Arc<Self>, name: &str, change: Change) -> Result<Ticket, ApiError> {
        let mut models = self.lock();
        let number = models.len();
        match (change, models.get_mut(name)) {
            (_, Some(entry)) if entry.is_changing => return Err(changing(name)),
            (Change::Swap, Some(entry)) => entry.is_changing = true,
            (Change::Swap, None) => return Err(unknown(name)),
            (Change::Load, Some(_)) => {
                let message = format!(
                    "there is a model {name:?}; PUT /models/{name} loads another in its place"
                );
                return Err(ApiError::new(StatusCode::CONFLICT, "exists", message));
            }
            (Change::Load, None) => {
                check_name(name)?;
                if number >= self.max_models.get() {
                    let message = format!(
                        "there are {number} models already; unload one, or raise --max-models"
                    );
                    return Err(ApiError::new(StatusCode::CONFLICT, "too_many", message));
                }
                let entry = Entry {
                    is_changing: true,
                    ..Entry::default()
                };
                models.insert(name.to_owned(), entry);
            }
        }
        Ok(Ticket {
            registry: Arc::clone(self),
            name: name.to_owned(),
            is_over: false,
        })
    }

    /// No code panics while it holds the lock, and what the lock guards is whole at any time.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.models.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to load a model of some name; there is one at a time.
pub(crate) struct Ticket {
    registry: Arc<Registry>,
    name: String,
    /// The model is served, and its name may be another ticket's already.
    is_over: bool,
}

impl Ticket {
    /// Loads the model and has it served. Until then the one before is; if anything goes wrong, it stays.
    pub(crate) fn load(mut self, path: &str, cancel: &Cancel) -> Result<ModelState, ApiError> {
        match self.served(path, cancel) {
            Ok(served) => {
                let (state, before) = self.serve(served);
                // Whoever lets go of the model last gives its memory back: here, or the last request that it answers.
                drop(before);
                Ok(state)
            }
            Err(error) => {
                self.registry.loads.refused(&error);
                if let Some(entry) = self.registry.lock().get_mut(&self.name) {
                    entry.refused = Some(error.to_string());
                }
                Err(error)
            }
        }
    }

    /// Puts the model in the place of the one before, which is given back.
    fn serve(&mut self, served: Served) -> (ModelState, Option<Arc<Served>>) {
        let mut models = self.registry.lock();
        let entry = models.entry(self.name.clone()).or_default();
        entry.refused = None;
        entry.is_changing = false;
        let before = entry.current.replace(Arc::new(served));
        let state = entry.state(&self.name);
        self.is_over = true;
        (state, before)
    }

    fn served(&self, path: &str, cancel: &Cancel) -> Result<Served, ApiError> {
        let registry = &self.registry;
        let _turn = registry.turn.lock().unwrap_or_else(PoisonError::into_inner);
        // Not before it is this load's turn: the folder may become another one while it waits.
        let folder = registry.folders.admit(path)?;
        let refused = |error: &anyhow::Error| ApiError::refused(error, &folder, cancel);
        let model = ModelFolder::open(&folder).map_err(|error| refused(&error))?;
        let start = Instant::now();
        let checkpoint = match Checkpoint::open(&folder) {
            Ok(checkpoint) => checkpoint,
            Err(error) => {
                // Nobody learns of a file outside what is wrong with it.
                if let Some(path) = error.path() {
                    registry.folders.check_place(path)?;
                }
                return Err(refused(&error.into()));
            }
        };
        for file in checkpoint.files() {
            registry.folders.check_place(&file.path)?;
        }
        let loader = registry.loader.clone().cancel_with(cancel);
        let before = registry.storages.stats();
        let embedder = Embedder::load_recycled(&model, &loader, &checkpoint, &registry.storages)
            .map_err(|error| refused(&error))?;
        let seconds = start.elapsed().as_secs_f64();
        let after = registry.storages.stats();
        let memory = match after.fresh - before.fresh {
            0 => MemoryOf::Kept,
            _ => MemoryOf::Fresh,
        };
        let taken = |stats: StoragesStats| stats.fresh_bytes + stats.reused_bytes;
        registry
            .loads
            .done(memory, taken(after) - taken(before), seconds);
        Ok(Served {
            embedder,
            path: folder,
            seconds,
        })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let mut models = self.registry.lock();
        if let Some(entry) = models.get_mut(&self.name) {
            entry.is_changing = false;
            if entry.current.is_none() {
                models.remove(&self.name);
            }
        }
    }
}

impl Entry {
    fn state(&self, name: &str) -> ModelState {
        let state = match (&self.current, self.is_changing) {
            (None, _) => "loading",
            (Some(_), true) => "swapping",
            (Some(_), false) => "serving",
        };
        let current = self.current.as_ref();
        ModelState {
            name: name.to_owned(),
            state,
            path: current.map(|served| served.path.clone()),
            load_seconds: current.map(|served| served.seconds),
            last_refusal: self.refused.clone(),
        }
    }
}

fn check_name(name: &str) -> Result<(), ApiError> {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(is_plain) {
        let message =
            format!("a model's name is of 1 to {MAX_NAME} letters, digits, '.', '_' and '-'");
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "bad_name", message));
    }
    Ok(())
}

fn unknown(name: &str) -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        "unknown_model",
        format!("there is no model {name:?}"),
    )
}

fn changing(name: &str) -> ApiError {
    let message = format!("the model {name:?} is being loaded; try again when that is done");
    ApiError::new(StatusCode::CONFLICT, "changing", message)
}

#[cfg(test)]
mod tests {
    use ckload::{BufferPool, ByteSize};
    use tempfile::TempDir;

    use super::*;
    use crate::metrics::Metrics;
    use crate::random_bert::RandomBert;

    /// A registry of which `m` is `a`, beside which there is `b`.
    fn serving() -> (TempDir, Metrics, Arc<Registry>) {
        let folder = tempfile::tempdir().unwrap();
        for (name, seed) in [("a", 1), ("b", 2)] {
            RandomBert::TINY
                .write(&folder.path().join(name), seed)
                .unwrap();
        }
        let pool = BufferPool::new();
        let storages = Storages::new(ByteSize::gib(1));
        let metrics = Metrics::new(&pool, &storages);
        let registry = Arc::new(Registry::new(
            Folders::open(&[folder.path().to_owned()]).unwrap(),
            Loader::new().pool(&pool),
            storages,
            NonZeroUsize::MAX,
            metrics.loads(),
        ));
        let ticket = registry.begin("m", Change::Load).unwrap();
        ticket.load("a", &Cancel::new()).unwrap();
        (folder, metrics, registry)
    }

    #[test]
    fn a_ticket_that_is_over_leaves_the_next_one_alone() {
        let (_folder, _metrics, registry) = serving();
        let mut first = registry.begin("m", Change::Swap).unwrap();
        let served = first.served("b", &Cancel::new()).unwrap();
        let _before = first.serve(served);
        let second = registry.begin("m", Change::Swap).unwrap();
        drop(first);
        let third = registry.begin("m", Change::Swap);
        assert_eq!(
            third.err().map(|error| error.kind).as_deref(),
            Some("changing")
        );
        let unloaded = registry.unload("m");
        assert_eq!(
            unloaded.err().map(|error| error.kind).as_deref(),
            Some("changing")
        );
        drop(second);
        assert!(registry.unload("m").is_ok());

        // The name may also be that of a model that loads for the first time.
        let mut first = registry.begin("m", Change::Load).unwrap();
        let served = first.served("b", &Cancel::new()).unwrap();
        let _before = first.serve(served);
        assert!(registry.unload("m").is_ok());
        let _second = registry.begin("m", Change::Load).unwrap();
        drop(first);
        let loading = registry.get(Some("m"));
        assert_eq!(
            loading.err().map(|error| error.kind).as_deref(),
            Some("loading")
        );
    }

    #[test]
    fn a_load_that_was_cancelled_is_told_so() {
        let (_folder, metrics, registry) = serving();
        let cancel = Cancel::new();
        cancel.cancel();
        let ticket = registry.begin("m", Change::Swap).unwrap();
        assert_eq!(ticket.load("b", &cancel).unwrap_err().kind, "cancelled");
        let text = metrics.text().unwrap();
        assert!(
            text.contains("ckload_load_failures_total{kind=\"cancelled\"} 1\n"),
            "{text}"
        );
        assert_eq!(registry.list()[0].state, "serving");
    }

    #[test]
    fn bytes_are_those_that_were_loaded() {
        let (_folder, metrics, registry) = serving();
        let stats = registry.storages.stats();
        let text = metrics.text().unwrap();
        let line = format!(
            "ckload_load_bytes_total{{memory=\"fresh\"}} {}\n",
            stats.fresh_bytes
        );
        assert!(stats.fresh_bytes > 0 && text.contains(&line), "{text}");
    }
}
