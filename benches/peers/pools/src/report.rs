//! The table: rows × pools, ours against the best of the others, and what was meant to be reached.

use std::fmt::{self, Write};

use crate::{
    measure::{Goal, Measured},
    pools::Peer,
};

/// How ours did in a row.
#[derive(Clone, Copy, Debug)]
pub struct Verdict {
    /// The fastest of the pools that ours is compared with.
    pub best: Peer,
    /// Our time divided by its time.
    pub ratio: f64,
}

/// Compares ours with the best of all others but the floor; nothing if either is missing.
#[must_use]
pub fn against_all(row: &Measured) -> Option<Verdict> {
    against(row, |peer| peer != Peer::Stack)
}

/// Compares ours with the best of those that threads can share; nothing if either is missing.
#[must_use]
pub fn against_shared(row: &Measured) -> Option<Verdict> {
    against(row, Peer::is_shared)
}

fn against(row: &Measured, counts: impl Fn(Peer) -> bool) -> Option<Verdict> {
    let ours = row.cell(Peer::Ckload)?;
    let best = row
        .cells
        .iter()
        .filter(|cell| cell.pool != Peer::Ckload && counts(cell.pool))
        .min_by(|one, other| one.median.total_cmp(&other.median))?;
    Some(Verdict {
        best: best.pool,
        ratio: ours.median / best.median,
    })
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ratio {
            ratio if ratio < 1.0 => write!(f, "ahead, × {ratio:.2}"),
            ratio if ratio < 3.0 => write!(f, "behind by {:.0} %", (ratio - 1.0) * 100.0),
            ratio => write!(f, "behind, × {ratio:.1}"),
        }
    }
}

/// A goal's wording and whether it was met; nothing if what it compares with was not measured.
#[must_use]
pub fn check(goal: &Goal, row: &Measured, group: &[Measured]) -> Option<(String, bool)> {
    let ours = row.cell(Peer::Ckload)?.median;
    let times = |other: f64| ours / other;
    Some(match goal {
        Goal::Nanos(most) => (format!("≤ {most} ns"), ours <= *most),
        Goal::Floors(most) => {
            let times = times(row.cell(Peer::Stack)?.median);
            (format!("≤ {most} × stack ({times:.2})"), times <= *most)
        }
        Goal::AheadOf(peer) => {
            let other = row.cell(*peer)?.median;
            (format!("ahead of {}", peer.name()), ours < other)
        }
        Goal::OfRow(index, most) => {
            let base = group.get(*index)?;
            let times = times(base.cell(Peer::Ckload)?.median);
            let title = base.row.title.split(',').next().unwrap_or_default();
            (format!("≤ {most} × {title} ({times:.2})"), times <= *most)
        }
    })
}

/// All groups' rows as a Markdown table, and what it comes to.
#[must_use]
pub fn markdown(groups: &[Vec<Measured>]) -> String {
    let mut text = String::from("| row |");
    for peer in Peer::ALL {
        let _ = write!(text, " {} |", peer.name());
    }
    text.push_str(" best other | ours against it | best that threads share | ours against it | goals |\n|---|");
    text.push_str(&"---:|".repeat(Peer::ALL.len()));
    text.push_str("---|---|---|---|---|\n");
    for group in groups {
        for row in group {
            line(&mut text, row, group);
        }
    }
    let rows = || groups.iter().flatten();
    let ahead = |verdict: fn(&Measured) -> Option<Verdict>| {
        rows()
            .filter_map(verdict)
            .filter(|verdict| verdict.ratio < 1.0)
            .count()
    };
    let _ = writeln!(
        text,
        "\nOf {} rows ours is ahead of every other in {}, and of every other that threads can share in {}. \
         Medians; the spread is in the raw results.",
        rows().count(),
        ahead(against_all),
        ahead(against_shared),
    );
    text
}

