//! What a load did when, by the thread that did it: recorded while it runs, drawn or written afterwards.

mod document;
mod recorder;
mod recording;
mod svg;
mod trace;

pub(crate) use self::recorder::Recorder;
pub(crate) use self::recording::Recording;
pub(crate) use self::svg::chart;
use self::trace::Trace;

/// What a load did when, by the thread that did it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timeline {
    /// From the start of the load to its end.
    pub(crate) seconds: f64,
    /// Before that: finding the files and reading their headers.
    pub(crate) open_seconds: f64,
    /// By name; none is without spans.
    pub(crate) workers: Vec<Worker>,
}

/// A thread.
#[derive(Clone, Debug)]
pub(crate) struct Worker {
    pub(crate) name: String,
    /// In order, none while another lasts.
    pub(crate) spans: Vec<Span>,
}

/// What a thread did for a while.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Span {
    pub(crate) kind: Kind,
    /// Seconds from the start of the load.
    pub(crate) start: f64,
    pub(crate) seconds: f64,
    pub(crate) bytes: u64,
    /// Of a read.
    pub(crate) place: Option<Place>,
}

/// Where in a checkpoint a read was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its number.
    pub(crate) file: usize,
    pub(crate) offset: u64,
}

/// What a thread did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Read through the page cache, which may have waited for the disk.
    PageCache,
    /// Read past the page cache.
    Disk,
    /// Copied out of a map of the file.
    Map,
    /// Made new memory.
    FreshMemory,
    /// Had pages put behind new memory.
    FirstTouch,
    /// Locked new memory.
    Lock,
    /// Took memory out of the pool.
    RecycledMemory,
}

impl Kind {
    pub(crate) const ALL: [Self; 7] = [
        Self::PageCache,
        Self::Disk,
        Self::Map,
        Self::FreshMemory,
        Self::FirstTouch,
        Self::Lock,
        Self::RecycledMemory,
    ];

    /// What people read.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::PageCache => "read, page cache",
            Self::Disk => "read, disk",
            Self::Map => "copied from a map",
            Self::FreshMemory => "new memory",
            Self::FirstTouch => "first touch of new memory",
            Self::Lock => "lock of new memory",
            Self::RecycledMemory => "recycled buffer",
        }
    }

    /// What the legend says of its colour.
    pub(crate) fn family(self) -> &'static str {
        match self {
            Self::FreshMemory | Self::FirstTouch | Self::Lock => "new memory",
            kind => kind.label(),
        }
    }

    /// What has its colour in the style sheet.
    pub(crate) fn class(self) -> &'static str {
        match self {
            Self::PageCache => "page-cache",
            Self::Disk => "disk",
            Self::Map => "map",
            Self::FreshMemory | Self::FirstTouch | Self::Lock => "fresh-memory",
            Self::RecycledMemory => "recycled-memory",
        }
    }

    /// Whether bytes of a file moved.
    pub(crate) fn is_read(self) -> bool {
        matches!(self, Self::PageCache | Self::Disk | Self::Map)
    }
}

impl Timeline {
    /// Every span.
    pub(crate) fn spans(&self) -> impl Iterator<Item = &Span> {
        self.workers.iter().flat_map(|worker| &worker.spans)
    }
}
