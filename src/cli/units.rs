//! Numbers as people read them.

use ckload::ByteSize;

use super::style;

/// `522.7 MiB`
pub(crate) fn bytes(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}

/// `9.6 GiB/s`
pub(crate) fn rate(bytes_per_second: f64) -> String {
    format!("{}/s", bytes(bytes_per_second as u64))
}

/// `54.3 ms`, with the unit that leaves one to three digits before the point.
pub(crate) fn seconds(seconds: f64) -> String {
    const UNITS: [(f64, &str); 4] = [(1.0, ""), (1e-3, "m"), (1e-6, "u"), (1e-9, "n")];
    let magnitude = seconds.abs();
    // Less is what is left of rounding.
    if magnitude < 0.5e-9 {
        return "0 s".into();
    }
    // What would be rounded to 1000 of a unit is 1 of the next.
    let (size, unit) = UNITS
        .into_iter()
        .find(|(size, _)| magnitude >= size * 0.9995)
        .unwrap_or(UNITS[3]);
    let unit = if unit == "u" {
        style::glyphs().micro
    } else {
        unit
    };
    let value = seconds / size;
    match value.abs() {
        ..9.995 => format!("{value:.2} {unit}s"),
        ..99.95 => format!("{value:.1} {unit}s"),
        _ => format!("{value:.0} {unit}s"),
    }
}

/// `133,816`
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `1 tensor`, `160 tensors`
pub(crate) fn counted(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", count(number))
}

/// `82 %`, of a part of 1.
pub(crate) fn percent(part: f64) -> String {
    format!("{:.0} %", part * 100.0)
}

/// `4.86`, of times as fast.
pub(crate) fn ratio(ratio: f64) -> String {
    format!("{ratio:.*}", if ratio < 9.95 { 2 } else { 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_binary() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(548_105_171), "522.7 MiB");
        assert_eq!(rate(1024.0 * 1024.0 * 1024.0 * 2.5), "2.5 GiB/s");
    }

    #[test]
    fn seconds_have_three_digits() {
        for (value, text) in [
            (0.0, "0 s"),
            (4e-12, "0 s"),
            (1e-9, "1.00 ns"),
            (0.0543, "54.3 ms"),
            (0.2541, "254 ms"),
            (1.234, "1.23 s"),
            (12.34, "12.3 s"),
            (0.99999, "1.00 s"),
            (0.009_999, "10.0 ms"),
            (3.2e-7, "320 ns"),
            (-0.0123, "-12.3 ms"),
        ] {
            assert_eq!(seconds(value), text, "{value}");
        }
    }

    #[test]
    fn counts_are_grouped() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_000), "1,000");
        assert_eq!(count(133_816), "133,816");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(counted(1, "file"), "1 file");
        assert_eq!(counted(2, "file"), "2 files");
    }
}
