//! What Prometheus is told.

use std::fmt;
use std::mem;
use std::sync::atomic::AtomicU64;

use ckload::BufferPool;
use ckload::candle::Storages;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric, LabelValueEncoder,
};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

use crate::error::ApiError;

type Seconds = Counter<f64, AtomicU64>;

/// All metrics of the server.
pub(crate) struct Metrics {
    registry: Registry,
    loads: Loads,
    requests: Family<Outcome, Counter>,
}

/// What came of models that were to be loaded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Loads {
    done: Family<Found, Counter>,
    bytes: Family<Found, Counter>,
    seconds: Family<Found, Seconds>,
    refused: Family<Refusal, Counter>,
    rate: Gauge<f64, AtomicU64>,
}

/// Where a model was loaded into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum MemoryOf {
    /// All of it into memory of models that are gone.
    Kept,
    /// Some of it into memory that had to be asked of the system.
    Fresh,
}

impl EncodeLabelValue for MemoryOf {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        let word = match self {
            Self::Kept => "kept",
            Self::Fresh => "fresh",
        };
        word.encode(encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Found {
    memory: MemoryOf,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refusal {
    kind: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: String,
}

impl Metrics {
    pub(crate) fn new(pool: &BufferPool, storages: &Storages) -> Self {
        let (loads, requests) = (Loads::default(), Family::default());
        let mut registry = Registry::with_prefix("ckload");
        registry.register(
            "loads",
            "Models loaded, by the memory that they found",
            loads.done.clone(),
        );
        registry.register(
            "load_bytes",
            "Bytes of memory that their weights were loaded into",
            loads.bytes.clone(),
        );
        registry.register(
            "load_seconds",
            "Time that it took to open and load their weights",
            loads.seconds.clone(),
        );
        registry.register(
            "load_failures",
            "Models refused, by the kind of error",
            loads.refused.clone(),
        );
        registry.register(
            "load_bytes_per_second",
            "Rate of the last load",
            loads.rate.clone(),
        );
        registry.register(
            "embed_requests",
            "Requests for embeddings, by what came of them",
            Family::clone(&requests),
        );
        registry.register_collector(Box::new(Memory {
            pool: pool.clone(),
            storages: storages.clone(),
            loads: loads.clone(),
        }));
        Self {
            registry,
            loads,
            requests,
        }
    }

    pub(crate) fn loads(&self) -> Loads {
        self.loads.clone()
    }

    /// A request for embeddings has begun.
    pub(crate) fn asked(&self) -> Asked {
        Asked {
            requests: Family::clone(&self.requests),
            outcome: "left".to_owned(),
        }
    }

    /// Everything, in OpenMetrics text.
    pub(crate) fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// A request for embeddings that is counted when this is dropped: as one whose client left, unless it was answered.
pub(crate) struct Asked {
    requests: Family<Outcome, Counter>,
    outcome: String,
}

impl Asked {
    pub(crate) fn answered(mut self, outcome: &str) {
        outcome.clone_into(&mut self.outcome);
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let outcome = Outcome {
            outcome: mem::take(&mut self.outcome),
        };
        self.requests.get_or_create(&outcome).inc();
    }
}

impl Loads {
    pub(crate) fn done(&self, memory: MemoryOf, bytes: u64, seconds: f64) {
        let label = Found { memory };
        self.done.get_or_create(&label).inc();
        self.bytes.get_or_create(&label).inc_by(bytes);
        self.seconds.get_or_create(&label).inc_by(seconds);
        self.rate.set(bytes as f64 / seconds.max(f64::MIN_POSITIVE));
    }

    pub(crate) fn refused(&self, error: &ApiError) {
        let refusal = Refusal {
            kind: error.kind.clone(),
        };
        self.refused.get_or_create(&refusal).inc();
    }

    /// The time that loads into kept memory would have taken at the mean rate of those into fresh memory, less what they took.
    fn saved_seconds(&self) -> f64 {
        let sums = |memory| {
            let label = Found { memory };
            let bytes = self.bytes.get_or_create(&label).get() as f64;
            (bytes, self.seconds.get_or_create(&label).get())
        };
        let ((fresh_bytes, fresh_seconds), (bytes, seconds)) =
            (sums(MemoryOf::Fresh), sums(MemoryOf::Kept));
        if fresh_bytes > 0.0 && bytes > 0.0 {
            bytes * fresh_seconds / fresh_bytes - seconds
        } else {
            0.0
        }
    }
}

/// What is read when Prometheus asks.
#[derive(Debug)]
struct Memory {
    pool: BufferPool,
    storages: Storages,
    loads: Loads,
}

impl Collector for Memory {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let stats = self.pool.stats();
        let mut tell = |name: &str, help: &str, metric: &dyn EncodeMetric| {
            let encoder = encoder.encode_descriptor(name, help, None, metric.metric_type())?;
            metric.encode(encoder)
        };
        tell(
            "pool_hits",
            "Buffers that were there already (they serve types that have to be converted)",
            &ConstCounter::new(stats.hits()),
        )?;
        tell(
            "pool_misses",
            "Buffers that had to be mapped",
            &ConstCounter::new(stats.fresh),
        )?;
        tell(
            "pool_waits",
            "Requests that waited for room",
            &ConstCounter::new(stats.waits),
        )?;
        tell(
            "pool_wait_seconds",
            "Time that they waited",
            &ConstCounter::new(stats.wait_time.as_secs_f64()),
        )?;
        tell(
            "pool_leased_bytes",
            "Bytes in use",
            &ConstGauge::new(stats.leased_bytes as i64),
        )?;
        tell(
            "pool_idle_bytes",
            "Bytes kept for the next load",
            &ConstGauge::new(stats.idle_bytes as i64),
        )?;
        tell(
            "pinned_bytes",
            "Bytes locked into memory",
            &ConstGauge::new(stats.pinned_bytes as i64),
        )?;
        let storages = self.storages.stats();
        tell(
            "storages_hits",
            "Storages of weights that were there already",
            &ConstCounter::new(storages.reused),
        )?;
        tell(
            "storages_misses",
            "Storages of weights that had to be asked of the system",
            &ConstCounter::new(storages.fresh),
        )?;
        tell(
            "storages_kept_bytes",
            "Bytes kept for the next model",
            &ConstGauge::new(storages.kept_bytes as i64),
        )?;
        tell(
            "saved_seconds",
            "Estimate of what reuse saved: bytes loaded into kept memory at the mean rate of loads into fresh memory, less what they took",
            &ConstGauge::new(self.loads.saved_seconds()),
        )?;
        if let Some(bytes) = resident_bytes() {
            tell(
                "resident_memory_bytes",
                "Memory of the process",
                &ConstGauge::new(bytes as i64),
            )?;
        }
        Ok(())
    }
}

/// The process's resident memory, if the system tells.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    let pages = procfs::process::Process::myself()
        .ok()?
        .statm()
        .ok()?
        .resident;
    Some(pages * procfs::page_size())
}
