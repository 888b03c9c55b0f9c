//! Time along a chart's width.

use std::fmt::Write;

/// From 0 to a little more than the longest time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Axis {
    end: f64,
    step: f64,
    /// The plot's left edge and its width, percent of the chart.
    left: f64,
    width: f64,
}

impl Axis {
    /// An axis over the whole width that has room for `seconds`.
    pub(crate) fn up_to(seconds: f64) -> Self {
        let seconds = if seconds > 0.0 { seconds } else { 1e-3 };
        Self {
            end: seconds,
            // Five labels at most: more would run into each other on a phone.
            step: step(seconds / 4.0),
            left: 0.0,
            width: 100.0,
        }
    }

    /// The same, from `left` percent of the chart's width on to its right edge.
    pub(crate) fn right_of(self, left: f64) -> Self {
        Self {
            left,
            width: 100.0 - left,
            ..self
        }
    }

    /// The same, with an eighth more of room.
    pub(crate) fn roomy(self) -> Self {
        let end = self.end * 1.125;
        Self { end, ..self }
    }

    /// Where a time is, percent of the chart's width.
    pub(crate) fn x(&self, seconds: f64) -> f64 {
        self.left + self.length(seconds)
    }

    /// How long a time is, percent of the chart's width.
    pub(crate) fn length(&self, seconds: f64) -> f64 {
        seconds / self.end * self.width
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.end
    }

    /// Lines from `top` to `bottom`, and below them the times, in milliseconds or in seconds.
    pub(crate) fn draw(&self, top: f64, bottom: f64) -> String {
        let (unit, name) = if self.end < 10.0 {
            (1e-3, "ms")
        } else {
            (1.0, "s")
        };
        let decimals = (-(self.step / unit).log10().floor()).max(0.0) as usize;
        let mut drawn = String::new();
        let label_y = bottom + 16.0;
        for number in 0.. {
            let at = self.step * f64::from(number);
            let x = self.x(at);
            if at > self.end * (1.0 + 1e-9) {
                break;
            }
            let anchor = match number {
                0 => "start",
                _ if x > 97.0 => "end",
                _ => "middle",
            };
            let value = at / unit;
            let suffix = if number == 0 {
                String::new()
            } else {
                format!(" {name}")
            };
            let _ = write!(
                drawn,
                "<line class=\"grid\" x1=\"{x:.3}%\" x2=\"{x:.3}%\" y1=\"{top}\" y2=\"{bottom}\"/>\
                 <text class=\"faint\" x=\"{x:.3}%\" y=\"{label_y}\" text-anchor=\"{anchor}\">\
                 {value:.decimals$}{suffix}</text>"
            );
        }
        drawn
    }
}

/// The next of 1, 2, 5, 10, … of a power of ten.
fn step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    let factors = [1.0, 2.0, 5.0, 10.0].into_iter();
    let mut steps = factors.map(|factor| factor * power);
    steps
        .find(|step| *step >= least * (1.0 - 1e-9))
        .unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round() {
        for (least, expected) in [
            (0.0108, 0.02),
            (0.01, 0.01),
            (0.3, 0.5),
            (7.0, 10.0),
            (2e-6, 2e-6),
        ] {
            assert!((step(least) / expected - 1.0).abs() < 1e-9, "{least}");
        }
    }

    #[test]
    fn ticks_are_in_milliseconds_up_to_ten_seconds() {
        let short = Axis::up_to(0.0543).draw(0.0, 10.0);
        assert!(
            short.contains(">0</text>") && short.contains(">40 ms</text>"),
            "{short}"
        );
        assert!(!short.contains(">60 ms</text>"), "{short}");
        assert!(
            Axis::up_to(0.000_4)
                .draw(0.0, 10.0)
                .contains(">0.1 ms</text>")
        );
        assert!(Axis::up_to(42.0).draw(0.0, 10.0).contains(">40 s</text>"));
        assert!(Axis::up_to(0.0).draw(0.0, 10.0).contains(">1.0 ms</text>"));
    }

    #[test]
    fn a_plot_may_leave_room_at_its_left() {
        let axis = Axis::up_to(2.0).right_of(12.0);
        assert_eq!(
            (axis.x(0.0), axis.x(2.0), axis.length(1.0)),
            (12.0, 100.0, 44.0)
        );
    }
}
