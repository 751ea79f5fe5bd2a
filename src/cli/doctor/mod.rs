//! `ringtap doctor`: what the host must offer, what it offers, and what to do about the difference.
//!
//! [`observe`] looks and tries, [`judge`] says what it means. The exit status is 0 if ringtap starts here, 1 if not;
//! warnings do not count unless `--strict` is given.

pub mod judge;
pub mod observe;

use super::CliError;
use clap::Args;
use judge::{Line, Status};
use serde::Serialize;
use std::fmt::Write as _;
use std::io::Write as _;

/// Options of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// One JSON object: {"ok": .., "checks": [{"name", "status", "found", "code", "remedy"}]}
    #[arg(long)]
    json: bool,
    /// Exit with 1 for warnings, too
    #[arg(long)]
    strict: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    ok: bool,
    checks: &'a [Line],
}

impl DoctorArgs {
    /// Looks at the host and prints what is found. The status is 1 if ringtap would not start.
    ///
    /// # Errors
    /// [`CliError`], in practice none.
    pub fn run(self) -> Result<u8, CliError> {
        let lines = judge::judge(&observe::observe());
        let worst = lines.iter().map(|line| line.status).max().unwrap_or(Status::Ok);
        let ok = worst < if self.strict { Status::Warn } else { Status::Fail };
        let text = if self.json {
            let report = Report { ok, checks: &lines };
            serde_json::to_string_pretty(&report).map_err(super::port::client::ClientError::answer)? + "\n"
        } else {
            table(&lines)
        };
        // That nobody reads it is no error.
        let _ = std::io::stdout().write_all(text.as_bytes());
        Ok(u8::from(!ok))
    }
}

/// A line each, its remedy below it, and what it all comes to.
fn table(lines: &[Line]) -> String {
    let width = lines.iter().map(|line| line.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for line in lines {
        let status = match line.status {
            Status::Ok => "ok",
            Status::Info => "-",
            Status::Warn => "warn",
            Status::Fail => "FAIL",
        };
        let _ = writeln!(text, "{status:4}  {:width$}  {}", line.name, line.found);
        if let Some(remedy) = &line.remedy {
            let _ = writeln!(text, "{:4}  {:width$}  -> {remedy}", "", "");
        }
    }
    let count = |status| lines.iter().filter(|line| line.status == status).count();
    let (failed, warned) = (count(Status::Fail), count(Status::Warn));
    let _ = match (failed, warned) {
        (0, 0) => writeln!(text, "\nringtap works here."),
        (0, n) => writeln!(text, "\nringtap works here; {n} warned of above can be better."),
        (n, _) => writeln!(text, "\nringtap does not work here: {n} failed."),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_remedies_below_what_they_are_for() {
        let line = |name, status, remedy: Option<&str>| Line {
            name,
            status,
            found: "found".into(),
            code: None,
            remedy: remedy.map(str::to_owned),
        };
        let lines = [line("kernel", Status::Ok, None), line("tun", Status::Fail, Some("modprobe tun"))];
        assert_eq!(
            table(&lines),
            "ok    kernel  found\nFAIL  tun     found\n              -> modprobe tun\n\n\
             ringtap does not work here: 1 failed.\n"
        );
        assert!(table(&lines[..1]).ends_with("ringtap works here.\n"));
    }
}
