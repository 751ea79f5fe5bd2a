//! A panel of horizontal bars, one a contender.

use super::canvas::{Anchor, Canvas, Pair};
use crate::bench::stats::{Spread, show};

/// Height of a bar with its room.
const STEP: f64 = 23.0;
/// Height of a bar.
const THICK: f64 = 13.0;
/// Above the first bar: title and unit.
const TOP: f64 = 50.0;
/// Below the last.
const BOTTOM: f64 = 10.0;
/// Room of the names.
const NAMES: f64 = 128.0;
/// Room of the figures.
const VALUES: f64 = 94.0;

/// One contender.
pub struct Bar<'a> {
    /// Whose.
    pub name: &'a str,
    /// Of the bar.
    pub color: &'static str,
    /// None where it failed.
    pub figure: Option<Spread>,
    /// In proportion to the direct path's.
    pub of_direct: Option<f64>,
    /// Why it failed.
    pub problem: Option<&'a str>,
}

/// Height of a panel of so many.
pub fn bars_height(count: usize) -> f64 {
    TOP + STEP * count as f64 + BOTTOM
}

/// Draws the panel. All bars begin at nothing, so their lengths can be compared.
pub fn draw_bars(
    canvas: &mut Canvas,
    (title, unit): (&str, &str),
    bars: &[Bar<'_>],
    (x, y): Pair,
    size: Pair,
) {
    canvas.panel((x, y), size, title, unit);
    let (from, room) = (x + 14.0 + NAMES, size.0 - 28.0 - NAMES - VALUES);
    let highest = bars.iter().filter_map(|b| Some(b.figure?.high)).fold(0.0, f64::max);
    let to = |value: f64| if highest > 0.0 { from + room * value / highest } else { from };
    for (n, bar) in bars.iter().enumerate() {
        let top = y + TOP + STEP * n as f64;
        let (middle, base) = (top + THICK / 2.0, top + THICK - 3.0);
        let own = if bar.name == "ringtap" { " own" } else { "" };
        canvas.text((from - 8.0, base), &format!("label{own}"), Anchor::End, bar.name);
        let Some(figure) = bar.figure else {
            let why: String = bar.problem.unwrap_or("no figure").chars().take(34).collect();
            canvas.text((from, base), "problem", Anchor::Start, &why);
            continue;
        };
        let hover = format!(
            "{}: {} ({} to {}) {unit}",
            bar.name,
            show(figure.median),
            show(figure.low),
            show(figure.high)
        );
        canvas.rect((from, top), (room, THICK), 3.0, "track", None);
        let end = to(figure.median);
        canvas.titled_rect((from, top), ((end - from).max(1.5), THICK), 3.0, "", Some(bar.color), &hover);
        if figure.high > figure.low {
            canvas.line((to(figure.low), middle), (to(figure.high), middle), "whisker");
            for edge in [figure.low, figure.high] {
                canvas.line((to(edge), middle - 3.0), (to(edge), middle + 3.0), "whisker");
            }
        }
        let at = from + room + 8.0;
        canvas.text((at, base), &format!("value{own}"), Anchor::Start, &show(figure.median));
        if let Some(ratio) = bar.of_direct {
            let end = at + VALUES - 10.0;
            let ratio = if ratio < 10.0 { format!("×{ratio:.2}") } else { format!("×{ratio:.0}") };
            canvas.text((end, base), "tick", Anchor::End, &ratio);
        }
    }
}
