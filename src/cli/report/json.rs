//! The JSON of a load.

use ckload::{Report, TensorDigest};
use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::{Limit, LoadReport, ModelReport, ModelSummary, SCHEMA};

/// A model, and what plain reads of its files reach, if that was measured.
#[derive(serde::Serialize)]
struct Model<'a> {
    #[serde(flatten)]
    model: &'a ModelSummary,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<Limit>,
}

impl<'a> Model<'a> {
    fn of(model: &'a ModelReport) -> Self {
        Self {
            model: &model.model,
            limit: model.limit,
        }
    }
}

/// The digests of one model's tensors.
#[derive(serde::Serialize)]
struct Digests<'a> {
    path: &'a str,
    tensors: &'a [TensorDigest],
}

impl<'a> Digests<'a> {
    fn of(model: &'a ModelReport) -> Self {
        Self {
            path: &model.model.path,
            tensors: &model.digests,
        }
    }
}

/// `runs` and `baseline_runs` list all runs of the first model, then all of the second, and so on: each model has as many
/// as there were repetitions.
impl Serialize for LoadReport {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let models: Vec<Model<'_>> = self.models.iter().map(Model::of).collect();
        let all = |runs: fn(&ModelReport) -> &Vec<Report>| -> Vec<&Report> {
            self.models.iter().flat_map(runs).collect()
        };
        let baseline_runs = all(|model| &model.baseline_runs);

        let mut object = serializer.serialize_struct("LoadReport", 9)?;
        object.serialize_field("schema", &SCHEMA)?;
        object.serialize_field("models", &models)?;
        object.serialize_field("runs", &all(|model| &model.runs))?;
        if baseline_runs.is_empty() {
            object.skip_field("baseline_runs")?;
        } else {
            object.serialize_field("baseline_runs", &baseline_runs)?;
        }
        if self.verified {
            let digests: Vec<Digests<'_>> = self.models.iter().map(Digests::of).collect();
            object.serialize_field("digests", &digests)?;
        } else {
            object.skip_field("digests")?;
        }
        if self.mismatches.is_empty() {
            object.skip_field("mismatches")?;
        } else {
            object.serialize_field("mismatches", &self.mismatches)?;
        }
        object.serialize_field("savings", &self.savings)?;
        object.serialize_field("pool", &self.pool)?;
        object.serialize_field("peak_rss_bytes", &self.peak_rss_bytes)?;
        object.end()
    }
}
