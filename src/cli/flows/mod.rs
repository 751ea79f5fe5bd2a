//! `ringtap flows`: every live flow of an instance.
//!
//! The plane answers in pages; here they are put together, filtered, sorted and shown. Rates are differences between two
//! looks, [`GLANCE`] apart where only one listing is asked for.

pub mod filter;
pub mod sample;

use super::CliError;
use super::instance::InstanceArgs;
use super::port::client::ClientError;
use super::table::{age, bytes, micros, or_dash, table};
use super::watch::{Every, show};
use clap::Args;
use filter::FilterArgs;
use ratatui::crossterm;
use sample::{Row, Sampler};
use std::io::IsTerminal;
use std::time::Duration;

/// Between the two looks of a single listing.
pub const GLANCE: Duration = Duration::from_millis(200);

/// Options of `flows`.
#[derive(Debug, Args)]
pub struct FlowsArgs {
    #[command(flatten)]
    instance: InstanceArgs,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    every: Every,
    /// One JSON object a line; with --watch, one object with all flows for each look
    #[arg(long)]
    json: bool,
}

impl FlowsArgs {
    /// Lists them.
    ///
    /// # Errors
    /// [`CliError`].
    pub fn run(self) -> Result<u8, CliError> {
        let mut sampler = Sampler::new(self.instance.find()?);
        sampler.look()?;
        for period in self.every.looks() {
            std::thread::sleep(period.unwrap_or(GLANCE));
            let all = sampler.look()?;
            let rows: Vec<_> = self.filter.apply(all).into_iter().map(|n| &all[n]).collect();
            let text = match (self.json, period) {
                (true, None) => lines(&rows)?,
                (true, Some(_)) => whole(&rows)?,
                (false, None) => listing(&rows),
                (false, Some(_)) => screenful(&rows, screen()),
            };
            if !show(&text, period.is_some() && !self.json) {
                break;
            }
        }
        Ok(0)
    }
}

fn lines(rows: &[&Row]) -> Result<String, ClientError> {
    rows.iter().map(|row| Ok(serde_json::to_string(row).map_err(ClientError::answer)? + "\n")).collect()
}

fn whole(rows: &[&Row]) -> Result<String, ClientError> {
    Ok(serde_json::to_string(&serde_json::json!({ "flows": rows })).map_err(ClientError::answer)? + "\n")
}

/// The heads of the columns.
pub const HEAD: [&str; 14] = [
    "FLOW", "PROTO", "PATH", "STATE", "GUEST", "HOST", "REMOTE", "UP", "DOWN", "UP/S", "DOWN/S", "RTT",
    "RETR", "AGE",
];

/// What is in the columns of a flow.
pub fn cells(row: &Row) -> [String; 14] {
    let f = &row.flow;
    let protocol = format!("{:?}", f.protocol).to_lowercase();
    let pair = |guest: Option<u64>, host: Option<u64>| match (guest, host) {
        (None, None) => "-".to_owned(),
        (guest, host) => format!("{}/{}", or_dash(guest.map(micros)), or_dash(host.map(micros))),
    };
    [
        f.id.clone(),
        protocol,
        row.way().to_owned(),
        f.state.clone(),
        f.guest.to_string(),
        or_dash(f.local),
        or_dash(f.host.or(f.remote)),
        bytes(f.bytes_up),
        bytes(f.bytes_down),
        or_dash(row.rate_up.map(bytes)),
        or_dash(row.rate_down.map(bytes)),
        pair(f.rtt_us, f.host_rtt_us),
        format!("{}/{}", f.retransmits, f.host_retransmits),
        age(Duration::from_millis(f.age_ms)),
    ]
}

fn listing(rows: &[&Row]) -> String {
    table(std::iter::once(HEAD.map(str::to_owned)).chain(rows.iter().map(|row| cells(row))))
}

/// Lines of the terminal that is written to, if it is one.
fn screen() -> Option<usize> {
    let (_, lines) = std::io::stdout().is_terminal().then(crossterm::terminal::size)?.ok()?;
    Some(lines.into())
}

/// What would scroll away unseen is not made.
fn screenful(rows: &[&Row], lines: Option<usize>) -> String {
    // The heads of the columns, the line that says how many more, and the one where the cursor stands.
    let room = lines.map_or(usize::MAX, |lines| lines.saturating_sub(3).max(1));
    let mut text = listing(&rows[..rows.len().min(room)]);
    if rows.len() > room {
        let more = rows.len() - room;
        text += &format!("and {more} more: --sort and --limit choose, ringtap top scrolls\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_what_it_has_lines_for_and_anything_else_gets_all() {
        let rows: Vec<_> = (0..30)
            .map(|n| filter::tests::row(&format!("tcp:{n}.0"), "10.0.2.100:1", "192.0.2.1:2", n))
            .collect();
        let rows: Vec<_> = rows.iter().collect();
        let cut = screenful(&rows, Some(24));
        // One line is left for the cursor.
        assert_eq!(cut.lines().count(), 23);
        assert!(cut.contains("tcp:20.0") && !cut.contains("tcp:21.0"), "{cut}");
        assert!(cut.ends_with("and 9 more: --sort and --limit choose, ringtap top scrolls\n"), "{cut}");
        assert_eq!(screenful(&rows, None), listing(&rows));
        assert_eq!(screenful(&rows[..21], Some(24)), listing(&rows[..21]));
        assert!(screenful(&rows, Some(0)).contains("and 29 more"));
    }
}
