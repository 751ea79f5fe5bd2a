//! The result of a bench, as it is stored in JSON and read by the table, the plots and the comparison.
//!
//! A [`Row`] is a cell, an [`Entry`] an entrant's figures in it. Samples are in the order of the rounds, so that figures of two
//! entries of one row can be divided round by round. Units are in the names; everything is a median unless it says otherwise.

use super::load::{Latency, QUANTILES};
use super::plan::{Cell, Load, Scope};
use super::stats::{Spread, median};
use super::take::Sample;
use serde::{Deserialize, Serialize};

/// What the current form is called, to be raised when fields change their meaning.
pub const FORMAT: u32 = 1;

/// The result of a bench.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    /// Version of ringtap.
    pub ringtap: String,
    /// Cores, processor, kernel.
    pub machine: String,
    /// Whether ordinary users were the lab's own (root ran it), or it was an ordinary user's.
    pub by_root: bool,
    /// When it began, in seconds of the epoch.
    pub unix_time: u64,
    /// How long it took, in seconds.
    pub took_s: f64,
    /// How much was to be run.
    pub scope: Scope,
    /// Samples of each figure, at most.
    pub rounds: u32,
    /// Length of one sample, in seconds.
    pub window_s: f64,
    /// Who took part, and who could not.
    pub contenders: Vec<Listed>,
    /// What was measured.
    pub rows: Vec<Row>,
    /// What was not.
    pub not_run: Vec<NotRun>,
}

/// A program of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// As in the columns, which may have more than one of it.
    pub name: String,
    /// Where it is.
    pub program: Option<String>,
    /// What it says of itself.
    pub version: Option<String>,
    /// Why it did not take part, or not to the end.
    pub problem: Option<String>,
}

/// A cell that was not measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotRun {
    /// Of the cell.
    pub id: String,
    /// Of the cell.
    pub section: String,
    /// Of the cell.
    pub title: String,
}

/// A cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Its name for programs.
    pub id: String,
    /// The part of the report.
    pub section: String,
    /// Its name for people.
    pub title: String,
    /// Of the figure.
    pub unit: String,
    /// Whether a higher figure is better.
    pub more_is_better: bool,
    /// Of the cost.
    pub cost_unit: String,
    /// Entrants, in the order of the columns.
    pub entries: Vec<Entry>,
}

/// An entrant's figures in a cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The column.
    pub name: String,
    /// Neither the direct path nor a ringtap.
    pub peer: bool,
    /// Median and range of the samples.
    pub figure: Option<Spread>,
    /// One a round, until it failed.
    pub samples: Vec<f64>,
    /// CPU seconds for a GB or a million operations.
    pub cost: Option<Spread>,
    /// One a round.
    pub cost_samples: Vec<f64>,
    /// Switches of its threads for a GB or a million operations.
    pub switches: Option<f64>,
    /// The highest seen in any round, in MiB.
    pub memory_mib: Option<f64>,
    /// Datagrams lost, in percent.
    pub lost_percent: Option<f64>,
    /// Of single operations: medians of the rounds' quantiles; the count is that of all rounds.
    pub latency: Option<Latency>,
    /// Why there is no figure, or not for every round.
    pub problem: Option<String>,
}

impl Entry {
    /// Nothing measured yet.
    pub fn new(name: &str, peer: bool) -> Self {
        Self {
            name: name.to_owned(),
            peer,
            figure: None,
            samples: Vec::new(),
            cost: None,
            cost_samples: Vec::new(),
            switches: None,
            memory_mib: None,
            lost_percent: None,
            latency: None,
            problem: None,
        }
    }

    /// Of these samples.
    pub fn of(name: &str, peer: bool, load: Load, samples: &[Sample], problem: Option<String>) -> Self {
        let all = |f: fn(&Sample) -> Option<f64>| samples.iter().filter_map(f).collect::<Vec<_>>();
        let figures = match load {
            Load::Exchange { .. } => all(|s| s.latency.as_ref()?.at(0.5)),
            _ => all(|s| Some(s.figure)),
        };
        let costs = all(|s| s.cost);
        Self {
            figure: Spread::of(&figures),
            samples: figures,
            cost: Spread::of(&costs),
            cost_samples: costs,
            switches: median(&all(|s| s.switches)),
            memory_mib: all(|s| s.memory).into_iter().max_by(f64::total_cmp),
            lost_percent: median(&all(|s| s.lost)),
            latency: latency_of(samples),
            problem,
            ..Self::new(name, peer)
        }
    }

