//! Sizes, times and numbers as people read them.

use jiff::{SignedDuration, Timestamp};
use unicode_width::UnicodeWidthStr as _;

/// The text with spaces behind it, so that it takes `width` columns of a terminal.
pub(in crate::cli) fn pad(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(text.width())))
}

/// "3 states", "1 state".
pub(in crate::cli) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// "12.40 MB".
pub(in crate::cli) fn bytes(number: u64) -> String {
    let thousands = number.max(1).ilog10() / 3;
    match thousands.checked_sub(1).and_then(|unit| ["kB", "MB", "GB", "TB", "PB", "EB"].get(unit as usize)) {
        None => format!("{number} B"),
        Some(unit) => format!("{:.2} {unit}", number as f64 / 1000f64.powi(thousands as i32)),
    }
}

/// A measured time: "12ms", "4.5s", "2m 13s", "3h 26m 5s".
pub(in crate::cli) fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 0.9995 => format!("{:.0}ms", s * 1000.0),
        s if s < 59.95 => format!("{s:.1}s"),
        s => format!("{:#}", SignedDuration::from_secs(s.round() as i64)),
    }
}

/// An estimated time: "about 45s", "about 3h 26m". (`HumanDuration` would round 90 minutes to 2 hours.)
pub(in crate::cli) fn about(seconds: f64) -> String {
    let minutes = (seconds / 60.0).round().min(1e9) as i64;
    match seconds {
        s if s < 1.0 => "less than a second".to_owned(),
        s if s < 99.5 => format!("about {s:.0}s"),
        _ => format!("about {:#}", SignedDuration::from_mins(minutes)),
    }
}

/// A time in Unix milliseconds: "2026-11-22 10:04:05 UTC".
pub(in crate::cli) fn when(milliseconds: i64) -> String {
    let time = Timestamp::from_millisecond(milliseconds);
    time.map(|t| t.strftime("%F %T UTC").to_string()).unwrap_or_default()
}

/// A number with the digits that matter.
pub(in crate::cli) fn figure(v: f64) -> String {
    if v == v.trunc() && v.abs() < 1e9 { format!("{v}") } else { format!("{v:.4}") }
}

/// A figure with four decimals, or a small one with four digits.
pub(super) fn decimals(v: f64) -> String {
    if v != 0.0 && v.abs() < 1e-3 { format!("{v:.3e}") } else { format!("{v:.4}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_in_units_that_fit() {
        assert_eq!([15, 1500, 12_400_000].map(bytes), ["15 B", "1.50 kB", "12.40 MB"]);
        let measured = [0.0, 0.0123, 0.9999, 4.52, 59.94, 59.96, 133.4, 12_365.0, 1e6].map(seconds);
        insta::assert_snapshot!(measured.join(", "), @"0ms, 12ms, 1.0s, 4.5s, 59.9s, 1m, 2m 13s, 3h 26m 5s, 277h 46m 40s");
        let estimated = [0.3, 1.2, 59.6, 119.0, 720.0, 5400.0, 12_345.0, 90_000.0].map(about);
        assert!(about(f64::INFINITY).starts_with("about "));
        insta::assert_snapshot!(estimated.join(", "), @"less than a second, about 1s, about 60s, about 2m, about 12m, about 1h 30m, about 3h 26m, about 25h");
    }
}
