//! How long a command takes that does nothing.

use crate::Bench;
use crate::report::Report;
use ringtap::lab::contender::on_path;
use std::error::Error;
use std::process::{Command, Stdio};
use std::time::Instant;

/// The row of these figures.
pub const ROW: &str = "start of a command and its end, ms";
const TIMES: u32 = 7;

/// Takes the figure a few times, contenders in turn, as an ordinary user with sub-ids (where the lab was made by root).
pub fn measure(bench: &Bench, report: &mut Report) -> Result<(), Box<dyn Error>> {
    let user = |program: &str| bench.lab.host().command_as_user(program);
    for _ in 0..TIMES {
        if bench.asked("ringtap") {
            let mut ringtap = user(&bench.ringtap.to_string_lossy())?;
            time(ringtap.args(["run", "true"]), "ringtap", report)?;
        }
        let mut unshare = user("unshare")?;
        unshare.arg("-rUnm");
        if bench.lab.users_are_real() {
            unshare.arg("--map-auto");
        }
        time(unshare.arg("true"), "unshare", report)?;
        if on_path("rootlesskit") && on_path("slirp4netns") && bench.lab.users_are_real() {
            let mut rootlesskit = user("rootlesskit")?;
            time(rootlesskit.args(["--net=slirp4netns", "true"]), "rootlesskit", report)?;
        }
    }
    Ok(())
}

fn time(command: &mut Command, name: &'static str, report: &mut Report) -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    let out = command.stdin(Stdio::null()).output()?;
    let took = start.elapsed();
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        return Err(format!("{name} failed: {}", said.trim()).into());
    }
    report.add(ROW, name, took.as_secs_f64() * 1e3);
    Ok(())
}
