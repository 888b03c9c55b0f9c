//! Results, as data (`json`), and for people (`text`).

mod advice;
mod facts;
mod json;
mod labels;
mod memory;
mod mismatches;
mod phases;
mod runs;
mod several;
mod speed;
mod table;
mod text;

use std::fs::File;
use std::path::Path;

use ckload::{Checkpoint, Mismatch, Report, TensorDigest, usage};
use serde::Serialize;

use super::savings::Savings;

pub(crate) use labels::write_text;
pub(crate) use memory::{write_pool, write_process, write_saved};
pub(crate) use mismatches::{write_agreement, write_mismatches};
pub(crate) use phases::allocate_and_read;
pub(crate) use runs::{RUN_COLUMNS, run_cells};
pub(crate) use table::Table;
pub(crate) use text::{write_load, write_model};

/// Version of all JSON that is printed.
pub(crate) const SCHEMA: u32 = 1;

/// What a command has measured. Its JSON is a contract with scripts.
pub(crate) struct LoadReport {
    pub(crate) models: Vec<ModelReport>,
    /// Whether every tensor was hashed.
    pub(crate) verified: bool,
    /// What is not as recorded.
    pub(crate) mismatches: Vec<Mismatch>,
    pub(crate) savings: Savings,
    pub(crate) pool: PoolSummary,
    pub(crate) peak_rss_bytes: Option<u64>,
}

/// One model and its runs, in the order in which they were made.
pub(crate) struct ModelReport {
    pub(crate) model: ModelSummary,
    pub(crate) runs: Vec<Report>,
    /// Without the pool; empty if nothing was compared.
    pub(crate) baseline_runs: Vec<Report>,
    /// Of the tensors, if they were hashed.
    pub(crate) digests: Vec<TensorDigest>,
    /// Of the files.
    pub(crate) file_bytes: u64,
    /// Bytes of the files that the page cache had before the first load; `None` where the kernel does not tell, and of parts of files.
    pub(crate) cached_bytes: Option<u64>,
    /// What the machine can do, if it was measured.
    pub(crate) limit: Option<Limit>,
}

/// What plain reads of a model's files reach.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Limit {
    pub(crate) bytes_per_second: f64,
    /// Past the page cache.
    pub(crate) direct: bool,
}

/// What was loaded.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ModelSummary {
    /// As given; what is not UTF-8 in it is replaced, for JSON can hold nothing else.
    pub(crate) path: String,
    pub(crate) format: String,
    /// Number of files.
    pub(crate) files: usize,
    /// Number of tensors.
    pub(crate) tensors: usize,
    /// Of the tensors.
    pub(crate) bytes: u64,
}

/// What the pool is and has done.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PoolSummary {
    pub(crate) max_bytes: Option<u64>,
    /// The most that was locked after a load.
    pub(crate) pinned_bytes: u64,
    pub(crate) pin_failures: u64,
    pub(crate) huge_pages: bool,
    pub(crate) threads: usize,
    /// Whether locking was tried.
    #[serde(skip)]
    pub(crate) pins: bool,
    #[serde(skip)]
    pub(crate) last_pin_error: Option<String>,
}

impl ModelReport {
    /// A report of what is to be loaded now: the page cache is asked what it has.
    pub(crate) fn new(checkpoint: &Checkpoint) -> Self {
        let file_bytes = checkpoint.files().iter().map(|file| file.bytes).sum();
        // Of parts of files the kernel is not asked: what it has of the rest says nothing about them.
        let is_whole = checkpoint.bytes() >= file_bytes / 10 * 9;
        Self {
            model: ModelSummary::of(checkpoint),
            runs: Vec::new(),
            baseline_runs: Vec::new(),
            digests: Vec::new(),
            file_bytes,
            cached_bytes: is_whole.then(|| cached_bytes(checkpoint)).flatten(),
            limit: None,
        }
    }
}

fn cached_bytes(checkpoint: &Checkpoint) -> Option<u64> {
    let files = checkpoint.files().iter();
    files
        .map(|file| usage::cached_bytes(&File::open(&file.path).ok()?))
        .sum()
}

impl ModelSummary {
    pub(crate) fn of(checkpoint: &Checkpoint) -> Self {
        Self {
            path: checkpoint.path().to_string_lossy().into_owned(),
            format: checkpoint.format().to_string(),
            files: checkpoint.files().len(),
            tensors: checkpoint.tensors().len(),
            bytes: checkpoint.bytes(),
        }
    }

    /// The last part of the path, for a line that must be short.
    pub(crate) fn file_name(&self) -> String {
        let name = super::open::file_name(Path::new(&self.path));
        super::style::escape(&name).into_owned()
    }
}
