//! Tables, and numbers as people read them.

use std::fmt::Write as _;
use std::time::Duration;

/// Columns as wide as what is in them; no line trails.
pub fn table<const N: usize>(rows: impl IntoIterator<Item = [String; N]>) -> String {
    let rows: Vec<_> = rows.into_iter().collect();
    let width: [usize; N] =
        std::array::from_fn(|n| rows.iter().map(|r| r[n].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(width) {
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Bytes, or bytes a second, in three digits: `0`, `999`, `1.5K`, `23M`.
pub fn bytes(n: u64) -> String {
    let mut value = n as f64;
    let mut unit = "";
    for next in ["K", "M", "G", "T", "P", "E"] {
        if value < 999.5 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    match unit {
        "" => n.to_string(),
        _ if value < 9.95 => format!("{value:.1}{unit}"),
        _ => format!("{value:.0}{unit}"),
    }
}

/// A time in its largest unit but one: `0s`, `59s`, `3m20s`, `5h07m`, `12d3h`.
pub fn age(t: Duration) -> String {
    let s = t.as_secs();
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{:02}m", s / 3600, s / 60 % 60),
        _ => format!("{}d{}h", s / 86_400, s / 3600 % 24),
    }
}

/// Microseconds: `85us`, `1.2ms`, `340ms`, `2.0s`.
pub fn micros(us: u64) -> String {
    let value = us as f64;
    match us {
        0..1000 => format!("{us}us"),
        1000..9950 => format!("{:.1}ms", value / 1e3),
        9950..999_500 => format!("{:.0}ms", value / 1e3),
        _ => format!("{:.1}s", value / 1e6),
    }
}

/// Something, or a dash.
pub fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| v.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_right() {
        let said: Vec<_> =
            [0, 999, 1000, 1024, 1536, 10 << 10, 999 << 10, 1 << 20, 3 << 30, u64::MAX].map(bytes).into();
        assert_eq!(said, ["0", "999", "1.0K", "1.0K", "1.5K", "10K", "999K", "1.0M", "3.0G", "16E"]);
        let said = [0, 59, 60, 3599, 3600, 86_399, 90_000].map(|s| age(Duration::from_secs(s)));
        assert_eq!(said, ["0s", "59s", "1m00s", "59m59s", "1h00m", "23h59m", "1d1h"]);
        let said = [0, 999, 1000, 9949, 9950, 999_499, 999_500, 61_000_000].map(micros);
        assert_eq!(said, ["0us", "999us", "1.0ms", "9.9ms", "10ms", "999ms", "1.0s", "61.0s"]);
        assert_eq!((or_dash(Some(3)), or_dash::<u8>(None)), ("3".into(), "-".into()));
    }
}
