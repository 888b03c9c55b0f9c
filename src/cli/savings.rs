//! What pooling saved: arithmetic on reports, without a clock.

use ckload::Report;
use serde::Serialize;

/// What the pool saved in one load of every model.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Savings {
    /// Time without the pool less time with it.
    pub(crate) seconds: f64,
    /// Time without the pool over time with it.
    pub(crate) ratio: f64,
    pub(crate) method: Method,
}

/// Where [`Savings`] come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Method {
    /// Loads without the pool were run and timed.
    Measured,
    /// What the recycled memory would have cost at the price of the fresh memory of the same runs.
    Estimated,
}

/// The middle of `values`, the mean of the middle two if their number is even; 0 if there are none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        length if length.is_multiple_of(2) => {
            f64::midpoint(values[length / 2 - 1], values[length / 2])
        }
        length => values[length / 2],
    }
}

/// The median time of `runs`.
pub(crate) fn median_seconds(runs: &[Report]) -> f64 {
    median(runs.iter().map(|run| run.seconds))
}

/// Medians compared. Each pair is one model's runs: without the pool, and with it.
pub(crate) fn measured<'a>(
    models: impl IntoIterator<Item = (&'a [Report], &'a [Report])>,
) -> Savings {
    let (mut without, mut with) = (0.0, 0.0);
    for (baseline_runs, runs) in models {
        without += median_seconds(baseline_runs);
        with += median_seconds(runs);
    }
    Savings {
        seconds: without - with,
        ratio: ratio(without, with),
        method: Method::Measured,
    }
}

/// An estimate from runs with the pool alone, and the price of fresh memory; each item is one model's runs.
///
/// Allocation times are sums over threads that may have worked at the same time, so the time saved is at least the sum over the
/// number of threads: the estimate is a lower bound. It is zero without a price.
pub(crate) fn estimated<'a>(
    models: impl IntoIterator<Item = &'a [Report]>,
    price: Option<f64>,
) -> Savings {
    let (mut saved, mut with) = (0.0, 0.0);
    for runs in models {
        let reused_bytes: u64 = runs.iter().map(|run| run.allocation.reused_bytes).sum();
        let reuse_seconds: f64 = runs.iter().map(|run| run.allocation.reuse_seconds).sum();
        if let Some(price) = price.filter(|_| !runs.is_empty()) {
            let total = price * reused_bytes as f64 - reuse_seconds;
            let threads = runs.iter().map(|run| run.io.threads).max().unwrap_or(0);
            saved += total / threads.max(1) as f64 / runs.len() as f64;
        }
        with += median_seconds(runs);
    }
    Savings {
        seconds: saved,
        ratio: ratio(with + saved, with),
        method: Method::Estimated,
    }
}

/// Seconds that a byte of fresh memory cost; `None` if no memory was fresh.
pub(crate) fn fresh_price<'a>(runs: impl IntoIterator<Item = &'a Report>) -> Option<f64> {
    let (mut bytes, mut seconds) = (0, 0.0);
    for run in runs {
        bytes += run.allocation.fresh_bytes;
        seconds += run.allocation.fresh_seconds;
    }
    (bytes > 0).then(|| seconds / bytes as f64)
}

fn ratio(without: f64, with: f64) -> f64 {
    if with > 0.0 { without / with } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(seconds: f64) -> Report {
        let mut report = Report::default();
        report.seconds = seconds;
        report
    }

    fn by_threads(threads: u64, runs: &[Report]) -> Vec<Report> {
        let mut runs = runs.to_vec();
        for run in &mut runs {
            run.io.threads = threads;
        }
        runs
    }

    fn allocating(seconds: f64, fresh: (u64, f64), reused: (u64, f64)) -> Report {
        let mut report = run(seconds);
        (
            report.allocation.fresh_bytes,
            report.allocation.fresh_seconds,
        ) = fresh;
        (
            report.allocation.reused_bytes,
            report.allocation.reuse_seconds,
        ) = reused;
        report
    }

    #[test]
    fn medians() {
        assert_eq!(median([]), 0.0);
        assert_eq!(median([3.0]), 3.0);
        assert_eq!(median([9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 90.0]), 3.0);
    }

    #[test]
    fn measured_savings_compare_medians() {
        let without = [run(5.0), run(4.0), run(100.0)];
        let with = [run(1.0), run(3.0), run(0.5)];
        let savings = measured([(&without[..], &with[..])]);
        assert_eq!((savings.seconds, savings.ratio), (4.0, 5.0));
        assert_eq!(savings.method, Method::Measured);
    }

    #[test]
    fn savings_of_several_models_add_up() {
        let savings = measured([
            (&[run(5.0)][..], &[run(1.0)][..]),
            (&[run(3.0)][..], &[run(3.0)][..]),
        ]);
        assert_eq!((savings.seconds, savings.ratio), (4.0, 2.0));
    }

    #[test]
    fn a_loss_is_not_hidden() {
        let savings = measured([(&[run(1.0)][..], &[run(2.0)][..])]);
        assert_eq!((savings.seconds, savings.ratio), (-1.0, 0.5));
    }

    #[test]
    fn estimates_price_recycled_memory_like_fresh_memory() {
        let runs = [
            allocating(3.0, (100, 2.0), (0, 0.0)),
            allocating(1.0, (0, 0.0), (200, 0.5)),
        ];
        // 200 bytes at 0.02 s less 0.5 s: 3.5 s in two runs.
        let price = fresh_price(&runs);
        let savings = estimated([&by_threads(1, &runs)[..]], price);
        assert_eq!((savings.seconds, savings.ratio), (1.75, 1.875));
        assert_eq!(savings.method, Method::Estimated);
        let halved = estimated([&by_threads(2, &runs)[..]], price);
        assert_eq!(halved.seconds, 0.875);
    }

    #[test]
    fn a_later_model_saves_at_the_price_that_the_first_one_paid() {
        let first = by_threads(1, &[allocating(3.0, (100, 2.0), (0, 0.0))]);
        let second = by_threads(1, &[allocating(1.0, (0, 0.0), (100, 0.0))]);
        let price = fresh_price(first.iter().chain(&second));
        assert_eq!(estimated([&second[..]], price).seconds, 2.0);
        assert_eq!(estimated([&first[..], &second[..]], price).ratio, 1.5);
    }

    #[test]
    fn nothing_is_estimated_without_a_price() {
        for runs in [
            vec![],
            vec![run(1.0)],
            vec![allocating(1.0, (0, 0.0), (10, 0.1))],
        ] {
            let savings = estimated([&by_threads(4, &runs)[..]], fresh_price(&runs));
            assert_eq!((savings.seconds, savings.ratio), (0.0, 1.0));
        }
    }
}