    /// The figure's median.
    pub fn median(&self) -> Option<f64> {
        Some(self.figure?.median)
    }
}

fn latency_of(samples: &[Sample]) -> Option<Latency> {
    let all: Vec<&Latency> = samples.iter().filter_map(|s| s.latency.as_ref()).collect();
    let us: Option<Vec<f64>> =
        QUANTILES.iter().map(|q| median(&all.iter().filter_map(|l| l.at(*q)).collect::<Vec<_>>())).collect();
    Some(Latency { count: all.iter().map(|l| l.count).sum(), us: us? })
}

impl Row {
    /// Of `cell`, without entries.
    pub fn of(cell: &Cell) -> Self {
        Self {
            id: cell.id(),
            section: cell.section(),
            title: cell.title(),
            unit: cell.load.unit().to_owned(),
            more_is_better: cell.load.more_is_better(),
            cost_unit: cell.load.cost_unit().to_owned(),
            entries: Vec::new(),
        }
    }

    /// The entry of that name.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|e| e.name == name)
    }

    /// A column's median.
    pub fn median(&self, name: &str) -> Option<f64> {
        self.entry(name)?.median()
    }

    /// The peer with the best figure.
    pub fn best_peer(&self) -> Option<(&str, f64)> {
        let peers = self.entries.iter().filter(|e| e.peer);
        let with = peers.filter_map(|e| Some((&e.name[..], e.median()?)));
        let sign = if self.more_is_better { 1.0 } else { -1.0 };
        with.max_by(|a, b| (sign * a.1).total_cmp(&(sign * b.1)))
    }

    /// One figure divided by another, where there are both.
    pub fn ratio(&self, ours: &str, theirs: &str) -> Option<f64> {
        let theirs = self.median(theirs)?;
        (theirs > 0.0).then_some(self.median(ours)? / theirs)
    }

    /// The same round by round: what both had in one round is divided.
    pub fn ratios(&self, ours: &str, theirs: &str) -> Vec<f64> {
        let (Some(a), Some(b)) = (self.entry(ours), self.entry(theirs)) else { return Vec::new() };
        a.samples.iter().zip(&b.samples).filter(|(_, b)| **b > 0.0).map(|(a, b)| a / b).collect()
    }
}

impl Report {
    /// The row of that id.
    pub fn row(&self, id: &str) -> Option<&Row> {
        self.rows.iter().find(|r| r.id == id)
    }

