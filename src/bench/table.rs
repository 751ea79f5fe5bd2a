//! The report as text for a terminal.
//!
//! One table a section: figures with half their range, then ringtap's ratio to the direct path and to the best peer; below it
//! what the figures cost, and the latencies behind them. A ratio is of the figures as they are, so for a latency less is better.

use super::report::{Entry, Report, Row};
use super::stats::show;
use std::fmt::Write;

/// Blanks between columns.
const GAP: usize = 2;
/// Where long lines are cut.
const WRAP: usize = 100;
/// The quantiles of a table.
const SHOWN: [(f64, &str); 5] = [(0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p99.9"), (1.0, "max")];

/// Lines of cells, the first column left-aligned, the others right-aligned. A head may have two lines, split at a blank.
struct Grid {
    head: Vec<String>,
    lines: Vec<Vec<String>>,
}

impl Grid {
    fn new(head: impl IntoIterator<Item = String>) -> Self {
        Self { head: head.into_iter().collect(), lines: Vec::new() }
    }

    fn write(&self, out: &mut String) {
        let split = |cell: &String| match cell.split_once(' ') {
            Some((a, b)) => [a.to_owned(), b.to_owned()],
            None => [String::new(), cell.clone()],
        };
        let heads: Vec<[String; 2]> = self.head.iter().map(split).collect();
        let mut lines: Vec<Vec<&str>> = (0..2).map(|i| heads.iter().map(|h| &h[i][..]).collect()).collect();
        lines.retain(|l: &Vec<&str>| l.iter().any(|c| !c.is_empty()));
        lines.extend(self.lines.iter().map(|l| l.iter().map(String::as_str).collect()));
        let columns = self.head.len();
        let width =
            |c: usize| lines.iter().map(|l| l.get(c).map_or(0, |t| t.chars().count())).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for line in lines {
            let mut text = String::new();
            for (c, (cell, width)) in line.iter().zip(&widths).enumerate() {
                let _ = match c {
                    0 => write!(text, "{cell:<width$}"),
                    _ => write!(text, "{:GAP$}{cell:>width$}", ""),
                };
            }
            let _ = writeln!(out, "{}", text.trim_end());
        }
    }
}

fn figure(entry: Option<&Entry>) -> String {
    let Some(entry) = entry else { return String::new() };
    match &entry.figure {
        Some(f) if entry.samples.len() > 1 => {
            format!("{} ±{:.0}%", show(f.median), 100.0 * f.relative())
        }
        Some(f) => show(f.median),
        None => "failed".to_owned(),
    }
}

/// A row's main line.
fn line(row: &Row, columns: &[&str]) -> Vec<String> {
    let mut cells = vec![row.title.clone(), row.unit.clone()];
    cells.extend(columns.iter().map(|c| figure(row.entry(c))));
    cells.push(row.ratio("ringtap", "direct").map(show).unwrap_or_default());
    let best = row.best_peer();
    let ratio = best.and_then(|(peer, _)| row.ratio("ringtap", peer));
    cells.push(ratio.zip(best).map_or(String::new(), |(r, (peer, _))| format!("{} {peer}", show(r))));
    cells
}

fn section(report: &Report, name: &str, out: &mut String) {
    let rows: Vec<&Row> = report.of_section(name).collect();
    let columns = Report::columns(rows.iter().copied());
    let _ = writeln!(out, "\n{name}\n");
    let head = [String::new(), String::new()].into_iter();
    let head = head.chain(columns.iter().map(|c| (*c).to_owned()));
    let mut grid = Grid::new(head.chain(["to direct".to_owned(), "to best peer".to_owned()]));
    for row in &rows {
        grid.lines.push(line(row, &columns));
        if row.entries.iter().any(|e| e.lost_percent.is_some_and(|l| l >= 0.05)) {
            let lost = |c: &&str| row.entry(c).and_then(|e| e.lost_percent).map(|l| format!("{l:.1}"));
            let mut cells = vec!["  of it lost".to_owned(), "%".to_owned()];
            cells.extend(columns.iter().map(|c| lost(c).unwrap_or_default()));
            grid.lines.push(cells);
        }
    }
    grid.write(out);
    costs(&rows, &columns, out);
    latencies(&rows, out);
}

/// CPU time and memory.
fn costs(rows: &[&Row], columns: &[&str], out: &mut String) {
    let counted: Vec<&str> = columns
        .iter()
        .copied()
        .filter(|c| rows.iter().any(|r| r.entry(c).is_some_and(|e| e.cost.is_some())))
        .collect();
    if counted.is_empty() {
        return;
    }
    let head = ["what it costs".to_owned(), String::new()].into_iter();
    let mut grid = Grid::new(head.chain(counted.iter().map(|c| (*c).to_owned())));
    // Not two lines for the title of the first column.
    grid.head[0] = String::new();
    for row in rows {
        let mut cells = vec![row.title.clone(), row.cost_unit.clone()];
        let cost = |c: &&str| row.entry(c).and_then(|e| e.cost).map(|c| show(c.median));
        cells.extend(counted.iter().map(|c| cost(c).unwrap_or_default()));
        grid.lines.push(cells);
    }
    let mut cells = vec!["memory, highest seen".to_owned(), "MiB".to_owned()];
    cells.extend(counted.iter().map(|c| {
        let seen = rows.iter().filter_map(|r| r.entry(c)?.memory_mib);
        seen.max_by(f64::total_cmp).map(show).unwrap_or_default()
    }));
    grid.lines.push(cells);
    let _ = writeln!(out, "\n  What it costs");
    grid.write(out);
}

fn latencies(rows: &[&Row], out: &mut String) {
    for row in rows.iter().filter(|r| r.entries.iter().any(|e| e.latency.is_some())) {
        let _ = writeln!(out, "\n  {}, us", row.title);
        let mut grid = Grid::new(std::iter::once(String::new()).chain(SHOWN.map(|(_, n)| n.to_owned())));
        for entry in &row.entries {
            let Some(latency) = &entry.latency else { continue };
            let mut cells = vec![entry.name.clone()];
            cells.extend(SHOWN.map(|(q, _)| latency.at(q).map(show).unwrap_or_default()));
            grid.lines.push(cells);
        }
        grid.write(out);
    }
}

/// The whole report.
pub fn text(report: &Report) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "ringtap {} bench: {}", report.ringtap, report.machine);
    let _ = writeln!(
        out,
        "{} rounds of {} s each, contenders in turn; medians, ± half the range; took {:.0} s",
        report.rounds, report.window_s, report.took_s
    );
    for c in &report.contenders {
        let version = c.version.as_deref().filter(|_| c.name != "ringtap").map(|v| format!(" ({v})"));
        let problem = c.problem.as_ref().map(|p| format!(": {p}")).unwrap_or_default();
        let program = c.program.as_deref().map(|p| format!(" {p}")).unwrap_or_default();
        let _ = writeln!(out, "  {}{program}{}{problem}", c.name, version.unwrap_or_default());
    }
    for name in report.sections() {
        section(report, name, &mut out);
    }
    let problems: Vec<_> = report.problems().into_iter().filter(|(_, id, _)| !id.is_empty()).collect();
    if !problems.is_empty() {
        let _ = writeln!(out, "\nDid not work\n");
        for (name, id, why) in problems {
            let _ = writeln!(out, "  {name}, {id}: {why}");
        }
    }
    not_run(report, &mut out);
    out
}

