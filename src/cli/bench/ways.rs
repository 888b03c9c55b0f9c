//! The ways of loading, by name.

use std::str::FromStr;

use ckload::Io;
use serde::{Serialize, Serializer};

use crate::cli::limit::Into;

/// A way of loading all tensors of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The best plain loop of reads: what the others are measured against.
    Limit(Into),
    /// What `std::fs::read` does.
    Read,
    /// A copy of each tensor out of a map of its file.
    MmapCopy,
    /// A map of each file, and a look at every page of it; nothing is copied.
    MmapTouch,
    /// `ckload`, with a pool that has no memory yet.
    ResidentNew,
    /// `ckload`, into memory that earlier loads have left.
    Resident(Io),
    /// `ckload`, tensor by tensor, each dropped when it has arrived.
    Stream(Io),
}

/// Memory of the size of the checkpoint that a way needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Memory {
    /// None.
    Little,
    /// That of the limit, all the time.
    Limit,
    /// That of the pool which all loads with a warm pool share, all the time.
    Pool,
    /// New memory while it runs, and none afterwards.
    Fresh,
}

/// Somebody's word is not the name of a way.
#[derive(Debug, thiserror::Error)]
#[error("no way of loading has this name")]
pub(crate) struct UnknownWay;

impl Way {
    /// All of them, in the order in which they are shown.
    pub(crate) const ALL: [Self; 12] = [
        Self::Limit(Into::Memory),
        Self::Read,
        Self::MmapCopy,
        Self::MmapTouch,
        Self::ResidentNew,
        Self::Resident(Io::Auto),
        Self::Resident(Io::Buffered),
        Self::Resident(Io::Direct),
        Self::Limit(Into::Cache),
        Self::Stream(Io::Auto),
        Self::Stream(Io::Buffered),
        Self::Stream(Io::Direct),
    ];

    /// The name that people and scripts know it by.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Limit(Into::Memory) => "limit",
            Self::Limit(Into::Cache) => "limit-stream",
            Self::Read => "read",
            Self::MmapCopy => "mmap-copy",
            Self::MmapTouch => "mmap-touch",
            Self::ResidentNew => "resident-new",
            Self::Resident(Io::Buffered) => "resident-buffered",
            Self::Resident(Io::Direct) => "resident-direct",
            Self::Resident(_) => "resident",
            Self::Stream(Io::Buffered) => "stream-buffered",
            Self::Stream(Io::Direct) => "stream-direct",
            Self::Stream(_) => "stream",
        }
    }

    /// What it does, in a few words.
    pub(crate) fn says(self) -> &'static str {
        match self {
            Self::Limit(Into::Memory) => {
                "the best plain loop of reads, into memory that is mapped already"
            }
            Self::Limit(Into::Cache) => {
                "the best plain loop of reads, into one small buffer for each thread"
            }
            Self::Read => "fresh memory and read, one thread, as fs::read",
            Self::MmapCopy => "map each file, copy each tensor into memory of its own",
            Self::MmapTouch => "map each file and touch every page; nothing is copied",
            Self::ResidentNew => "ckload --resident with a new pool",
            Self::Resident(Io::Buffered) => {
                "ckload --resident with a warm pool, through the page cache"
            }
            Self::Resident(Io::Direct) => "ckload --resident with a warm pool, past the page cache",
            Self::Resident(_) => "ckload --resident with a warm pool",
            Self::Stream(Io::Buffered) => "ckload, streaming, through the page cache",
            Self::Stream(Io::Direct) => "ckload, streaming, past the page cache",
            Self::Stream(_) => "ckload, streaming through a warm pool",
        }
    }

    /// The limit that it is measured against; none for a limit.
    pub(super) fn limit(self) -> Option<Self> {
        match self {
            Self::Limit(_) => None,
            Self::Stream(_) => Some(Self::Limit(Into::Cache)),
            _ => Some(Self::Limit(Into::Memory)),
        }
    }

    /// The memory that it needs.
    pub(super) fn memory(self) -> Memory {
        match self {
            Self::Limit(Into::Memory) => Memory::Limit,
            Self::Read | Self::MmapCopy | Self::ResidentNew => Memory::Fresh,
            Self::Resident(_) => Memory::Pool,
            Self::Limit(Into::Cache) | Self::MmapTouch | Self::Stream(_) => Memory::Little,
        }
    }

    /// Those of `wanted`, or all if none are, with their limits, in the order in which they are shown.
    pub(super) fn chosen(wanted: &[Self]) -> Vec<Self> {
        let is_chosen = |way: &Self| {
            wanted.is_empty()
                || wanted.contains(way)
                || wanted.iter().any(|wanted| wanted.limit() == Some(*way))
        };
        Self::ALL.into_iter().filter(is_chosen).collect()
    }
}

impl FromStr for Way {
    type Err = UnknownWay;

    fn from_str(name: &str) -> Result<Self, UnknownWay> {
        let way = Self::ALL.into_iter().find(|way| way.name() == name);
        way.ok_or(UnknownWay)
    }
}

impl Serialize for Way {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for way in Way::ALL {
            assert_eq!(way.name().parse::<Way>().unwrap(), way);
        }
        assert!("fast".parse::<Way>().is_err());
    }

    #[test]
    fn what_is_chosen_comes_with_its_limit() {
        let names = |wanted: &[&str]| {
            let wanted: Vec<Way> = wanted.iter().map(|name| name.parse().unwrap()).collect();
            let chosen = Way::chosen(&wanted).into_iter().map(Way::name);
            chosen.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names(&["stream"]), "limit-stream stream");
        assert_eq!(names(&["resident", "read"]), "limit read resident");
        assert_eq!(names(&["limit"]), "limit");
        assert_eq!(names(&[]).split(' ').count(), Way::ALL.len());
    }
}
