//! Which tensors of a checkpoint are meant.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use globset::{Glob, GlobMatcher, GlobSet, GlobSetBuilder};

use crate::{Error, TensorInfo};

/// Which tensors are meant, by their names, and which part of each; see [`Checkpoint::select`](crate::Checkpoint::select).
///
/// A pattern is a glob over the whole name: `*` stands for any characters (dots too), `?` for one, `[ab]` for one of a set,
/// `{a,b}` for either. A tensor is admitted if it is named or matches an `include` (or there is neither) and matches no `exclude`.
///
/// ```
/// use ckload_loaders::Select;
///
/// let attention = Select::all().include("h.*.attn.*")?.exclude("*.bias")?;
/// assert!(attention.admits("h.0.attn.c_attn.weight"));
/// assert!(!attention.admits("h.0.attn.bias"));
/// # Ok::<(), ckload_loaders::Error>(())
/// ```
///
/// What one of 8 processes that share a model keeps of it, in the way of Megatron: queries, keys and values are cut by rows, the
/// projections behind them by columns, and what no rule names is whole in each.
///
/// ```
/// use ckload_loaders::{Select, Shard};
///
/// let rank = 3;
/// let mine = Select::all()
///     .shard("*.{q,k,v,gate,up}_proj.weight", Shard::new(0, rank, 8))?
///     .shard("*.{o,down}_proj.weight", Shard::new(1, rank, 8))?;
/// # Ok::<(), ckload_loaders::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Select {
    /// If only these are meant, and what is included.
    names: Option<BTreeSet<String>>,
    include: Vec<Glob>,
    exclude: Vec<Glob>,
    sets: (GlobSet, GlobSet),
    /// The first that matches decides.
    shards: Vec<(GlobMatcher, Shard)>,
    /// Decides where none matches.
    rest: Option<Shard>,
}

/// One rank's part of a tensor that is divided along one dimension: of `world_size` equal parts the one of number `rank`.
///
/// It is written `DIM:RANK/WORLD`, as in `1:3/8`. This is the division of candle's `ShardedVarBuilder` and of Megatron's parallel layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shard {
    /// The dimension, counted from the outermost, which is 0.
    pub dim: usize,
    /// Which of the parts; the first is 0.
    pub rank: usize,
    /// The number of parts. Of 1 there is only one, the whole.
    pub world_size: usize,
}

impl Shard {
    /// Part `rank` of `world_size` along `dim`.
    #[must_use]
    pub const fn new(dim: usize, rank: usize, world_size: usize) -> Self {
        Self {
            dim,
            rank,
            world_size,
        }
    }

    /// Refuses a rank that there is not.
    fn checked(self) -> Result<Self, Error> {
        if self.rank < self.world_size {
            Ok(self)
        } else {
            Err(Error::NoSuchRank { shard: self })
        }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.dim, self.rank, self.world_size)
    }
}

/// The word is not a [`Shard`].
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not DIM:RANK/WORLD, such as 0:3/8: dimension 0, part 3 of 8")]
pub struct UnknownShard(String);

impl FromStr for Shard {
    type Err = UnknownShard;

    fn from_str(word: &str) -> Result<Self, UnknownShard> {
        let parse = || {
            let (dim, part) = word.split_once(':')?;
            let (rank, world_size) = part.split_once('/')?;
            let number = |digits: &str| digits.parse().ok();
            Some(Self::new(number(dim)?, number(rank)?, number(world_size)?))
        };
        parse().ok_or_else(|| UnknownShard(word.to_owned()))
    }
}

impl Select {
    /// Every tensor, whole.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// The tensors of exactly these names, which the checkpoint has to have; none if there are no names.
    #[must_use]
    pub fn names(names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            names: Some(names.into_iter().map(Into::into).collect()),
            ..Self::default()
        }
    }

    /// Admits the tensors whose names match `pattern`, besides those that are named and those of other `include`s. Default: every tensor.
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

    /// Takes of the tensors whose names match `pattern` only the part of one rank. The first rule that matches a tensor decides: one of a
    /// world of 1 keeps a tensor whole that a later rule would divide. Default: whole.
    ///
    /// # Errors
    ///
    /// The pattern is not a valid glob, or there is no such rank. That a tensor cannot be divided so is told by
    /// [`Checkpoint::select`](crate::Checkpoint::select).
    pub fn shard(mut self, pattern: &str, shard: Shard) -> Result<Self, Error> {
        let matcher = glob(pattern)?.compile_matcher();
        self.shards.push((matcher, shard.checked()?));
        Ok(self)
    }

    /// The same for the tensors that no pattern of [`shard`](Self::shard) matches, as far as they have the dimension: those of
    /// fewer dimensions stay whole. Default: all whole.
    ///
    /// # Errors
    ///
    /// There is no such rank.
    pub fn shard_rest(mut self, shard: Shard) -> Result<Self, Error> {
        self.rest = Some(shard.checked()?);
        Ok(self)
    }

    /// Whether a tensor of this name is meant.
    #[must_use]
    pub fn admits(&self, name: &str) -> bool {
        let (include, exclude) = &self.sets;
        let is_named = self.names.as_ref().map(|names| names.contains(name));
        let is_meant = match is_named {
            Some(true) => true,
            Some(false) => include.is_match(name),
            None => self.include.is_empty() || include.is_match(name),
        };
        is_meant && !exclude.is_match(name)
    }

    /// What is taken of a tensor that is meant; `None` for the whole.
    pub(crate) fn shard_of(&self, info: &TensorInfo) -> Option<Shard> {
        let rule = self
            .shards
            .iter()
            .find(|(pattern, _)| pattern.is_match(&info.name));
        rule.map(|&(_, shard)| shard)
            .or_else(|| self.rest.filter(|shard| shard.dim < info.shape.len()))
            .filter(|shard| shard.world_size > 1)
    }

    /// The names that the checkpoint has to have.
    pub(crate) fn required(&self) -> impl Iterator<Item = &str> {
        self.names.iter().flatten().map(String::as_str)
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
