//! The trace event format of Chrome's, which Perfetto opens: <https://ui.perfetto.dev>.

use std::io::{self, Write};

use ckload::{Checkpoint, TensorInfo};
use serde::Serialize;

use super::super::open::file_labels;
use super::{Kind, Place, Span, Timeline};

/// Events on their way into a file, of one load after the other.
pub(crate) struct Trace<W> {
    out: W,
    /// A process for each load: then each has its threads.
    loads: usize,
    is_first: bool,
}

/// Times are microseconds.
#[derive(Serialize)]
struct Event<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cat: Option<&'static str>,
    ph: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ts: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<f64>,
    pid: usize,
    tid: usize,
    args: Args<'a>,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "snake_case")]
struct Args<'a> {
    /// What a process or thread is called.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sort_index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tensor: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    open_seconds: Option<f64>,
}

/// The thread that is the load as a whole.
const WHOLE: usize = 0;

impl<W: Write> Trace<W> {
    pub(crate) fn new(mut out: W) -> io::Result<Self> {
        write!(out, "{{\"displayTimeUnit\":\"ms\",\"traceEvents\":[")?;
        Ok(Self {
            out,
            loads: 0,
            is_first: true,
        })
    }

    /// Adds a load of `checkpoint`.
    pub(crate) fn add(
        &mut self,
        name: &str,
        timeline: &Timeline,
        checkpoint: &Checkpoint,
    ) -> io::Result<()> {
        self.loads += 1;
        let labels = file_labels(checkpoint);
        self.name("process_name", WHOLE, name)?;
        self.name("thread_name", WHOLE, "load")?;
        self.event(&Event {
            name: "load",
            cat: Some("load"),
            ph: "X",
            ts: Some(0.0),
            dur: Some(microseconds(timeline.seconds)),
            pid: self.loads,
            tid: WHOLE,
            args: Args {
                bytes: Some(checkpoint.bytes()),
                open_seconds: Some(timeline.open_seconds),
                ..Args::default()
            },
        })?;
        for (number, worker) in timeline.workers.iter().enumerate() {
            let thread = number + 1;
            self.name("thread_name", thread, &worker.name)?;
            self.event(&Event {
                args: Args {
                    sort_index: Some(thread),
                    ..Args::default()
                },
                ..self.metadata("thread_sort_index", thread)
            })?;
            for span in &worker.spans {
                let tensor = span.place.and_then(|place| tensor_at(checkpoint, place));
                self.event(&Event {
                    name: span.kind.label(),
                    cat: Some(category(span.kind)),
                    ph: "X",
                    ts: Some(microseconds(span.start)),
                    dur: Some(microseconds(span.seconds)),
                    pid: self.loads,
                    tid: thread,
                    args: Args {
                        bytes: Some(span.bytes),
                        file: file_of(span, &labels),
                        offset: span.place.map(|place| place.offset),
                        tensor: tensor.map(|info| info.name.as_str()),
                        ..Args::default()
                    },
                })?;
            }
        }
        Ok(())
    }

    pub(crate) fn finish(mut self) -> io::Result<()> {
        writeln!(self.out, "\n]}}")?;
        self.out.flush()
    }

    fn name(&mut self, kind: &'static str, thread: usize, name: &str) -> io::Result<()> {
        self.event(&Event {
            args: Args {
                name: Some(name),
                ..Args::default()
            },
            ..self.metadata(kind, thread)
        })
    }

    /// What is no time, but about a thread or a process.
    fn metadata<'a>(&self, kind: &'static str, thread: usize) -> Event<'a> {
        Event {
            name: kind,
            cat: None,
            ph: "M",
            ts: None,
            dur: None,
            pid: self.loads,
            tid: thread,
            args: Args::default(),
        }
    }

    fn event(&mut self, event: &Event<'_>) -> io::Result<()> {
        let separator = if self.is_first { "\n" } else { ",\n" };
        self.is_first = false;
        self.out.write_all(separator.as_bytes())?;
        serde_json::to_writer(&mut self.out, event)?;
        Ok(())
    }
}

/// To the nanosecond.
fn microseconds(seconds: f64) -> f64 {
    (seconds * 1e9).round() / 1e3
}

fn category(kind: Kind) -> &'static str {
    if kind.is_read() { "read" } else { "memory" }
}

fn file_of<'a>(span: &Span, labels: &'a [String]) -> Option<&'a str> {
    labels.get(span.place?.file).map(String::as_str)
}

/// The tensor with whose bytes a read began.
fn tensor_at(checkpoint: &Checkpoint, place: Place) -> Option<&TensorInfo> {
    let tensors = checkpoint.tensors();
    let at = (place.file, place.offset);
    let after = tensors.partition_point(|info| (info.file, info.offset) <= at);
    let info = tensors[..after].last()?;
    (info.file == place.file).then_some(info)
}