    /// Sections, in order.
    pub fn sections(&self) -> Vec<&str> {
        let mut all: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !all.contains(&&row.section[..]) {
                all.push(&row.section);
            }
        }
        all
    }

    /// Rows of a section.
    pub fn of_section<'a>(&'a self, section: &'a str) -> impl Iterator<Item = &'a Row> {
        self.rows.iter().filter(move |r| r.section == section)
    }

    /// Names of the entries of these rows, in order.
    pub fn columns<'a>(rows: impl Iterator<Item = &'a Row>) -> Vec<&'a str> {
        let mut all: Vec<&str> = Vec::new();
        for entry in rows.flat_map(|r| &r.entries) {
            if !all.contains(&&entry.name[..]) {
                all.push(&entry.name);
            }
        }
        all
    }

    /// What went wrong: who, where, why; each once.
    pub fn problems(&self) -> Vec<(&str, &str, &str)> {
        let listed = self.contenders.iter().filter_map(|c| Some((&c.name[..], "", c.problem.as_deref()?)));
        let in_rows = self.rows.iter().flat_map(|r| {
            r.entries.iter().filter_map(|e| Some((&e.name[..], &r.id[..], e.problem.as_deref()?)))
        });
        let mut seen: Vec<(&str, &str, &str)> = Vec::new();
        for problem in listed.chain(in_rows) {
            // One that does not start fails in every row with the same words.
            if !seen.iter().any(|s| s.0 == problem.0 && s.2 == problem.2) {
                seen.push(problem);
            }
        }
        seen
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A row whose entries have these samples.
    pub fn row(id: &str, more_is_better: bool, entries: &[(&str, bool, &[f64])]) -> Row {
        let entries = entries
            .iter()
            .map(|(name, peer, samples)| Entry {
                figure: Spread::of(samples),
                samples: samples.to_vec(),
                cost: Spread::of(samples).filter(|_| *name != "direct"),
                cost_samples: if *name == "direct" { Vec::new() } else { samples.to_vec() },
                ..Entry::new(name, *peer)
            })
            .collect();
        Row {
            id: id.to_owned(),
            section: "Out of the namespace, MTU 1500".to_owned(),
            title: format!("what {id} is"),
            unit: if more_is_better { "Gbit/s" } else { "median us" }.to_owned(),
            more_is_better,
            cost_unit: "CPU s/GB".to_owned(),
            entries,
        }
    }

    /// A report of these rows.
    pub fn report(rows: Vec<Row>) -> Report {
        Report {
            format: FORMAT,
            ringtap: "0.0.0".to_owned(),
            machine: "a machine".to_owned(),
            by_root: false,
            unix_time: 1_700_000_000,
            took_s: 61.5,
            scope: Scope::Quick,
            rounds: 3,
            window_s: 0.5,
            contenders: vec![Listed {
                name: "ringtap".to_owned(),
                program: Some("/bin/ringtap".to_owned()),
                version: None,
                problem: None,
            }],
            rows,
            not_run: vec![NotRun {
                id: "published/rr-1".to_owned(),
                section: "Published port".to_owned(),
                title: "request-response 1 B, 16 at once".to_owned(),
            }],
        }
    }

    fn sample(us: f64, lost: Option<f64>) -> Sample {
        let latency = Some(Latency { count: 10, us: vec![us; QUANTILES.len()] });
        Sample { figure: 5.0, cost: Some(us), switches: None, memory: Some(us), lost, latency }
    }

    #[test]
    fn samples_become_medians() {
        let samples = [sample(3.0, Some(1.0)), sample(1.0, Some(0.0)), sample(2.0, Some(5.0))];
        let e = Entry::of("x", true, Load::Exchange { bytes: 1 }, &samples, None);
        assert_eq!((e.median(), &e.samples[..]), (Some(2.0), &[3.0, 1.0, 2.0][..]));
        assert_eq!((e.memory_mib, e.lost_percent, e.cost.unwrap().median), (Some(3.0), Some(1.0), 2.0));
        let latency = e.latency.unwrap();
        assert_eq!((latency.count, latency.at(0.99)), (30, Some(2.0)));
        let e = Entry::of("x", true, Load::Connect, &samples, None);
        assert_eq!(e.median(), Some(5.0));
        assert_eq!(Entry::of("x", true, Load::Connect, &[], None), Entry::new("x", true));
    }

    #[test]
    fn the_best_peer_is_neither_ringtap_nor_direct_and_latencies_are_better_low() {
        let entries: &[(&str, bool, &[f64])] = &[
            ("direct", false, &[9.0]),
            ("ringtap", false, &[8.0]),
            ("a", true, &[2.0]),
            ("b", true, &[3.0]),
        ];
        assert_eq!(row("x", true, entries).best_peer(), Some(("b", 3.0)));
        assert_eq!(row("x", false, entries).best_peer(), Some(("a", 2.0)));
        assert_eq!(row("x", true, entries).ratio("ringtap", "a"), Some(4.0));
        assert_eq!(row("x", true, entries).ratio("ringtap", "nobody"), None);
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let r = row("x", true, &[("direct", false, &[10.0, 20.0]), ("ringtap", false, &[5.0, 10.0, 7.0])]);
        assert_eq!(r.ratios("ringtap", "direct"), [0.5, 0.5]);
    }

    #[test]
    fn json_brings_back_the_same() {
        let before = report(vec![row("x", true, &[("direct", false, &[9.0]), ("ringtap", false, &[])])]);
        let text = serde_json::to_string_pretty(&before).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), before);
    }

    #[test]
    fn a_problem_is_told_once() {
        let mut rows = vec![row("x", true, &[("a", true, &[])]), row("y", true, &[("a", true, &[])])];
        for r in &mut rows {
            r.entries[0].problem = Some("no".to_owned());
        }
        assert_eq!(report(rows).problems(), [("a", "x", "no")]);
    }
}
