//! Where the time of a load went.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use ckload::Report;

use crate::cli::width::bar;
use crate::cli::{style, units};

use super::labels::{LABEL_COLUMNS, write_text};

/// Columns of the longest bar, where there is room.
const BAR_COLUMNS: usize = 32;

/// However narrow the terminal, the longest bar has so many.
const LEAST_BAR_COLUMNS: usize = 6;

/// Columns of a time and of a percentage, with the space before them.
const TIME_COLUMNS: usize = 9;
const PERCENT_COLUMNS: usize = 7;

/// The time of a load by what it was spent on, as a clock on the wall has it.
#[derive(Debug, PartialEq)]
struct Phases {
    /// Opening and loading together.
    seconds: f64,
    /// The least and the most threads that allocated, read or hashed.
    threads: (u64, u64),
    parts: Vec<Part>,
}

#[derive(Debug, PartialEq)]
struct Part {
    name: &'static str,
    seconds: f64,
    style: Style,
}

impl Phases {
    /// What threads did at the same time is summed in a report: each phase is what one of those that did it spent on it in the mean.
    /// Clocks that disagree must not make more of it than the load took.
    fn of(run: &Report) -> Self {
        let allocated = run.allocation.fresh_seconds + run.allocation.reuse_seconds;
        let sums = [
            (allocated, run.allocation.threads),
            (run.read_seconds, run.io.threads),
            (run.digest_seconds.unwrap_or_default(), run.digest_threads),
        ];
        let means = sums.map(|(sum, threads)| sum / threads.max(1) as f64);
        let mean: f64 = means.iter().sum();
        let scale = if mean > run.seconds {
            run.seconds / mean
        } else {
            1.0
        };
        let [allocated, read, hashed] = means.map(|mean| mean * scale);
        let shown = sums.iter().filter(|(sum, _)| *sum > 0.0);
        let threads = shown.map(|(_, threads)| (*threads).max(1));
        let rest = (run.seconds - allocated - read - hashed).max(0.0);

        let part = |name, seconds, color: AnsiColor| Part {
            name,
            seconds,
            style: color.on_default(),
        };
        let mut parts = vec![
            part("open", run.open_seconds, AnsiColor::Blue),
            part("allocate", allocated, AnsiColor::Yellow),
            part("read", read, AnsiColor::Green),
        ];
        if run.digest_seconds.is_some() {
            parts.push(part("hash", hashed, AnsiColor::Magenta));
        }
        parts.push(part("other", rest, AnsiColor::BrightBlack));
        Self {
            seconds: run.open_seconds + run.seconds,
            threads: (
                threads.clone().min().unwrap_or(1),
                threads.max().unwrap_or(1),
            ),
            parts,
        }
    }

    fn write(&self, out: &mut impl Write, columns: usize) -> io::Result<()> {
        let fixed = LABEL_COLUMNS + TIME_COLUMNS + PERCENT_COLUMNS;
        let most = BAR_COLUMNS
            .min(columns.saturating_sub(fixed))
            .max(LEAST_BAR_COLUMNS);
        let longest = self.parts.iter().map(|part| part.seconds);
        let longest = longest.fold(f64::MIN_POSITIVE, f64::max);
        for part in &self.parts {
            let (title, color) = (style::LABEL, part.style);
            let bar = bar(part.seconds / longest, most);
            let padding = " ".repeat(most - bar.chars().count());
            writeln!(
                out,
                "{title}{}{title:#}{:gap$}{color}{bar}{color:#}{padding}{:>TIME_COLUMNS$}{:>PERCENT_COLUMNS$}",
                part.name,
                "",
                units::seconds(part.seconds),
                units::percent(part.seconds / self.seconds.max(f64::MIN_POSITIVE)),
                gap = LABEL_COLUMNS - part.name.len(),
            )?;
        }
        Ok(())
    }

    /// How the phases are to be read.
    fn note(&self, runs: usize) -> String {
        let whole = units::seconds(self.seconds);
        let of = if runs > 1 {
            format!("of {whole}, of the run of median time")
        } else {
            format!("of {whole}")
        };
        match self.threads {
            (_, ..=1) => of,
            (least, most) if least < most => format!("{of}; means over {least} to {most} threads"),
            (_, most) => format!("{of}; means over {most} threads"),
        }
    }
}

/// Writes where the time of the run of median time went.
pub(super) fn write(out: &mut impl Write, runs: &[Report]) -> io::Result<()> {
    let Some(run) = median_run(runs) else {
        return Ok(());
    };
    let phases = Phases::of(run);
    phases.write(out, style::text_columns())?;
    write_text(out, style::FAINT, &phases.note(runs.len()))
}

