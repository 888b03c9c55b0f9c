//! `--timeline FILE`: what loads do, into a file.

use std::sync::Arc;

use ckload::{Checkpoint, Observer, Report};

use super::super::options::{TimelineFile, TimelineFormat};
use super::super::report::ModelReport;
use super::super::{Error, whole_file};
use super::{Recorder, Timeline, Trace, document};

/// The timelines of a command's loads, on their way into a file.
pub(crate) struct Recording<'a> {
    target: &'a TimelineFile,
    recorder: Arc<Recorder>,
    loads: Vec<Recorded>,
}

/// The load of a model that is shown.
pub(super) struct Recorded {
    /// What it is called.
    pub(super) name: String,
    pub(super) checkpoint: Checkpoint,
    pub(super) timeline: Timeline,
    /// Of all loads of the model; the last is the one that is shown.
    pub(super) runs: Vec<Report>,
    pub(super) baseline_runs: Vec<Report>,
}

impl<'a> Recording<'a> {
    /// Begins a recording that tells `inner` whatever it is told. An error if the file will not be written: that is to be known before
    /// minutes go into loading.
    pub(crate) fn begin(
        target: &'a TimelineFile,
        inner: Option<Arc<dyn Observer>>,
    ) -> Result<Self, Error> {
        whole_file::check(&target.path)?;
        Ok(Self {
            target,
            recorder: Recorder::around(inner),
            loads: Vec::new(),
        })
    }

    /// For the loads that are recorded.
    pub(crate) fn observer(&self) -> Arc<dyn Observer> {
        Arc::clone(&self.recorder) as Arc<dyn Observer>
    }

    /// Forgets the loads that are not shown, since the next may be.
    pub(crate) fn next_load(&self) {
        self.recorder.timeline();
    }

    /// Keeps the load before, which was the last of `checkpoint`.
    pub(crate) fn keep(&mut self, checkpoint: &Checkpoint, report: &ModelReport) {
        self.loads.push(Recorded {
            name: report.model.file_name(),
            checkpoint: checkpoint.clone(),
            timeline: self.recorder.timeline(),
            runs: report.runs.clone(),
            baseline_runs: report.baseline_runs.clone(),
        });
    }

    /// Writes the file, whole or not at all.
    pub(crate) fn write(&self) -> Result<(), Error> {
        whole_file::write(&self.target.path, |mut out| match self.target.format {
            TimelineFormat::Html => out.write_all(document::page(&self.loads).as_bytes()),
            TimelineFormat::Json => {
                let mut trace = Trace::new(&mut out)?;
                for load in &self.loads {
                    trace.add(&load.name, &load.timeline, &load.checkpoint)?;
                }
                trace.finish()
            }
        })
    }
}
