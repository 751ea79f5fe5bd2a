//! A panel of latency curves: percentiles to the right, each decade of rarity as wide as the one before; time upwards, by powers.

use super::canvas::{Anchor, Canvas, Pair};
use super::color;
use crate::bench::load::{Latency, QUANTILES};
use crate::bench::report::Row;

/// Room of the times at the left, title above and percentiles below.
const LEFT: f64 = 56.0;
const TOP: f64 = 54.0;
const BOTTOM: f64 = 30.0;
/// Between names.
const STEP: f64 = 14.0;
/// Percentiles with a name.
const NAMED: [(f64, &str); 6] =
    [(0.0, "p0"), (0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p99.9"), (0.9999, "p99.99")];

/// How far to the right: p90 at 1, p99 at 2, p99.9 at 3.
fn rarity(quantile: f64) -> f64 {
    -(1.0 - quantile).log10()
}

/// The quantiles of `latency` that so many operations can tell, with their times.
fn points(latency: &Latency) -> Vec<(f64, f64)> {
    let told = |q: f64| (1.0 - q) * latency.count as f64 >= 1.0;
    let with = QUANTILES.iter().zip(&latency.us).filter(|(q, us)| **q < 1.0 && told(**q) && **us > 0.0);
    with.map(|(q, us)| (rarity(*q), *us)).collect()
}

fn microseconds(us: f64) -> String {
    match us {
        us if us >= 1e6 => format!("{} s", us / 1e6),
        us if us >= 1e3 => format!("{} ms", us / 1e3),
        us => format!("{us} us"),
    }
}

/// Draws the panel.
pub fn draw_curves(canvas: &mut Canvas, row: &Row, columns: &[&str], (x, y): Pair, (width, height): Pair) {
    canvas.panel((x, y), (width, height), &row.title, "latency, less is better; both axes by powers of ten");
    let curves: Vec<(&str, Vec<(f64, f64)>)> = row
        .entries
        .iter()
        .filter_map(|e| Some((&e.name[..], points(e.latency.as_ref()?))))
        .filter(|(_, points)| points.len() > 1)
        .collect();
    let all = || curves.iter().flat_map(|(_, p)| p);
    let lowest = all().map(|p| p.1).fold(f64::INFINITY, f64::min);
    let highest = all().map(|p| p.1).fold(0.0, f64::max);
    if !lowest.is_finite() {
        return;
    }
    let rarest = all().map(|p| p.0).fold(1.0, f64::max);
    let (low, high) = (lowest.log10() - 0.05, (highest.log10() + 0.05).max(lowest.log10() + 0.3));
    // The names are at the right.
    let longest = curves.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let (w, h) = (width - LEFT - 42.0 - 6.8 * longest as f64, height - TOP - BOTTOM);
    let right = |rarity: f64| x + LEFT + w * rarity / rarest;
    let up = |us: f64| y + TOP + h * (1.0 - (us.log10() - low) / (high - low));
    for decade in 0..8 {
        for step in [1.0, 2.0, 5.0] {
            let us = step * 10f64.powi(decade);
            if (low..=high).contains(&us.log10()) {
                canvas.line((x + LEFT, up(us)), (x + LEFT + w, up(us)), "grid");
                canvas.text((x + LEFT - 7.0, up(us) + 4.0), "tick", Anchor::End, &microseconds(us));
            }
        }
    }
    for (quantile, name) in NAMED.into_iter().filter(|(q, _)| rarity(*q) <= rarest + 1e-9) {
        let at = right(rarity(quantile));
        canvas.line((at, y + TOP), (at, y + TOP + h), "grid");
        canvas.text((at, y + TOP + h + 17.0), "tick", Anchor::Middle, name);
    }
    let mut names: Vec<(f64, &str)> = Vec::new();
    // The own one last, above the others.
    for own in [false, true] {
        for (name, points) in curves.iter().filter(|(name, _)| (*name == "ringtap") == own) {
            let class = if own { "curve own" } else { "curve" };
            let through: Vec<Pair> = points.iter().map(|(r, us)| (right(*r), up(*us))).collect();
            canvas.curve(&through, class, color(name, columns));
            names.extend(through.last().map(|(_, y)| (*y, *name)));
        }
    }
    names.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut free = y + TOP;
    // Names stay beside their curves' ends, but never one on another.
    let room = y + TOP + h - STEP * names.len() as f64;
    for (n, (end, name)) in names.into_iter().enumerate() {
        let at = end.clamp(free, (room + STEP * (n + 1) as f64).max(free));
        free = at + STEP;
        let left = x + LEFT + w + 8.0;
        canvas.rect((left, at - 4.0), (8.0, 8.0), 2.0, "", Some(color(name, columns)));
        let class = if name == "ringtap" { "label own" } else { "label" };
        canvas.text((left + 13.0, at + 4.0), class, Anchor::Start, name);
    }
}