/// Of an even number, the faster of the middle two.
fn median_run(runs: &[Report]) -> Option<&Report> {
    let mut sorted: Vec<&Report> = runs.iter().collect();
    sorted.sort_by(|one, other| one.seconds.total_cmp(&other.seconds));
    sorted.get(runs.len().saturating_sub(1) / 2).copied()
}

/// The part of a load's time that threads spent on nothing that is counted: waiting for each other, for memory, or for the consumer.
pub(super) fn waiting_part(run: &Report) -> f64 {
    let phases = Phases::of(run);
    let rest = phases.parts.last().map_or(0.0, |part| part.seconds);
    rest / run.seconds.max(f64::MIN_POSITIVE)
}

/// The seconds of a load that went into getting memory and into reading, as a clock on the wall has them.
pub(crate) fn allocate_and_read(run: &Report) -> (f64, f64) {
    let phases = Phases::of(run);
    let seconds = |name| {
        let part = phases.parts.iter().find(|part| part.name == name);
        part.map_or(0.0, |part| part.seconds)
    };
    (seconds("allocate"), seconds("read"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(seconds: f64, threads: u64, allocated: f64, read: f64) -> Report {
        let mut run = Report::default();
        run.seconds = seconds;
        run.open_seconds = 0.5;
        run.io.threads = threads;
        run.allocation.threads = threads;
        run.digest_threads = threads;
        run.allocation.fresh_seconds = allocated;
        run.read_seconds = read;
        run
    }

    fn seconds(run: &Report) -> Vec<(&'static str, f64)> {
        let parts = Phases::of(run).parts;
        parts.iter().map(|part| (part.name, part.seconds)).collect()
    }

    #[test]
    fn what_threads_did_together_is_a_mean() {
        assert_eq!(
            seconds(&run(4.0, 2, 2.0, 5.0)),
            [
                ("open", 0.5),
                ("allocate", 1.0),
                ("read", 2.5),
                ("other", 0.5)
            ]
        );
    }

    #[test]
    fn no_phase_is_longer_than_the_load() {
        assert_eq!(
            seconds(&run(4.0, 1, 2.0, 6.0)),
            [
                ("open", 0.5),
                ("allocate", 1.0),
                ("read", 3.0),
                ("other", 0.0)
            ]
        );
        let empty = Phases::of(&Report::default());
        assert_eq!((empty.seconds, empty.threads), (0.0, (1, 1)));
        assert!(empty.parts.iter().all(|part| part.seconds == 0.0));
    }

    #[test]
    fn hashing_is_shown_if_there_was_any() {
        let mut hashed = run(4.0, 2, 2.0, 2.0);
        hashed.digest_seconds = Some(4.0);
        assert!(seconds(&hashed).contains(&("hash", 2.0)));
    }

    #[test]
    fn each_sum_is_divided_by_its_own_number_of_threads() {
        let mut run = run(4.0, 8, 0.0, 4.0);
        run.allocation.reuse_seconds = 0.8;
        run.digest_seconds = Some(6.0);
        run.digest_threads = 2;
        let times = seconds(&run);
        assert_eq!(
            times[1..4],
            [("allocate", 0.1), ("read", 0.5), ("hash", 3.0)]
        );
        let note = Phases::of(&run).note(1);
        assert_eq!(note, "of 4.50 s; means over 2 to 8 threads");
        run.digest_threads = 8;
        let note = Phases::of(&run).note(2);
        assert_eq!(
            note,
            "of 4.50 s, of the run of median time; means over 8 threads"
        );
    }

    #[test]
    fn waiting_is_what_is_left() {
        assert_eq!(waiting_part(&run(4.0, 2, 2.0, 2.0)), 0.5);
        assert_eq!(waiting_part(&Report::default()), 0.0);
    }

    #[test]
    fn lines_have_the_columns_that_there_are() {
        for (columns, longest) in [(40, 14), (80, 32), (10, 6)] {
            let mut out = Vec::new();
            let phases = Phases::of(&run(4.0, 1, 0.5, 3.0));
            phases
                .write(&mut anstream::StripStream::new(&mut out), columns)
                .unwrap();
            let text = String::from_utf8(out).unwrap();
            let expected = format!("read      {}   3.00 s   67 %", "█".repeat(longest));
            assert!(text.lines().any(|line| line == expected), "{text}");
            let mut widths = text.lines().map(|line| line.chars().count());
            assert!(widths.all(|width| width == 26 + longest), "{text}");
        }
    }

    #[test]
    fn the_run_of_median_time_is_shown() {
        let runs = [3.0, 1.0, 2.0, 9.0].map(|seconds| run(seconds, 1, 0.0, 0.0));
        assert_eq!(median_run(&runs).unwrap().seconds, 2.0);
        assert_eq!(median_run(&[]), None);
    }
}
