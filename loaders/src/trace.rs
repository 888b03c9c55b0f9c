//! Spans and events of the crate `tracing`: a span for each load, within which it tells what an observer is told.
//!
//! Phases are told at the level `debug`, each lease, read and tensor at `trace`. Without the feature there is no code for it.

use std::sync::Arc;

use tracing::{Span, debug, trace};

use crate::observer::{Leased, Observer, Planned, ReadDone, Touched};
use crate::{Checkpoint, Loader, Report, TensorInfo};

/// Tells the log what it is told, and then whom it stands before.
struct Traced {
    span: Span,
    checkpoint: Checkpoint,
    inner: Arc<dyn Observer>,
}

impl Loader {
    /// This loader for one load of `checkpoint`, all of which belongs to `span`, if anybody wants to hear of it.
    pub(crate) fn within(&self, span: Span, checkpoint: &Checkpoint) -> Self {
        if span.is_disabled() {
            return self.clone();
        }
        self.clone().observer(Arc::new(Traced {
            span,
            checkpoint: checkpoint.clone(),
            inner: Arc::clone(&self.observer),
        }))
    }
}

impl Observer for Traced {
    fn planned(&self, event: &Planned) {
        debug!(parent: &self.span, tensors = event.tensors, bytes = event.bytes, "planned");
        self.inner.planned(event);
    }

    fn leased(&self, event: &Leased) {
        trace!(
            parent: &self.span,
            bytes = event.bytes,
            origin = ?event.origin,
            duration = ?event.duration,
            "leased"
        );
        self.inner.leased(event);
    }

    fn touched(&self, event: &Touched) {
        trace!(
            parent: &self.span,
            bytes = event.bytes,
            step = ?event.step,
            duration = ?event.duration,
            "touched"
        );
        self.inner.touched(event);
    }

    fn read(&self, event: &ReadDone) {
        trace!(
            parent: &self.span,
            file = ?self.checkpoint.files()[event.file].path,
            offset = event.offset,
            span = event.span,
            bytes = event.bytes,
            source = ?event.source,
            duration = ?event.duration,
            "read"
        );
        self.inner.read(event);
    }

    fn tensor(&self, info: &TensorInfo) {
        trace!(parent: &self.span, name = ?info.name, bytes = info.bytes, "whole");
        self.inner.tensor(info);
    }

    fn finished(&self, report: &Report) {
        debug!(
            parent: &self.span,
            seconds = report.seconds,
            bytes = report.bytes,
            read_seconds = report.read_seconds,
            fresh_seconds = report.allocation.fresh_seconds,
            reuse_seconds = report.allocation.reuse_seconds,
            "finished"
        );
        self.inner.finished(report);
    }
}