fn not_run(report: &Report, out: &mut String) {
    if report.not_run.is_empty() {
        return;
    }
    let _ = writeln!(out, "\nNot run (--full runs everything, --only CELL some)\n");
    // By the beginning of their names, in the order of the plan.
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for cell in &report.not_run {
        let (group, load) = cell.id.rsplit_once('/').unwrap_or(("", &cell.id));
        match groups.iter_mut().find(|g| g.0 == group) {
            Some(g) => g.1.push(load),
            None => groups.push((group, vec![load])),
        }
    }
    for (group, loads) in groups {
        let mut line = format!("  {group}:");
        for load in loads {
            if line.len() + load.len() > WRAP {
                let _ = writeln!(out, "{line}");
                line = "   ".to_owned();
            }
            line.push(' ');
            line.push_str(load);
        }
        let _ = writeln!(out, "{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::{report, row};
    use super::*;

    #[test]
    fn the_table_has_figures_ratios_failures_and_what_was_not_run() {
        let entries: &[(&str, bool, &[f64])] = &[
            ("direct", false, &[20.0, 20.0]),
            ("ringtap", false, &[12.0, 13.0]),
            ("rootlesskit builtin", true, &[1.0, 1.0]),
            ("pasta", true, &[]),
        ];
        let mut r = row("x", true, entries);
        r.entries[3].problem = Some("stalled: no".to_owned());
        r.entries[1].lost_percent = Some(7.0);
        let text = text(&report(vec![r]));
        let lines: Vec<&str> = text.lines().collect();
        let words = |start: &str| -> Vec<&str> {
            let line =
                lines.iter().find(|l| l.starts_with(start)).unwrap_or_else(|| panic!("{start}:\n{text}"));
            line.split_whitespace().collect()
        };
        assert_eq!(
            words("what x is"),
            [
                "what", "x", "is", "Gbit/s", "20.0", "±0%", "12.5", "±4%", "1.00", "±0%", "failed", "0.62",
                "12.5"
            ]
            .into_iter()
            .chain(["rootlesskit", "builtin"])
            .collect::<Vec<_>>()
        );
        assert_eq!(words("  of it lost"), ["of", "it", "lost", "%", "7.0"]);
        assert!(text.contains("  pasta, x: stalled: no\n"));
        assert!(text.contains("  published: rr-1\n"));
        assert!(lines.iter().all(|l| l.chars().count() < 120), "{text}");
        // Columns are aligned: the head ends where its figures do.
        let head = lines.iter().find(|l| l.contains("builtin") && l.contains("ringtap")).unwrap();
        let line = lines.iter().find(|l| l.starts_with("what x is")).unwrap();
        let end = |l: &str, word: &str| l[..l.find(word).unwrap() + word.len()].chars().count();
        assert_eq!(end(head, "builtin"), end(line, "1.00 ±0%"));
    }
}
