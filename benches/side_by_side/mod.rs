//! Several ways of doing one thing, measured in turn, round by round.
//!
//! Criterion measures one function after the other, so that a machine whose speed drifts favours some of them. Here every round runs every
//! way once; what the drift does to one it does to all, and ratios of medians hold.

pub(crate) mod machine;
pub(crate) mod setup;

use std::time::{Duration, Instant};

/// One way of doing it.
pub(crate) struct Row {
    /// The letter by which goals speak of it.
    pub(crate) key: char,
    /// What it does.
    pub(crate) way: &'static str,
    /// What the measured time includes, and what it leaves out.
    pub(crate) inside: &'static str,
    /// Does it once.
    pub(crate) measure: Box<dyn FnMut() -> Sample>,
}

/// What doing it once took.
#[derive(Clone, Copy)]
pub(crate) struct Sample {
    /// The time of the work.
    pub(crate) elapsed: Duration,
    /// Time on a core, of all threads of the process, where that is known.
    pub(crate) cpu: Option<Duration>,
    /// Page faults of the whole process during the work.
    pub(crate) page_faults: u64,
}

/// Times `work`, and drops what it returns outside the time.
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> Sample {
    let faults_before = machine::page_faults();
    let cpu_before = machine::cpu_time();
    let start = Instant::now();
    let result = work();
    let elapsed = start.elapsed();
    let cpu = machine::cpu_time() - cpu_before;
    let page_faults = machine::page_faults() - faults_before;
    drop(result);
    Sample {
        elapsed,
        cpu: Some(cpu),
        page_faults,
    }
}

/// A bound on the ratio of two rows' median times.
pub(crate) enum Goal {
    /// `row` is at least `factor` times as fast as `than`.
    Faster { row: char, than: char, factor: f64 },
    /// `row` takes at most `factor` times as long as `of`.
    Within { row: char, of: char, factor: f64 },
}

/// The samples of all rows.
pub(crate) struct Comparison {
    rounds: usize,
    rows: Vec<Measured>,
}

struct Measured {
    key: char,
    way: &'static str,
    inside: &'static str,
    samples: Vec<Sample>,
}

impl Comparison {
    /// Runs `rows` in turn: one round that does not count, then `rounds` that do.
    pub(crate) fn run(rows: &mut [Row], rounds: usize) -> Self {
        for row in &mut *rows {
            (row.measure)();
        }
        let mut measured: Vec<Measured> = rows
            .iter()
            .map(|row| Measured {
                key: row.key,
                way: row.way,
                inside: row.inside,
                samples: Vec::with_capacity(rounds),
            })
            .collect();
        for _ in 0..rounds {
            for (row, measured) in rows.iter_mut().zip(&mut measured) {
                measured.samples.push((row.measure)());
            }
        }
        Self {
            rounds,
            rows: measured,
        }
    }

    /// Prints a table of the rows, in Markdown; `bytes` is what each of them loads, and rates are relative to row `base`.
    pub(crate) fn print(&self, bytes: u64, base: char) {
        println!(
            "| | way of loading | median ms | min to max | GB/s | CPU ms | page faults | speed |"
        );
        println!("|---|---|--:|--:|--:|--:|--:|--:|");
        let base = self.row(base);
        for row in &self.rows {
            let median = row.median();
            let (min, max) = row.range();
            println!(
                "| ({}) | {} | {:.1} | {:.1} to {:.1} | {:.1} | {} | {} | {:.1} × |",
                row.key,
                row.way,
                median * 1e3,
                min * 1e3,
                max * 1e3,
                bytes as f64 / median / 1e9,
                row.median_cpu()
                    .map_or("-".to_owned(), |cpu| format!("{:.0}", cpu * 1e3)),
                row.median_faults(),
                base.median() / median,
            );
        }
        println!();
        println!(
            "Medians of {} rounds, all rows in turn in each round; speed relative to ({}). What the time includes:",
            self.rounds, base.key
        );
        println!();
        for row in &self.rows {
            println!("* ({}) {}", row.key, row.inside);
        }
    }

    /// Prints how `goals` compare with what was measured, in Markdown.
    pub(crate) fn print_goals(&self, goals: &[Goal]) {
        println!("| goal | measured | |");
        println!("|---|--:|---|");
        for goal in goals {
            let (text, ratio, met) = self.judge(goal);
            let verdict = if met { "PASS" } else { "MISS" };
            println!("| {text} | {ratio:.2} × | {verdict} |");
        }
    }

    fn judge(&self, goal: &Goal) -> (String, f64, bool) {
        match *goal {
            Goal::Faster { row, than, factor } => {
                let ratio = self.row(than).median() / self.row(row).median();
                let text = format!("({row}) at least {factor} × as fast as ({than})");
                (text, ratio, ratio >= factor)
            }
            Goal::Within { row, of, factor } => {
                let ratio = self.row(row).median() / self.row(of).median();
                let text = format!("({row}) takes at most {factor} × the time of ({of})");
                (text, ratio, ratio <= factor)
            }
        }
    }

    fn row(&self, key: char) -> &Measured {
        self.rows
            .iter()
            .find(|row| row.key == key)
            .expect("goals speak of rows that were measured")
    }
}

impl Measured {
    /// Seconds.
    fn median(&self) -> f64 {
        middle(self.seconds())
    }

    /// Seconds on a core.
    fn median_cpu(&self) -> Option<f64> {
        let samples = self.samples.iter();
        let seconds: Option<Vec<f64>> = samples
            .map(|sample| Some(sample.cpu?.as_secs_f64()))
            .collect();
        seconds.map(middle)
    }

    /// The fastest and the slowest round, in seconds.
    fn range(&self) -> (f64, f64) {
        let seconds = self.seconds();
        let fold = |pick: fn(f64, f64) -> f64, from| seconds.iter().copied().fold(from, pick);
        (fold(f64::min, f64::INFINITY), fold(f64::max, 0.0))
    }

    fn median_faults(&self) -> u64 {
        let mut faults: Vec<u64> = self
            .samples
            .iter()
            .map(|sample| sample.page_faults)
            .collect();
        faults.sort_unstable();
        faults[faults.len() / 2]
    }

    fn seconds(&self) -> Vec<f64> {
        self.samples
            .iter()
            .map(|sample| sample.elapsed.as_secs_f64())
            .collect()
    }
}

/// The median.
fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    }
}
