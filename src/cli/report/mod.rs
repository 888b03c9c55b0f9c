//! Results, as data (`json`), and for people (`text`).

mod json;
mod table;
mod text;

use std::path::Path;

use ckload::{Checkpoint, Mismatch, Report, TensorDigest};
use serde::Serialize;

use super::savings::Savings;

pub(crate) use table::Table;
pub(crate) use text::{
    RUN_COLUMNS, run_cells, write_gain, write_load, write_memory, write_mismatches, write_model,
};

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
    pub(crate) fn new(model: ModelSummary) -> Self {
        Self {
            model,
            runs: Vec::new(),
            baseline_runs: Vec::new(),
            digests: Vec::new(),
        }
    }
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
