//! What several samples say: arithmetic, without a clock.

use serde::Serialize;

use crate::cli::savings::median;

/// Several times, summed up; seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    #[serde(rename = "median_seconds")]
    pub(crate) median: f64,
    #[serde(rename = "min_seconds")]
    pub(crate) min: f64,
    #[serde(rename = "max_seconds")]
    pub(crate) max: f64,
    /// The standard deviation, by the median of the distances from the median: outliers do not move it.
    #[serde(rename = "deviation_seconds")]
    pub(crate) deviation: f64,
}

/// The ratio of the standard deviation to the median distance from the median, where errors are normal.
const NORMAL: f64 = 1.4826;

/// A first sample so many deviations above the median is an outlier.
const OUTLIER_DEVIATIONS: f64 = 10.0;

/// It is also at least this many times the median, so that samples which hardly differ have none.
const OUTLIER_RATIO: f64 = 1.2;

/// Of fewer samples nobody can tell.
const OUTLIER_SAMPLES: usize = 5;

impl Spread {
    /// Of `samples`; zero if there are none.
    pub(crate) fn of(samples: &[f64]) -> Self {
        let middle = median(samples.iter().copied());
        let distances = samples.iter().map(|sample| (sample - middle).abs());
        Self {
            median: middle,
            min: samples.iter().copied().reduce(f64::min).unwrap_or(0.0),
            max: samples.iter().copied().reduce(f64::max).unwrap_or(0.0),
            deviation: NORMAL * median(distances),
        }
    }

    /// The deviation as a part of the median.
    pub(crate) fn relative_deviation(&self) -> f64 {
        self.deviation / self.median.max(f64::MIN_POSITIVE)
    }
}

/// Whether the first of `samples` took far longer than the others.
pub(super) fn first_is_outlier(samples: &[f64]) -> bool {
    if samples.len() < OUTLIER_SAMPLES {
        return false;
    }
    let spread = Spread::of(samples);
    let beyond = samples[0] - spread.median;
    beyond > OUTLIER_DEVIATIONS * spread.deviation && samples[0] > OUTLIER_RATIO * spread.median
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outlier_moves_only_the_end_of_a_spread() {
        let spread = Spread::of(&[1.0, 1.2, 0.8, 50.0, 1.1]);
        assert_eq!((spread.median, spread.min, spread.max), (1.1, 0.8, 50.0));
        assert!((spread.deviation - 0.14826).abs() < 1e-9, "{spread:?}");
        assert!((spread.relative_deviation() - 0.13478).abs() < 1e-4);
    }

    #[test]
    fn few_samples_have_a_spread() {
        let one = Spread::of(&[2.0]);
        assert_eq!(
            (one.median, one.min, one.max, one.deviation),
            (2.0, 2.0, 2.0, 0.0)
        );
        assert_eq!(Spread::of(&[]).median, 0.0);
    }

    #[test]
    fn first_samples_that_stand_out() {
        for (samples, expected) in [
            (&[5.0, 1.0, 1.01, 0.99, 1.0, 1.02][..], true),
            (&[1.0, 1.0, 5.0, 1.0, 1.0], false),
            (&[1.1, 1.0, 1.0, 1.0, 1.0], false),
            (&[1.5, 1.0, 1.0, 1.0, 1.0], true),
            (&[2.0, 1.0, 1.5, 1.2, 0.8], false),
            (&[0.1, 1.0, 1.01, 0.99, 1.0], false),
            (&[9.0, 1.0, 1.0, 1.0], false),
            (&[], false),
        ] {
            assert_eq!(first_is_outlier(samples), expected, "{samples:?}");
        }
    }
}
