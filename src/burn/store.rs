//! A store that loads burn modules.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use burn_store::burn_pack::Tensor as PackTensor;
use burn_store::{
    ApplyResult, IdentityAdapter, KeyRemapper, ModuleAdapter, ModuleSnapshot, ModuleStore,
    PathFilter, PyTorchToBurnAdapter,
};

use super::Error;
use super::names::{Catalogue, Renaming};
use super::source::Source;
use super::wanted::Wanted;
use crate::{Checkpoint, Loader, Select};

/// A checkpoint that burn modules load from, in the place of burn-store's `SafetensorsStore` or `PytorchStore`.
///
/// Of the checkpoint only what the module has a place for is read: in parallel, and whole before the module is touched, so that a file that
/// cannot be read leaves the module as it was. That takes the module's size in memory, which on the `flex` backend becomes the module's
/// own: nothing is copied but tensors of 64 KiB at most, which would keep more than they are. For backends that copy to a device,
/// [`streamed`](Self::streamed) bounds the memory instead.
///
/// Tensors of [`get_tensor`](ModuleStore::get_tensor) and [`get_all_tensors`](ModuleStore::get_all_tensors) are read when their bytes are
/// drawn, one by one.
///
/// The store keeps no tensors after a load. With a [`Loader`] whose pool it shares with other stores, the next load finds the memory of
/// modules that were dropped.
///
/// ```no_run
/// use burn_store::{ModuleSnapshot, PyTorchToBurnAdapter};
/// use ckload::burn::CheckpointStore;
/// # fn load<M: ModuleSnapshot>(model: &mut M) -> Result<(), ckload::burn::Error> {
///
/// let mut store = CheckpointStore::from_file("models/bert") // a file, a folder, an index, or a name in the cache of Hugging Face
///     .with_from_adapter(PyTorchToBurnAdapter)
///     .with_key_remapping(r"^bert\.", "")
///     .allow_partial(true);
/// let result = model.load_from(&mut store)?;
/// println!("{result}");
/// # Ok(())
/// # }
/// ```
pub struct CheckpointStore {
    origin: Origin,
    select: Select,
    loader: Loader,
    is_streamed: bool,
    renaming: Renaming,
    filter: PathFilter,
    adapter: Box<dyn ModuleAdapter>,
    skips_enum_variants: bool,
    validates: bool,
    allows_partial: bool,
    /// The first pattern that is no regular expression, and why.
    invalid_pattern: Option<(String, String)>,
    catalogue: Option<Catalogue>,
}

enum Origin {
    Path(PathBuf),
    Opened(Checkpoint),
}

impl CheckpointStore {
    /// A store that opens the checkpoint when it is first used, with the settings of burn-store's `SafetensorsStore`.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("model.safetensors");
    /// # ckload::synth::Gpt2::TINY.blueprint().write_file(&path, 0)?;
    /// use burn_store::{ModuleStore, bridge};
    /// use ckload::burn::CheckpointStore;
    ///
    /// let mut store = CheckpointStore::from_file(&path);
    /// assert_eq!(store.keys()?.len(), 30);
    /// let wte = store.get_tensor("wte.weight")?.expect("it is there");
    /// assert_eq!(bridge::to_data(wte)?.as_slice::<f32>()?.len(), 257 * 96); // read here
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn from_file(path: impl Into<PathBuf>) -> Self {
        Self::of(Origin::Path(path.into()))
    }

