//! The report as one SVG picture: bars by contender, latency percentile curves, cost per GB.
//!
//! A section of the report is a block: a panel of bars for each row, then curves for each row that has latencies, then bars of
//! what bulk costs. A contender has one colour throughout; ringtap's is the only strong blue. Whiskers are the range of the
//! samples. The picture follows the reader's light or dark preference where the viewer knows it, and hovering over a bar
//! tells its figures.
//!
//! SVG is written as text by [`canvas`]: a plot library would lay out on pixels, without titles to hover over, anchored text or
//! the reader's colours.

mod bars;
mod canvas;
mod curves;

use super::report::{Report, Row};
use bars::{Bar, bars_height, draw_bars};
use canvas::{Anchor, Canvas};
use curves::draw_curves;

/// Width of the picture.
const WIDTH: f64 = 1180.0;
/// Around everything.
const MARGIN: f64 = 28.0;
/// Between panels.
const GAP: f64 = 14.0;
/// Panels of bars beside each other.
const BARS: usize = 3;
/// Panels of curves beside each other.
const CURVES: usize = 2;
/// Height of a panel of curves.
const CURVE_HEIGHT: f64 = 300.0;
/// Above what else is to be read, the name of a group of panels.
const SUBHEAD: f64 = 30.0;

/// The colour of a contender; `others` counts those that have none of their own.
fn color(name: &str, columns: &[&str]) -> &'static str {
    const OWN: [(&str, &str); 8] = [
        ("direct", "#8b949e"),
        ("ringtap", "#1f6feb"),
        ("ringtap injected", "#7ab3ff"),
        ("slirp4netns", "#e07b39"),
        ("pasta", "#a06cd5"),
        ("rootlesskit builtin", "#2ea073"),
        ("rootlesskit slirp4netns", "#a3b83a"),
        ("socat", "#d1548b"),
    ];
    const FURTHER: [&str; 5] = ["#c29a1b", "#19a3a3", "#8c6a4a", "#c0453a", "#5c6b8a"];
    let own = |name: &str| OWN.iter().find(|(n, _)| *n == name).map(|(_, c)| *c);
    own(name).unwrap_or_else(|| {
        let before = columns.iter().take_while(|c| **c != name).filter(|c| own(c).is_none()).count();
        FURTHER[before % FURTHER.len()]
    })
}

/// The whole picture.
pub fn picture(report: &Report) -> String {
    let mut canvas = Canvas::default();
    let columns = Report::columns(report.rows.iter());
    let mut y = head(&mut canvas, report, &columns);
    for name in report.sections() {
        y = section(&mut canvas, report, name, &columns, y);
    }
    canvas.finish(WIDTH, y + MARGIN - GAP)
}

/// Title, what was measured on, and the colours.
fn head(canvas: &mut Canvas, report: &Report, columns: &[&str]) -> f64 {
    let title = format!("ringtap {} against its peers", report.ringtap);
    canvas.text((MARGIN, MARGIN + 20.0), "title", Anchor::Start, &title);
    let about = format!(
        "{} · medians of {} rounds of {} s, contenders in turn; whiskers: lowest and highest",
        report.machine, report.rounds, report.window_s
    );
    canvas.text((MARGIN, MARGIN + 42.0), "note", Anchor::Start, &about);
    let (mut x, y) = (MARGIN, MARGIN + 68.0);
    for name in columns {
        canvas.rect((x, y - 9.0), (10.0, 10.0), 3.0, "", Some(color(name, columns)));
        canvas.text(
            (x + 15.0, y),
            if *name == "ringtap" { "label own" } else { "label" },
            Anchor::Start,
            name,
        );
        x += 40.0 + 7.0 * name.chars().count() as f64;
    }
    y + 18.0
}

fn section(canvas: &mut Canvas, report: &Report, name: &str, columns: &[&str], top: f64) -> f64 {
    let rows: Vec<&Row> = report.of_section(name).collect();
    let mut y = top + 34.0;
    canvas.text((MARGIN, y), "head", Anchor::Start, name);
    y += 14.0;
    let figures: Vec<_> = rows.iter().map(|row| (*row, figures(row, columns))).collect();
    y = grid(canvas, &figures, y, |row| {
        let better = if row.more_is_better { "more is better" } else { "less is better" };
        (row.title.clone(), format!("{}, {better}", row.unit))
    });
    let with: Vec<&Row> =
        rows.iter().copied().filter(|r| r.entries.iter().any(|e| e.latency.is_some())).collect();
    if !with.is_empty() {
        canvas.text((MARGIN, y + SUBHEAD - 12.0), "subhead", Anchor::Start, "Latency by percentile");
        y += SUBHEAD;
        let width = (WIDTH - 2.0 * MARGIN - GAP * (CURVES - 1) as f64) / CURVES as f64;
        for line in with.chunks(CURVES) {
            for (n, row) in line.iter().enumerate() {
                let x = MARGIN + n as f64 * (width + GAP);
                draw_curves(canvas, row, columns, (x, y), (width, CURVE_HEIGHT));
            }
            y += CURVE_HEIGHT + GAP;
        }
    }
    let costs: Vec<_> = rows
        .iter()
        .map(|row| (*row, costs(row, columns)))
        .filter(|(r, b)| !b.is_empty() && is_bulk(r))
        .collect();
    if !costs.is_empty() {
        let what = "What a GB costs: CPU time of the contender";
        canvas.text((MARGIN, y + SUBHEAD - 12.0), "subhead", Anchor::Start, what);
        y = grid(canvas, &costs, y + SUBHEAD, |row| {
            (row.title.clone(), format!("{}, less is better", row.cost_unit))
        });
    }
    y
}

