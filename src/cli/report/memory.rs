//! Whose memory a load used, and what that saved.

use std::io::{self, Write};

use anstyle::Style;
use ckload::{AllocationReport, Report};

use crate::cli::options::{LoadOptions, Pin};
use crate::cli::savings::{Method, Savings};
use crate::cli::{style, units};

use super::{ModelReport, PoolSummary, labels, runs};

/// Writes how much memory of a model's loads was fresh, and how much was used before.
pub(super) fn write_memory(out: &mut impl Write, model: &ModelReport) -> io::Result<()> {
    let median = |of: fn(&Report) -> u64| runs::median(&model.runs, of) as u64;
    let fresh = median(|run| run.allocation.fresh_bytes);
    let recycled = median(|run| run.allocation.reused_bytes);
    let faults = median(|run| run.page_faults);
    labels::write(out, "Memory", &memory(fresh, recycled, faults))
}

/// The same of the first load of a model that came after another one: what it found in the pool.
pub(super) fn write_memory_of_first(out: &mut impl Write, model: &ModelReport) -> io::Result<()> {
    let Some(first) = model.runs.first() else {
        return Ok(());
    };
    let allocation = &first.allocation;
    let memory = memory(
        allocation.fresh_bytes,
        allocation.reused_bytes,
        first.page_faults,
    );
    let of = if model.runs.len() > 1 {
        " (first load)"
    } else {
        ""
    };
    labels::write(out, "Memory", &format!("{memory}{of}"))
}

fn memory(fresh: u64, recycled: u64, faults: u64) -> String {
    let faults = units::counted(faults, "page fault");
    let shown = |bytes| units::bytes(bytes);
    match (fresh, recycled) {
        (0, 0) => format!("none; {faults}"),
        (_, 0) => format!("{} fresh, none recycled; {faults}", shown(fresh)),
        (0, _) => format!("{} recycled, none fresh; {faults}", shown(recycled)),
        _ => format!(
            "{} fresh, {} recycled ({}); {faults}",
            shown(fresh),
            shown(recycled),
            units::percent(recycled as f64 / (fresh + recycled) as f64),
        ),
    }
}

/// The part of a load's memory that had been used before, if it took any.
pub(super) fn recycled_part(allocation: &AllocationReport) -> Option<f64> {
    let all = allocation.fresh_bytes + allocation.reused_bytes;
    (all > 0).then(|| allocation.reused_bytes as f64 / all as f64)
}

/// Writes how much of the pool's memory was locked, or why not.
pub(crate) fn write_pool(out: &mut impl Write, pool: &PoolSummary, pin: Pin) -> io::Result<()> {
    labels::write(out, "Pool", &pool_text(pool, pin))
}

fn pool_text(pool: &PoolSummary, pin: Pin) -> String {
    let pages = if pool.huge_pages { "huge" } else { "small" };
    let pinned = units::bytes(pool.pinned_bytes);
    match (&pool.last_pin_error, pool.pins, pin) {
        (_, false, Pin::Never) => format!("{pages} pages, not pinned, as asked"),
        (_, false, _) => format!("{pages} pages, not pinned: for small ones that takes long"),
        (None, true, _) => format!("{pages} pages, {pinned} pinned"),
        (Some(reason), true, _) => {
            let reason = style::escape(reason);
            if pool.pinned_bytes == 0 {
                return format!("{pages} pages, not pinned: refused ({reason})");
            }
            format!("{pages} pages, {pinned} pinned, more was refused ({reason})")
        }
    }
}

/// Writes how much memory the process had at most, if the system tells.
pub(crate) fn write_process(out: &mut impl Write, peak_rss_bytes: Option<u64>) -> io::Result<()> {
    match peak_rss_bytes {
        Some(bytes) => labels::write(
            out,
            "Process",
            &format!("{} at its peak", units::bytes(bytes)),
        ),
        None => Ok(()),
    }
}

