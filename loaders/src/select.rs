//! Which tensors of a checkpoint are meant.

use globset::{Glob, GlobSet, GlobSetBuilder};

use crate::Error;

/// Which tensors are meant, by patterns on their names; see [`Checkpoint::select`](crate::Checkpoint::select).
///
/// A pattern is a glob over the whole name: `*` stands for any characters (dots too), `?` for one, `[ab]` for one of a set,
/// `{a,b}` for either. A tensor is admitted if it matches an `include` (or there is none) and no `exclude`.
///
/// ```
/// use ckload_loaders::Select;
///
/// let attention = Select::all().include("h.*.attn.*")?.exclude("*.bias")?;
/// assert!(attention.admits("h.0.attn.c_attn.weight"));
/// assert!(!attention.admits("h.0.attn.bias"));
/// # Ok::<(), ckload_loaders::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Select {
    include: Vec<Glob>,
    exclude: Vec<Glob>,
    sets: (GlobSet, GlobSet),
}

impl Select {
    /// Every tensor.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Admits the tensors whose names match `pattern`, besides those of other `include`s. Default: every tensor.
    ///
    /// # Errors
    ///
    /// The pattern is not a valid glob.
    pub fn include(mut self, pattern: &str) -> Result<Self, Error> {
        self.include.push(glob(pattern)?);
        self.sets.0 = set(&self.include).map_err(|source| invalid(pattern, source))?;
        Ok(self)
    }

    /// Leaves out the tensors whose names match `pattern`, whatever includes them. Default: none.
    ///
    /// # Errors
    ///
    /// The pattern is not a valid glob.
    pub fn exclude(mut self, pattern: &str) -> Result<Self, Error> {
        self.exclude.push(glob(pattern)?);
        self.sets.1 = set(&self.exclude).map_err(|source| invalid(pattern, source))?;
        Ok(self)
    }

    /// Whether a tensor of this name is meant.
    #[must_use]
    pub fn admits(&self, name: &str) -> bool {
        let (include, exclude) = &self.sets;
        (self.include.is_empty() || include.is_match(name)) && !exclude.is_match(name)
    }
}

fn glob(pattern: &str) -> Result<Glob, Error> {
    Glob::new(pattern).map_err(|source| invalid(pattern, source))
}

fn set(globs: &[Glob]) -> Result<GlobSet, globset::Error> {
    let mut builder = GlobSetBuilder::new();
    for glob in globs {
        builder.add(glob.clone());
    }
    builder.build()
}

fn invalid(pattern: &str, source: globset::Error) -> Error {
    Error::Pattern {
        pattern: pattern.to_owned(),
        source,
    }
}