    /// As [`from_file`](Self::from_file), with the settings of burn-store's `PytorchStore`: the `PyTorchToBurnAdapter`, names without
    /// variants of enums, and contiguous indices. The file may be of any format.
    ///
    /// ```no_run
    /// # use burn_store::ModuleSnapshot;
    /// # fn load<M: ModuleSnapshot>(model: &mut M) -> Result<(), ckload::burn::Error> {
    /// use ckload::burn::CheckpointStore;
    ///
    /// let mut store = CheckpointStore::from_pytorch("checkpoint.pt").with_top_level_key("state_dict");
    /// model.load_from(&mut store)?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn from_pytorch(path: impl Into<PathBuf>) -> Self {
        Self::from_file(path)
            .with_from_adapter(PyTorchToBurnAdapter)
            .skip_enum_variants(true)
            .map_indices_contiguous(true)
    }

    /// As [`from_file`](Self::from_file), of a checkpoint that is open already.
    #[must_use]
    pub fn new(checkpoint: &Checkpoint) -> Self {
        Self::of(Origin::Opened(checkpoint.clone()))
    }

    fn of(origin: Origin) -> Self {
        Self {
            origin,
            select: Select::all(),
            loader: Loader::new(),
            is_streamed: false,
            renaming: Renaming {
                top_level_key: None,
                remapper: KeyRemapper::new(),
                contiguous_indices: false,
                kept_indices: PathFilter::new(),
            },
            filter: PathFilter::new(),
            adapter: Box::new(IdentityAdapter),
            skips_enum_variants: false,
            validates: true,
            allows_partial: false,
            invalid_pattern: None,
            catalogue: None,
        }
    }

    /// Loads with this loader: its pool, its threads, its way of reading. Default: a [`Loader`] of the store's own.
    #[must_use]
    pub fn loader(mut self, loader: &Loader) -> Self {
        self.loader = loader.clone();
        self.catalogue = None;
        self
    }

    /// Streams tensors to the module within the loader's [`budget`](Loader::budget), instead of loading all that it wants first.
    ///
    /// For backends that copy to memory of their own: at no time is more than the budget in host memory, and one tensor is copied while
    /// the next are read. On a backend that keeps the bytes, a module larger than the budget ends in
    /// [`Error::BudgetHeld`](crate::Error::BudgetHeld) after the loader's [`patience`](Loader::patience). A file that cannot be read
    /// leaves the module partly loaded. Default: false.
    #[must_use]
    pub fn streamed(mut self, streamed: bool) -> Self {
        self.is_streamed = streamed;
        self
    }

    /// Sees only the tensors that `select` admits, by their names in the checkpoint, and of these only the parts that it wants: one rank's
    /// share of a tensor-parallel model. Default: all tensors, whole.
    #[must_use]
    pub fn select(mut self, select: Select) -> Self {
        self.select = select;
        self.catalogue = None;
        self
    }

    /// Sees only the tensors under a key of a nested checkpoint, such as `state_dict`, and calls them by what follows. Default: all, by
    /// their full names.
    #[must_use]
    pub fn with_top_level_key(mut self, key: impl Into<String>) -> Self {
        self.renaming.top_level_key = Some(key.into());
        self.catalogue = None;
        self
    }

    /// Loads only the parameters of the module that the filter matches. What it does not match is not read. Default: all.
    #[must_use]
    pub fn filter(mut self, filter: PathFilter) -> Self {
        self.filter = filter;
        self
    }

    /// Loads the parameters whose paths match the regular expression, besides those that are admitted already. A pattern that is none is
    /// an error of the load. Default: all.
    #[must_use]
    pub fn with_regex(mut self, pattern: impl AsRef<str>) -> Self {
        if self.is_valid(pattern.as_ref()) {
            self.filter = self.filter.with_regex(pattern);
        }
        self
    }

    /// Loads the parameter of this path, besides those that are admitted already. Default: all.
    #[must_use]
    pub fn with_full_path(mut self, path: impl Into<String>) -> Self {
        self.filter = self.filter.with_full_path(path);
        self
    }

    /// Renames tensors by the remapper's patterns, all in turn. Default: names stay.
    #[must_use]
    pub fn remap(mut self, remapper: KeyRemapper) -> Self {
        self.renaming.remapper = remapper;
        self.catalogue = None;
        self
    }

    /// Renames tensors that match the regular expression `from`, after the patterns before; `to` may name groups: `$1`. A pattern that is
    /// none is an error of the load. Default: names stay.
    #[must_use]
    pub fn with_key_remapping(mut self, from: impl AsRef<str>, to: impl Into<String>) -> Self {
        let remapper = self.renaming.remapper.clone();
        match remapper.add_pattern(from.as_ref(), to) {
            Ok(remapper) => self.renaming.remapper = remapper,
            Err(error) => self.note_invalid(from.as_ref(), &error),
        }
        self.catalogue = None;
        self
    }

    /// Numbers the layers of each list without gaps, as burn does where PyTorch's `nn.Sequential` counts layers that have no tensors.
    /// Default: false, and true with [`from_pytorch`](Self::from_pytorch).
    #[must_use]
    pub fn map_indices_contiguous(mut self, map: bool) -> Self {
        self.renaming.contiguous_indices = map;
        self.catalogue = None;
        self
    }

    /// Keeps the numbers of lists whose path matches the regular expression. A pattern that is none is an error of the load.
    /// Default: none.
    #[must_use]
    pub fn map_indices_contiguous_except(mut self, pattern: impl AsRef<str>) -> Self {
        if self.is_valid(pattern.as_ref()) {
            self.renaming.kept_indices = self.renaming.kept_indices.with_regex(pattern);
        }
        self.catalogue = None;
        self
    }

    /// Adapts tensors to the module, as `PyTorchToBurnAdapter` does. Default: `IdentityAdapter`, and `PyTorchToBurnAdapter` with
    /// [`from_pytorch`](Self::from_pytorch).
    #[must_use]
    pub fn with_from_adapter(mut self, adapter: impl ModuleAdapter + 'static) -> Self {
        self.adapter = Box::new(adapter);
        self
    }

    /// Leaves variants of enums out of the module's paths: `feature.weight` fills `feature.BaseConv.weight`. Default: false, and true with
    /// [`from_pytorch`](Self::from_pytorch).
    #[must_use]
    pub fn skip_enum_variants(mut self, skip: bool) -> Self {
        self.skips_enum_variants = skip;
        self
    }

    /// Makes an error of a tensor that does not fit its parameter, instead of a line in the result. Default: true.
    #[must_use]
    pub fn validate(mut self, validate: bool) -> Self {
        self.validates = validate;
        self
    }

    /// Takes a checkpoint that lacks tensors of the module, which keep their values. Default: false.
    #[must_use]
    pub fn allow_partial(mut self, allow: bool) -> Self {
        self.allows_partial = allow;
        self
    }

    /// burn-store panics at an invalid pattern, its remapper excepted, which tells.
    fn is_valid(&mut self, pattern: &str) -> bool {
        match KeyRemapper::new().add_pattern(pattern, "") {
            Ok(_) => true,
            Err(error) => {
                self.note_invalid(pattern, &error);
                false
            }
        }
    }

    fn note_invalid(&mut self, pattern: &str, error: &impl fmt::Display) {
        self.invalid_pattern
            .get_or_insert_with(|| (pattern.to_owned(), error.to_string()));
    }

    fn catalogue(&mut self) -> Result<&Catalogue, Error> {
        if let Some((pattern, reason)) = &self.invalid_pattern {
            return Err(Error::Pattern {
                pattern: pattern.clone(),
                reason: reason.clone(),
            });
        }
        let catalogue = match self.catalogue.take() {
            Some(catalogue) => catalogue,
            None => {
                let checkpoint = match &self.origin {
                    Origin::Path(path) => Checkpoint::open(path)?,
                    Origin::Opened(checkpoint) => checkpoint.clone(),
                };
                let source = Source::new(checkpoint.select(&self.select)?, self.loader.clone());
                Catalogue::of(source, &self.renaming)?
            }
        };
        Ok(self.catalogue.insert(catalogue))
    }

    /// What burn-store made of the load, or the error that it is by the store's settings.
    fn judged(&self, path: PathBuf, result: ApplyResult) -> Result<ApplyResult, Error> {
        if self.validates && !result.errors.is_empty() {
            let result = Box::new(result);
            return Err(Error::Unfit { path, result });
        }
        if !self.allows_partial && !result.missing.is_empty() {
            let result = Box::new(result);
            return Err(Error::Missing { path, result });
        }
        Ok(result)
    }
}