fn line(text: &mut String, row: &Measured, group: &[Measured]) {
    let mark = if row.disturbed > 0 {
        " (disturbed)"
    } else {
        ""
    };
    let _ = write!(text, "| {}{mark} |", row.row.title);
    for peer in Peer::ALL {
        let _ = match row.cell(peer) {
            Some(cell) => write!(
                text,
                " {} |",
                Nanos(cell.median * f64::from(row.row.unit_ops))
            ),
            None => write!(text, " |"),
        };
    }
    for verdict in [against_all(row), against_shared(row)] {
        let _ = match verdict {
            Some(verdict) => write!(text, " {} | {verdict} |", verdict.best.name()),
            None => write!(text, " | |"),
        };
    }
    let goals: Vec<_> = row
        .row
        .goals
        .iter()
        .filter_map(|goal| check(goal, row, group))
        .map(|(words, met)| format!("{words}: {}", if met { "met" } else { "**missed**" }))
        .collect();
    let _ = writeln!(text, " {} |", goals.join("; "));
}

/// Three digits and a unit.
struct Nanos(f64);

impl fmt::Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, unit) = match self.0 {
            nanos if nanos < 1e3 => (nanos, "ns"),
            nanos if nanos < 1e6 => (nanos / 1e3, "µs"),
            nanos => (nanos / 1e6, "ms"),
        };
        let digits = match value {
            value if value < 9.995 => 2,
            value if value < 99.95 => 1,
            _ => 0,
        };
        write!(f, "{value:.digits$} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{Cell, Row};

    fn measured(medians: &[(Peer, f64)], goals: &[Goal]) -> Measured {
        let cells = medians.iter().map(|&(pool, median)| Cell {
            pool,
            operations: 1,
            nanos: vec![median],
            median,
            min: median,
            max: median,
        });
        Measured {
            row: Row {
                title: "one thing".to_owned(),
                unit_ops: 1,
                goals: goals.to_vec(),
            },
            cells: cells.collect(),
            disturbed: 0,
        }
    }

    #[test]
    fn the_floor_is_not_a_rival() {
        let row = measured(
            &[(Peer::Ckload, 8.0), (Peer::Opool, 16.0), (Peer::Stack, 4.0)],
            &[],
        );
        let verdict = against_all(&row).expect("ours and another");
        assert_eq!((verdict.best, verdict.ratio), (Peer::Opool, 0.5));
        assert_eq!(verdict.to_string(), "ahead, × 0.50");
    }

    #[test]
    fn pools_of_one_thread_count_apart() {
        let medians = [
            (Peer::Ckload, 8.0),
            (Peer::Opool, 10.0),
            (Peer::Lifeguard, 4.0),
        ];
        let row = measured(&medians, &[]);
        let best = |verdict: Option<Verdict>| verdict.map(|verdict| verdict.best);
        assert_eq!(best(against_all(&row)), Some(Peer::Lifeguard));
        assert_eq!(best(against_shared(&row)), Some(Peer::Opool));
    }

    #[test]
    fn being_behind_is_said_with_a_figure() {
        for (ratio, words) in [(1.25, "behind by 25 %"), (4.0, "behind, × 4.0")] {
            let best = Peer::Opool;
            assert_eq!(Verdict { best, ratio }.to_string(), words);
        }
    }

    #[test]
    fn goals_are_checked_against_the_same_run() {
        let one = measured(&[(Peer::Ckload, 9.0), (Peer::Stack, 3.0)], &[]);
        let two = measured(&[(Peer::Ckload, 5.0), (Peer::Opool, 6.0)], &[]);
        let group = [one.clone(), two.clone()];
        let met = |goal: Goal, row| check(&goal, row, &group).map(|(_, met)| met);
        assert_eq!(met(Goal::Nanos(9.0), &one), Some(true));
        assert_eq!(met(Goal::Floors(2.5), &one), Some(false));
        assert_eq!(met(Goal::AheadOf(Peer::Opool), &two), Some(true));
        assert_eq!(met(Goal::AheadOf(Peer::Opool), &one), None);
        assert_eq!(met(Goal::OfRow(0, 0.6), &two), Some(true));
        assert_eq!(met(Goal::OfRow(0, 0.5), &two), Some(false));
    }

    #[test]
    fn a_table_has_a_cell_for_every_pool() {
        let row = measured(
            &[(Peer::Ckload, 1234.0), (Peer::Malloc, 2e6)],
            &[Goal::Nanos(10.0)],
        );
        let text = markdown(&[vec![row]]);
        let line = text.lines().nth(2).expect("a row");
        assert_eq!(line.matches('|').count(), Peer::ALL.len() + 7);
        assert!(line.contains("| 1.23 µs |") && line.contains("| 2.00 ms |"));
        assert!(line.contains("≤ 10 ns: **missed**"));
    }
}
