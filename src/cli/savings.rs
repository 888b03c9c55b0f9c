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
/// It is zero without a price. It takes allocating for time that a load takes longer: what it takes is less where one thread allocates while
/// another one waits for the disk, and more where some threads allocated while others had nothing to do.
pub(crate) fn estimated<'a>(
    models: impl IntoIterator<Item = &'a [Report]>,
    price: Option<f64>,
) -> Savings {
    let (mut saved, mut with) = (0.0, 0.0);
    for runs in models {
        if let Some(price) = price.filter(|_| !runs.is_empty()) {
            let saved_by = |run: &Report| {
                let fresh = price * run.allocation.reused_bytes as f64;
                fresh - on_the_clock(run, run.allocation.reuse_seconds)
            };
            saved += runs.iter().map(saved_by).sum::<f64>() / runs.len() as f64;
        }
        with += median_seconds(runs);
    }
    Savings {
        seconds: saved,
        ratio: ratio(with + saved, with),
        method: Method::Estimated,
    }
}

/// Seconds by which a byte of fresh memory made a load longer; `None` if no memory was fresh.
pub(crate) fn fresh_price<'a>(runs: impl IntoIterator<Item = &'a Report>) -> Option<f64> {
    let (mut bytes, mut seconds) = (0, 0.0);
    for run in runs {
        bytes += run.allocation.fresh_bytes;
        seconds += on_the_clock(run, run.allocation.fresh_seconds);
    }
    (bytes > 0).then(|| seconds / bytes as f64)
}

/// What a clock on the wall has of time that threads spent on memory at the same time, and that is summed: never more than the load took.
fn on_the_clock(run: &Report, sum: f64) -> f64 {
    (sum / run.allocation.threads.max(1) as f64).min(run.seconds)
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
            run.allocation.threads = threads;
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
        let by_two = by_threads(2, &runs);
        let halved = estimated([&by_two[..]], fresh_price(&by_two));
        assert_eq!(halved.seconds, 0.875);
    }

    #[test]
    fn fresh_memory_costs_no_more_than_the_load_that_it_was_for() {
        let runs = by_threads(
            2,
            &[
                allocating(1.0, (100, 8.0), (0, 0.0)),
                allocating(1.0, (0, 0.0), (100, 0.0)),
            ],
        );
        assert_eq!(fresh_price(&runs), Some(0.01));
        assert_eq!(estimated([&runs[1..]], Some(0.01)).ratio, 2.0);
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