impl ModuleStore for CheckpointStore {
    type Error = Error;

    /// Refused: ckload does not write checkpoints.
    fn collect_from<M: ModuleSnapshot>(&mut self, _module: &M) -> Result<(), Error> {
        Err(Error::ReadOnly)
    }

    fn apply_to<M: ModuleSnapshot>(&mut self, module: &mut M) -> Result<ApplyResult, Error> {
        let filter = Some(self.filter.clone()).filter(|filter| !filter.is_empty());
        let adapter = self.adapter.clone();
        let skips_enum_variants = self.skips_enum_variants;
        let is_streamed = self.is_streamed;
        let Catalogue {
            source,
            tensors,
            refused,
            originals,
        } = self.catalogue()?;

        let wanted = Wanted::by(
            module,
            originals,
            filter.as_ref(),
            &*adapter,
            skips_enum_variants,
        );
        for name in wanted.iter().filter(|&&name| refused.contains_key(name)) {
            source.check(&originals[*name])?;
        }
        let names: Vec<&str> = wanted.iter().map(|&name| &*originals[name]).collect();
        if is_streamed {
            source.stream(&names)?;
        } else {
            source.load(&names)?;
        }
        let tensors = tensors.values().chain(refused.values()).cloned().collect();
        let result = module.apply(tensors, filter, Some(adapter), skips_enum_variants);
        source.finish()?;
        let path = source.checkpoint.path().to_owned();
        self.judged(path, result)
    }

    fn get_tensor(&mut self, name: &str) -> Result<Option<&PackTensor>, Error> {
        let catalogue = self.catalogue()?;
        if let Some(original) = catalogue.originals.get(name) {
            catalogue.source.check(original)?;
        }
        Ok(catalogue.tensors.get(name))
    }

    /// All tensors of the checkpoint.
    ///
    /// # Errors
    ///
    /// The checkpoint cannot be opened, or has a tensor of a type that burn lacks; [`select`](Self::select) leaves it out.
    fn get_all_tensors(&mut self) -> Result<&BTreeMap<String, PackTensor>, Error> {
        let catalogue = self.catalogue()?;
        if let Some(name) = catalogue.refused.keys().next() {
            catalogue.source.check(&catalogue.originals[name])?;
        }
        Ok(&catalogue.tensors)
    }

    fn keys(&mut self) -> Result<Vec<String>, Error> {
        Ok(self.catalogue()?.originals.keys().cloned().collect())
    }
}
