//! A line for each load that was measured.

use std::fmt::Write;

use super::super::results::{Phases, Results};

const HEADER: &str = "model,bytes,state,way,run,seconds,open_seconds,allocate_seconds,read_seconds,rest_seconds,page_faults,bytes_per_second";

/// The samples as comma-separated values; phases that are not known are empty.
pub(super) fn lines(results: &Results) -> String {
    let mut text = format!("{HEADER}\n");
    let model = quoted(&results.model.path);
    for result in &results.states {
        let state = match result.state {
            super::super::State::Warm => "warm",
            super::super::State::Cold => "cold",
        };
        for way in &result.ways {
            for (number, sample) in way.samples.iter().enumerate() {
                let _ = writeln!(
                    text,
                    "{model},{},{state},{},{},{},{},{},{}",
                    way.bytes,
                    way.way.name(),
                    number + 1,
                    sample.seconds,
                    phases(sample.phases),
                    sample.page_faults,
                    way.bytes as f64 / sample.seconds.max(f64::MIN_POSITIVE),
                );
            }
        }
    }
    text
}

fn phases(phases: Option<Phases>) -> String {
    match phases {
        Some(Phases {
            open,
            allocate,
            read,
            rest,
        }) => format!("{open},{allocate},{read},{rest}"),
        None => ",,,".into(),
    }
}

/// In quotes if it has to be.
fn quoted(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_end_a_field_is_quoted() {
        assert_eq!(quoted("a model"), "a model");
        assert_eq!(quoted("a,\"b\""), "\"a,\"\"b\"\"\"");
    }

    #[test]
    fn unknown_phases_keep_their_columns() {
        let known = Phases::of(1.0, 0.25, 0.25, 0.25);
        assert_eq!(phases(Some(known)), "0.25,0.25,0.25,0.25");
        let commas = |text: String| text.matches(',').count();
        assert_eq!(commas(phases(None)), commas(phases(Some(known))));
    }
}
