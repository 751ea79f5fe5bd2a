//! What got better or worse between two reports, beyond noise.
//!
//! Figures of two runs can hardly be compared, for the machine was never the same; ratios within one run can. So an entrant's
//! figure counts in proportion to the direct path's of the same row, divided round by round, wherever both runs have one. Costs
//! are the entrant's own CPU time and are compared as they are. A difference counts when the medians are further apart than
//! both ranges together, and by 5 % at least (20 % with fewer than three samples, which have no range to speak of).

use super::report::{Entry, Report, Row};
use super::stats::{Spread, show};
use std::fmt::Write;

/// Least difference that counts, in proportion.
const LEAST: f64 = 0.05;
/// The same where one side has fewer samples than [`ENOUGH`].
const LEAST_OF_FEW: f64 = 0.20;
const ENOUGH: usize = 3;

/// A figure that is not what it was.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The row's id.
    pub id: String,
    /// The column.
    pub name: String,
    /// What was compared, with its unit.
    pub what: String,
    /// Before, and now.
    pub figures: [f64; 2],
    /// For the better.
    pub better: bool,
}

/// Two reports.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// What changed, in the order of the rows.
    pub changes: Vec<Change>,
    /// What worked before and does not now: row, column, why.
    pub broken: Vec<(String, String, String)>,
    /// Figures compared.
    pub compared: usize,
    /// Rows that only one of them has.
    pub alone: usize,
}

/// Compares `new` with `old`.
pub fn compare(old: &Report, new: &Report) -> Comparison {
    let missing = |a: &Report, b: &Report| a.rows.iter().filter(|r| b.row(&r.id).is_none()).count();
    let mut all = Comparison { alone: missing(old, new) + missing(new, old), ..Comparison::default() };
    for (before, now) in new.rows.iter().filter_map(|now| Some((old.row(&now.id)?, now))) {
        for entry in now.entries.iter().filter(|e| e.name != "direct") {
            let Some(earlier) = before.entry(&entry.name) else { continue };
            if let (Some(_), None, Some(why)) = (earlier.figure, entry.figure, &entry.problem) {
                all.broken.push((now.id.clone(), entry.name.clone(), why.clone()));
            }
            let ratios = |row: &Row, e: &Entry| row.ratios(&e.name, "direct");
            let [a, b] = [ratios(before, earlier), ratios(now, entry)];
            let figures = match a.is_empty() || b.is_empty() {
                false => (a, b, "of direct".to_owned()),
                true => (earlier.samples.clone(), entry.samples.clone(), now.unit.clone()),
            };
            let costs = (earlier.cost_samples.clone(), entry.cost_samples.clone(), now.cost_unit.clone());
            for ((a, b, what), more_is_better) in [(figures, now.more_is_better), (costs, false)] {
                let Some(change) = differ(&a, &b) else { continue };
                all.compared += 1;
                if let Some(figures) = change {
                    all.changes.push(Change {
                        id: now.id.clone(),
                        name: entry.name.clone(),
                        what,
                        figures,
                        better: (figures[1] > figures[0]) == more_is_better,
                    });
                }
            }
        }
    }
    all
}

/// Medians that differ beyond noise. `None` where there is nothing to compare.
fn differ(before: &[f64], now: &[f64]) -> Option<Option<[f64; 2]>> {
    let (a, b) = (Spread::of(before)?, Spread::of(now)?);
    let least = if before.len().min(now.len()) < ENOUGH { LEAST_OF_FEW } else { LEAST };
    let noise = (a.high - a.low) + (b.high - b.low);
    let apart = (b.median - a.median).abs();
    Some((apart > noise && apart > least * a.median.abs()).then_some([a.median, b.median]))
}

impl Comparison {
    /// Whether anything got worse, or broke.
    pub fn is_worse(&self) -> bool {
        !self.broken.is_empty() || self.changes.iter().any(|c| !c.better)
    }

    /// A line for each.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for (id, name, why) in &self.broken {
            let _ = writeln!(out, "broken: {id}, {name}: worked before, now {why}");
        }
        for better in [false, true] {
            for c in self.changes.iter().filter(|c| c.better == better) {
                let [a, b] = c.figures;
                let by = if a == 0.0 { String::new() } else { format!(" ({:+.0} %)", 100.0 * (b / a - 1.0)) };
                let word = if better { "better" } else { "worse" };
                let _ = writeln!(
                    out,
                    "{word}: {}, {}: {} {} before, {} now{by}",
                    c.id,
                    c.name,
                    show(a),
                    c.what,
                    show(b)
                );
            }
        }
        let changed = self.changes.len();
        let _ = writeln!(out, "{} of {} figures within the noise", self.compared - changed, self.compared);
        if self.alone > 0 {
            let _ = writeln!(out, "{} rows are in one of the reports only", self.alone);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::{report, row};
    use super::*;

    fn one(more: bool, direct: &[f64], ours: &[f64]) -> Report {
        report(vec![row("x", more, &[("direct", false, direct), ("ringtap", false, ours)])])
    }

    #[test]
    fn a_slower_machine_is_no_regression() {
        let old = one(true, &[20.0, 21.0, 20.0], &[10.0, 10.6, 10.1]);
        let mut new = one(true, &[10.0, 10.0, 10.2], &[5.0, 5.1, 5.0]);
        // The costs of this made-up row are its figures.
        new.rows[0].entries[1].cost_samples = old.rows[0].entries[1].cost_samples.clone();
        let seen = compare(&old, &new);
        assert_eq!((&seen.changes[..], seen.compared), (&[][..], 2));
        assert!(!seen.is_worse());
        assert!(seen.text().contains("2 of 2 figures within the noise"));
    }

    #[test]
    fn worse_and_better_are_told_apart_for_either_kind_of_figure() {
        let direct = &[10.0, 10.0, 10.0][..];
        let (low, high) = (&[5.0, 5.1, 5.0][..], &[8.0, 8.1, 8.0][..]);
        for (more, before, now, better) in [
            (true, high, low, false),
            (true, low, high, true),
            (false, high, low, true),
            (false, low, high, false),
        ] {
            let seen = compare(&one(more, direct, before), &one(more, direct, now));
            let figure = &seen.changes[0];
            assert_eq!((figure.better, &figure.what[..]), (better, "of direct"));
            assert_eq!((seen.changes[1].better, &seen.changes[1].what[..]), (now == low, "CPU s/GB"));
        }
        let text = compare(&one(true, direct, high), &one(true, direct, low)).text();
        assert!(text.starts_with("worse: x, ringtap: 0.80 of direct before, 0.50 now (-38 %)"), "{text}");
    }

    #[test]
    fn what_scatters_does_not_count() {
        let direct = &[10.0, 10.0, 10.0][..];
        let seen = compare(&one(true, direct, &[8.0, 5.0, 8.5]), &one(true, direct, &[5.5, 6.0, 8.0]));
        assert_eq!(seen.changes, []);
        // One sample each: only a large difference counts.
        assert_eq!(compare(&one(true, &[10.0], &[8.0]), &one(true, &[10.0], &[7.0])).changes, []);
        assert_eq!(compare(&one(true, &[10.0], &[8.0]), &one(true, &[10.0], &[4.0])).changes.len(), 2);
    }

    #[test]
    fn what_does_not_work_any_more_is_told() {
        let old = one(true, &[10.0], &[8.0]);
        let mut new = one(true, &[10.0], &[]);
        new.rows[0].entries[1].problem = Some("stalled".to_owned());
        let seen = compare(&old, &new);
        assert!(seen.is_worse());
        assert!(seen.text().starts_with("broken: x, ringtap: worked before, now stalled"));
    }
}
