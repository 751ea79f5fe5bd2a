//! Samples, their medians, and the Markdown that shows them beside the bars.

use crate::Bench;
use ringtap::bench::machine;
use ringtap::bench::stats::{median, show};
use std::fmt::Write;

/// Columns, in this order.
const COLUMNS: [&str; 9] = [
    "direct",
    "ringtap",
    "slirp4netns",
    "pasta",
    "unshare",
    "rootlesskit",
    "ringtap by the tap",
    "rootlesskit builtin",
    "rootlesskit slirp4netns",
];

/// Rows of samples by column, in the order of their first sample.
#[derive(Debug)]
pub struct Report {
    /// Of a client behind a bridge.
    pub bridge: bool,
    rows: Vec<Row>,
    /// Bars that are not ratios of two columns: what, value, bound, whether less is better.
    bars: Vec<Bar>,
}

#[derive(Debug)]
struct Row {
    name: String,
    samples: Vec<(&'static str, Vec<f64>)>,
}

#[derive(Debug)]
struct Bar {
    what: String,
    seen: f64,
    bound: f64,
    at_most: bool,
}

impl Report {
    /// Nothing measured yet.
    pub fn new(bridge: bool) -> Self {
        Self { bridge, rows: Vec::new(), bars: Vec::new() }
    }

    /// Adds one sample.
    pub fn add(&mut self, row: &str, column: &'static str, value: f64) {
        eprintln!("  {row}, {column}: {}", show(value));
        let at = self.rows.iter().position(|r| r.name == row).unwrap_or_else(|| {
            self.rows.push(Row { name: row.to_owned(), samples: Vec::new() });
            self.rows.len() - 1
        });
        let samples = &mut self.rows[at].samples;
        match samples.iter_mut().find(|(c, _)| *c == column) {
            Some((_, list)) => list.push(value),
            None => samples.push((column, vec![value])),
        }
    }

    /// The median of a row's column.
    pub fn median(&self, row: &str, column: &str) -> Option<f64> {
        let row = self.rows.iter().find(|r| r.name == row)?;
        median(&row.samples.iter().find(|(c, _)| *c == column)?.1)
    }

    /// A bar whose value is known at once.
    pub fn bar(&mut self, what: &str, seen: f64, bound: f64, at_most: bool) {
        self.bars.push(Bar { what: what.to_owned(), seen, bound, at_most });
    }

    /// A bar for the ratio of ringtap's median to that of column `to`, where there are both.
    pub fn ratio(&mut self, row: &str, to: &str, bound: f64, at_most: bool) {
        if let (Some(ours), Some(theirs)) = (self.median(row, "ringtap"), self.median(row, to)) {
            self.bar(&format!("{row}: ringtap / {to}"), ours / theirs, bound, at_most);
        }
    }

    fn ratios(&mut self, idle: usize) {
        for (way, at_1500, of_direct, bar_1500) in
            [("to server", 8.0, 0.45, 10.0), ("to guest", 6.0, 0.85, 7.0)]
        {
            let row = format!("TCP 1 stream {way}, MTU 1500, Gbit/s");
            self.ratio(&row, "slirp4netns", at_1500, false);
            self.ratio(&row, "slirp4netns", bar_1500, false);
            self.ratio(&row, "direct", of_direct, false);
            let jumbo = format!("TCP 1 stream {way}, MTU 65520, Gbit/s");
            self.ratio(&jumbo, "slirp4netns", 3.5, false);
            self.ratio(&jumbo, "pasta", 1.0, false);
            let cpu = |mtu| format!("TCP 1 stream {way}, MTU {mtu}, CPU s/GB");
            let bound = if way == "to server" { 0.30 } else { 0.22 };
            for mtu in [1500, 65520] {
                let pair = (self.median(&cpu(mtu), "ringtap"), self.median(&cpu(65520), "slirp4netns"));
                if let (Some(ours), Some(theirs)) = pair {
                    let what = format!("{}: ringtap / slirp4netns at 65520", cpu(mtu));
                    self.bar(&what, ours / theirs, bound, true);
                }
            }
            let udp = format!("UDP 1400 B {way}, Gbit/s received");
            let columns = ["ringtap", "slirp4netns", "direct"].map(|c| self.median(&udp, c));
            if let [Some(ours), Some(slirp), Some(direct)] = columns {
                let bound = (3.0 * slirp).min(0.85 * direct);
                let what = format!("{udp}: at least 3 x slirp4netns, or 0.85 x direct where that is less");
                self.bar(&what, ours, bound, false);
            }
        }
        self.ratio(crate::latency::MEDIAN, "slirp4netns", 0.8, true);
        self.ratio(crate::latency::COST, "slirp4netns", 0.6, true);
        self.ratio(crate::latency::CONNECTS, "slirp4netns", 1.5, false);
        self.crowd(idle);
        self.ratio(crate::start::ROW, "unshare", 3.0, true);
        self.ratio(crate::start::ROW, "rootlesskit", 0.3, true);
        crate::published::bars(self);
        crate::help::bars(self);
    }