fn is_bulk(row: &Row) -> bool {
    row.unit == "Gbit/s"
}

/// Panels of bars, [`BARS`] a line.
fn grid(
    canvas: &mut Canvas,
    panels: &[(&Row, Vec<Bar<'_>>)],
    top: f64,
    titles: impl Fn(&Row) -> (String, String),
) -> f64 {
    let width = (WIDTH - 2.0 * MARGIN - GAP * (BARS - 1) as f64) / BARS as f64;
    let mut y = top;
    for line in panels.chunks(BARS) {
        let height = line.iter().map(|(_, bars)| bars_height(bars.len())).fold(0.0, f64::max);
        for (n, (row, bars)) in line.iter().enumerate() {
            let x = MARGIN + n as f64 * (width + GAP);
            let (title, unit) = titles(row);
            draw_bars(canvas, (&title, &unit), bars, (x, y), (width, height));
        }
        y += height + GAP;
    }
    y
}

fn figures<'a>(row: &'a Row, columns: &[&str]) -> Vec<Bar<'a>> {
    let of_direct = |name: &str| if name == "direct" { None } else { row.ratio(name, "direct") };
    let bar = |e: &'a super::report::Entry| Bar {
        name: &e.name,
        color: color(&e.name, columns),
        figure: e.figure,
        of_direct: of_direct(&e.name),
        problem: e.problem.as_deref(),
    };
    row.entries.iter().map(bar).collect()
}

fn costs<'a>(row: &'a Row, columns: &[&str]) -> Vec<Bar<'a>> {
    let with = row.entries.iter().filter(|e| e.cost.is_some());
    with.map(|e| Bar {
        name: &e.name,
        color: color(&e.name, columns),
        figure: e.cost,
        of_direct: None,
        problem: None,
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::super::load::{Latency, QUANTILES};
    use super::super::report::tests::{report, row};
    use super::*;

    /// Tags are closed in the order they were opened, and no attribute holds what is not a number or a word.
    fn check(svg: &str) {
        let mut open: Vec<&str> = Vec::new();
        let mut rest = svg;
        while let Some(at) = rest.find('<') {
            let end = at + rest[at..].find('>').expect("a tag ends");
            let tag = &rest[at + 1..end];
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name));
            } else if !tag.ends_with('/') {
                open.push(tag.split_whitespace().next().unwrap());
            }
            rest = &rest[end + 1..];
        }
        assert_eq!(open, [""; 0]);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn the_picture_is_sound_and_has_everyone_in_it() {
        let entries: &[(&str, bool, &[f64])] = &[
            ("direct", false, &[20.0, 21.0]),
            ("ringtap", false, &[12.0, 13.0]),
            ("pasta <&> \"co\"", true, &[0.0, 0.0]),
            ("socat", true, &[]),
        ];
        let mut rows = vec![row("x", true, entries), row("y", false, entries)];
        for (n, e) in rows[1].entries.iter_mut().enumerate() {
            let us = QUANTILES.iter().enumerate().map(|(i, _)| (10 * (n + 1) + i * i) as f64).collect();
            e.latency = Some(Latency { count: 1000, us });
        }
        rows[0].entries[3].problem = Some("does not start".to_owned());
        let svg = picture(&report(rows));
        check(&svg);
        for text in ["pasta &lt;&amp;&gt; &quot;co&quot;", "does not start", ">p99<", "what x is", "CPU s/GB"]
        {
            assert!(svg.contains(text), "{text}");
        }
    }

    #[test]
    fn a_report_of_nothing_is_a_picture_too() {
        check(&picture(&report(Vec::new())));
        check(&picture(&report(vec![row("x", true, &[("direct", false, &[])])])));
    }

    #[test]
    fn contenders_do_not_share_colours() {
        let columns = ["direct", "ringtap", "ringtap-old", "pasta", "pasta-2"];
        let colors: std::collections::HashSet<_> = columns.iter().map(|c| color(c, &columns)).collect();
        assert_eq!(colors.len(), columns.len());
    }
}