/// Writes what pooling saved in the loads of all models.
pub(super) fn write_savings(
    out: &mut impl Write,
    savings: &Savings,
    options: &LoadOptions,
) -> io::Result<()> {
    let of = if options.models.len() == 1 {
        ""
    } else {
        " of all models"
    };
    let rounds = units::counted(options.rounds.get() as u64, "round");
    let source = match savings.method {
        Method::Measured if options.rounds.get() == 1 => "measured, once each".to_owned(),
        Method::Measured => format!("measured: medians of {rounds}"),
        Method::Estimated => {
            "estimated from the price of its fresh memory; --compare measures".to_owned()
        }
    };
    write_saved(out, savings, of, &source)
}

/// Writes what pooling saved in a load `of` something, a loss like a gain, and where the number comes from.
pub(crate) fn write_saved(
    out: &mut impl Write,
    savings: &Savings,
    of: &str,
    source: &str,
) -> io::Result<()> {
    let (text, color) = saved(savings, of);
    labels::write_in(out, "Saved", style::LABEL, &text, color)?;
    if savings.seconds == 0.0 {
        return Ok(());
    }
    labels::write_in(out, "", style::LABEL, source, style::FAINT)
}

fn saved(savings: &Savings, of: &str) -> (String, Style) {
    let seconds = units::seconds(savings.seconds.abs());
    if savings.seconds > 0.0 {
        let least = match savings.method {
            Method::Measured => "",
            Method::Estimated => "about ",
        };
        let ratio = units::ratio(savings.ratio);
        let text = format!("{least}{seconds} a load{of}, {ratio} times as fast with the pool");
        (text, style::GAIN)
    } else if savings.seconds < 0.0 {
        let text = format!("nothing: with the pool a load{of} took {seconds} more");
        (text, Style::new())
    } else {
        ("nothing: no memory was used twice".to_owned(), Style::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_fresh_or_recycled() {
        const MIB: u64 = 1 << 20;
        assert_eq!(memory(0, 0, 0), "none; 0 page faults");
        assert_eq!(
            memory(4 * MIB, 0, 1),
            "4.0 MiB fresh, none recycled; 1 page fault"
        );
        assert_eq!(
            memory(0, 4 * MIB, 1_234),
            "4.0 MiB recycled, none fresh; 1,234 page faults"
        );
        assert_eq!(
            memory(MIB, 3 * MIB, 0),
            "1.0 MiB fresh, 3.0 MiB recycled (75 %); 0 page faults"
        );
    }

    #[test]
    fn what_is_not_pinned_says_why() {
        let mut pool = PoolSummary {
            max_bytes: None,
            pinned_bytes: 8 << 20,
            pin_failures: 0,
            huge_pages: true,
            threads: 1,
            pins: true,
            last_pin_error: None,
        };
        assert_eq!(pool_text(&pool, Pin::Auto), "huge pages, 8.0 MiB pinned");
        pool.last_pin_error = Some("no".to_owned());
        assert_eq!(
            pool_text(&pool, Pin::Auto),
            "huge pages, 8.0 MiB pinned, more was refused (no)"
        );
        pool.pinned_bytes = 0;
        assert_eq!(
            pool_text(&pool, Pin::Auto),
            "huge pages, not pinned: refused (no)"
        );
        pool.pins = false;
        assert_eq!(
            pool_text(&pool, Pin::Never),
            "huge pages, not pinned, as asked"
        );
        pool.huge_pages = false;
        assert_eq!(
            pool_text(&pool, Pin::Auto),
            "small pages, not pinned: for small ones that takes long"
        );
    }

    #[test]
    fn a_loss_is_told_like_a_gain() {
        let text = |seconds, ratio, method| {
            let savings = Savings {
                seconds,
                ratio,
                method,
            };
            saved(&savings, "").0
        };
        assert_eq!(
            text(0.5, 2.0, Method::Measured),
            "500 ms a load, 2.00 times as fast with the pool"
        );
        assert_eq!(
            text(0.5, 2.0, Method::Estimated),
            "about 500 ms a load, 2.00 times as fast with the pool"
        );
        assert_eq!(
            text(-0.5, 0.5, Method::Measured),
            "nothing: with the pool a load took 500 ms more"
        );
        assert_eq!(
            text(0.0, 1.0, Method::Estimated),
            "nothing: no memory was used twice"
        );
    }
}