    /// Others beside many idle connections, against the same beside none.
    fn crowd(&mut self, idle: usize) {
        for (of, more_is_better) in crate::crowd::ROWS {
            let name = crate::crowd::row(of, idle);
            let pair = (self.median(&name, "ringtap"), self.median(&crate::crowd::row(of, 0), "ringtap"));
            if let (Some(beside), Some(alone)) = pair {
                let bound = if more_is_better { 0.8 } else { 1.2 };
                self.bar(&format!("{name}: to beside none"), beside / alone, bound, !more_is_better);
            }
        }
    }

    /// The tables of one place.
    fn tables(&self, out: &mut String) {
        let used: Vec<_> = COLUMNS
            .into_iter()
            .filter(|c| self.rows.iter().any(|r| r.samples.iter().any(|(name, _)| name == c)))
            .collect();
        let _ = writeln!(out, "| | {} | to slirp4netns | to direct |", used.join(" | "));
        let _ = writeln!(out, "|---|{}---|---|", "---|".repeat(used.len()));
        for row in &self.rows {
            let m = |c: &str| self.median(&row.name, c);
            let cells: Vec<_> = used.iter().map(|c| m(c).map_or(String::new(), show)).collect();
            let to = |c| match (m("ringtap"), m(c)) {
                (Some(a), Some(b)) if b > 0.0 => show(a / b),
                _ => String::new(),
            };
            let (slirp, direct) = (to("slirp4netns"), to("direct"));
            let _ = writeln!(out, "| {} | {} | {slirp} | {direct} |", row.name, cells.join(" | "));
        }
        let _ = writeln!(out, "\n### Bars\n\n| bar | seen | bound | |\n|---|---|---|---|");
        for bar in &self.bars {
            let met = if bar.at_most { bar.seen <= bar.bound } else { bar.seen >= bar.bound };
            let bound = format!("{} {}", if bar.at_most { "at most" } else { "at least" }, show(bar.bound));
            let verdict = if met { "met" } else { "**missed**" };
            let _ = writeln!(out, "| {} | {} | {bound} | {verdict} |", bar.what, show(bar.seen));
        }
    }
}

/// All tables of all places.
pub fn markdown(reports: &mut [Report], bench: &Bench) -> String {
    let o = &bench.options;
    let mut out = format!(
        "# Results of `perf/run`\n\nMedians of {} rounds, {} s a transfer; contenders in turn. {}\n",
        o.rounds,
        o.seconds,
        machine()
    );
    for report in reports {
        report.ratios(o.idle);
        let place = match report.bridge {
            true => "The client behind a bridge made inside the namespace (not that of the direct path)",
            false => "The client in the namespace itself",
        };
        let _ = writeln!(out, "\n## {place}\n");
        report.tables(&mut out);
    }
    out
}

fn machine() -> String {
    let peers: Vec<_> =
        ["slirp4netns", "pasta", "rootlesskit", "iperf3"].into_iter().filter_map(machine::version).collect();
    format!("{}; {}.", machine::machine(), peers.join(", "))
}
