//! `ringtap bench`: measures this host's network without and with ringtap and its peers.

use super::CliError;
use crate::bench::compare::compare;
use crate::bench::entrant::Kind;
use crate::bench::{self, Options, Report, Scope, svg, table};
use clap::Args;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Exit status of a comparison that found something worse.
const WORSE: u8 = 3;

/// Options of `bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// About a minute: few loads, MTU 1500, the two best peers
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Everything; an hour or more
    #[arg(long)]
    full: bool,
    /// Take part with this program too: a build of ringtap, slirp4netns, pasta, rootlesskit or socat; NAME is one of these words,
    /// or begins with one and a `-`; may be given again
    #[arg(long, value_name = "NAME=PATH", value_parser = named)]
    with: Vec<(String, PathBuf)>,
    /// Beside ringtap only these programs
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    against: Option<Vec<String>>,
    /// Only cells whose name contains one of these, such as outbound/1500/tcp-1-up
    #[arg(long, value_name = "CELLS", value_delimiter = ',')]
    only: Vec<String>,
    /// Times that each figure is taken; the median counts
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Length of one sample
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    seconds: Option<Duration>,
    /// Connections that sit still, in the cells that have some
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    idle: u32,
    /// Write all figures to FILE, or to standard output for -, instead of the table
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-", require_equals = true)]
    json: Option<PathBuf>,
    /// Draw a picture of them
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Say what got better or worse since this report, which --json wrote; the exit status is 3 if something got worse
    #[arg(long, value_name = "OLD.json")]
    compare: Option<PathBuf>,
    /// Measure nothing, take the figures of this report
    #[arg(long, value_name = "FILE.json", conflicts_with_all = ["quick", "full", "with", "against", "only", "rounds", "seconds"])]
    show: Option<PathBuf>,
}

fn named(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = text.split_once('=').ok_or("give NAME=PATH")?;
    if Kind::of(name).is_none() {
        let kinds = Kind::ALL.map(Kind::name).join(", ");
        return Err(format!("a name is one of {kinds}, or begins with one and a `-`"));
    }
    let path = fs::canonicalize(path).map_err(|e| format!("{path}: {e}"))?;
    Ok((name.to_owned(), path))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "give a number of seconds".to_owned())?;
    match seconds {
        s if (0.05..=600.0).contains(&s) => Ok(Duration::from_secs_f64(s)),
        _ => Err("give 0.05 to 600 seconds".to_owned()),
    }
}

fn read(path: &Path, option: &'static str) -> Result<Report, CliError> {
    let name = |e: String| CliError::option(option)(format!("{}: {e}", path.display()));
    let text = fs::read_to_string(path).map_err(|e| name(e.to_string()))?;
    let report: Report = serde_json::from_str(&text).map_err(|e| {
        name(format!("{e}; give a file that `ringtap bench --json=FILE` of this version wrote"))
    })?;
    match report.format {
        bench::report::FORMAT => Ok(report),
        other => {
            Err(name(format!("it has format {other}, and this version reads {}", bench::report::FORMAT)))
        }
    }
}

fn write(path: &Path, option: &'static str, text: &str) -> Result<(), CliError> {
    fs::write(path, text).map_err(|e| CliError::option(option)(format!("{}: {e}", path.display())))
}

impl BenchArgs {
    /// Measures and reports.
    ///
    /// # Errors
    /// [`CliError`].
    pub fn run(self) -> Result<u8, CliError> {
        // Before the minutes that measuring takes.
        let old = self.compare.as_deref().map(|p| read(p, "--compare")).transpose()?;
        let report = match &self.show {
            Some(path) => read(path, "--show")?,
            None => bench::run(&self.options()?)?,
        };
        match self.json.as_deref() {
            None => print!("{}", table::text(&report)),
            Some(path) => {
                let mut text = serde_json::to_string_pretty(&report).map_err(CliError::option("--json"))?;
                text.push('\n');
                match path.as_os_str() == "-" {
                    true => print!("{text}"),
                    false => {
                        write(path, "--json", &text)?;
                        print!("{}", table::text(&report));
                    }
                }
            }
        }
        if let Some(path) = &self.svg {
            write(path, "--svg", &svg::picture(&report))?;
        }
        let Some(old) = old else { return Ok(0) };
        let seen = compare(&old, &report);
        // Standard output may be JSON.
        match self.json.as_deref().is_some_and(|p| p.as_os_str() == "-") {
            true => eprint!("{}", seen.text()),
            false => print!("\nSince the report compared with\n\n{}", seen.text()),
        }
        Ok(if seen.is_worse() { WORSE } else { 0 })
    }

    fn options(&self) -> Result<Options, CliError> {
        let own = std::env::current_exe().map_err(CliError::option("bench"))?;
        Ok(Options {
            scope: match (self.quick, self.full) {
                (true, _) => Scope::Quick,
                (_, true) => Scope::Full,
                _ => Scope::Default,
            },
            rounds: self.rounds,
            window: self.seconds,
            with: self.with.clone(),
            against: self.against.clone(),
            only: self.only.clone(),
            idle: self.idle,
            own,
        })
    }
}

/// Options of `ringtap bench-load`, the program at either end of a load.
#[derive(Debug, Args)]
pub struct LoadArgs {
    /// What to be, in JSON
    role: String,
}

impl LoadArgs {
    /// Is a load generator until told to end.
    ///
    /// # Errors
    /// [`CliError`].
    pub fn run(&self) -> Result<u8, CliError> {
        bench::load::main(&self.role).map_err(CliError::option("ROLE"))?;
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_named_by_their_kind() {
        assert_eq!(named("pasta-x=/dev/null").unwrap(), ("pasta-x".to_owned(), "/dev/null".into()));
        assert!(named("pasta").unwrap_err().contains("NAME=PATH"));
        assert!(named("vpnkit=/dev/null").unwrap_err().contains("slirp4netns"));
        assert!(named("pasta=/nowhere/at/all").unwrap_err().contains("/nowhere/at/all"));
    }

    #[test]
    fn a_sample_has_a_sensible_length() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["0", "-1", "NaN", "1e9", "soon"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
