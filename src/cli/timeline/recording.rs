//! `--timeline FILE`: what loads do, into a file.

use std::fs::Permissions;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use ckload::{Checkpoint, Observer, Report};
use tempfile::NamedTempFile;

use super::super::Error;
use super::super::options::{TimelineFile, TimelineFormat};
use super::super::report::ModelReport;
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
        new_file(&target.path).map_err(|source| not_written(target, source))?;
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
        self.write_new()
            .map_err(|source| not_written(self.target, source))
    }

    fn write_new(&self) -> io::Result<()> {
        let mut file = new_file(&self.target.path)?;
        let mut out = BufWriter::new(&mut file);
        match self.target.format {
            TimelineFormat::Html => out.write_all(document::page(&self.loads).as_bytes())?,
            TimelineFormat::Json => {
                let mut trace = Trace::new(&mut out)?;
                for load in &self.loads {
                    trace.add(&load.name, &load.timeline, &load.checkpoint)?;
                }
                trace.finish()?;
            }
        }
        out.flush()?;
        drop(out);
        file.persist(&self.target.path)?;
        Ok(())
    }
}

/// A file that takes the place of the one at `path` when it is done, and may be read by whom the user usually lets.
fn new_file(path: &Path) -> io::Result<NamedTempFile> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    tempfile::Builder::new()
        .prefix(".ckload-")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)
}

fn not_written(target: &TimelineFile, source: io::Error) -> Error {
    Error::WriteFile {
        path: target.path.clone(),
        source,
    }
}
