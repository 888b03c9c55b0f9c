//! How fast a load was, and against what the machine can do.

use std::io::{self, Write};

use ckload::Report;

use crate::cli::{savings, units};

use super::{Limit, ModelReport, labels};

/// Writes time and rate, and the part of what plain reads reach, where that was measured.
pub(super) fn write(out: &mut impl Write, model: &ModelReport) -> io::Result<()> {
    labels::write(out, "Speed", &speed(&model.runs))?;
    match &model.limit {
        Some(limit) => labels::write(out, "", &against(limit, rate(&model.runs))),
        None => Ok(()),
    }
}

fn speed(runs: &[Report]) -> String {
    let median = units::seconds(savings::median_seconds(runs));
    let rate = units::rate(rate(runs));
    if runs.len() < 2 {
        return format!("{median}, {rate}");
    }
    let seconds = runs.iter().map(|run| run.seconds);
    let least = units::seconds(seconds.clone().fold(f64::INFINITY, f64::min));
    let most = units::seconds(seconds.fold(0.0, f64::max));
    format!("{median}, {rate} ({least} to {most})")
}

/// Bytes a second, the median.
pub(super) fn rate(runs: &[Report]) -> f64 {
    savings::median(runs.iter().map(|run| run.bytes_per_second))
}

fn against(limit: &Limit, rate: f64) -> String {
    let reads = if limit.direct {
        "direct reads"
    } else {
        "plain reads"
    };
    format!(
        "{} of what {reads} of it reach here ({})",
        units::percent(rate / limit.bytes_per_second),
        units::rate(limit.bytes_per_second),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(seconds: f64) -> Report {
        let mut run = Report::default();
        run.seconds = seconds;
        run.bytes_per_second = f64::from(1 << 20) / seconds;
        run
    }

    #[test]
    fn several_runs_have_a_range() {
        assert_eq!(speed(&[run(0.5)]), "500 ms, 2.0 MiB/s");
        assert_eq!(
            speed(&[run(2.0), run(0.5), run(4.0)]),
            "2.00 s, 512.0 KiB/s (500 ms to 4.00 s)"
        );
    }

    #[test]
    fn the_limit_is_named() {
        let mut limit = Limit {
            bytes_per_second: f64::from(4 << 20),
            direct: false,
        };
        assert_eq!(
            against(&limit, f64::from(3 << 20)),
            "75 % of what plain reads of it reach here (4.0 MiB/s)"
        );
        limit.direct = true;
        assert_eq!(
            against(&limit, f64::from(5 << 20)),
            "125 % of what direct reads of it reach here (4.0 MiB/s)"
        );
    }
}
