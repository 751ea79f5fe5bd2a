//! How long `--help` of each persona takes. Callers ask for it at every start: RootlessKit twice, Podman once for each container.

use crate::Bench;
use crate::report::Report;
use ringtap::bench::stats::median;
use ringtap::cli::persona::Persona;
use ringtap::lab::contender::on_path;
use std::error::Error;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Instant;

/// A process takes about as long as the noise is high, so that only many tell them apart.
const TIMES: usize = 101;

/// Takes the figure of every persona and of slirp4netns's own `--help`, in turn, many times; the median is one sample.
pub fn measure(bench: &Bench, report: &mut Report) -> Result<(), Box<dyn Error>> {
    if !on_path("slirp4netns") {
        return Ok(());
    }
    for persona in Persona::ALL {
        let mut took = [Vec::with_capacity(TIMES), Vec::with_capacity(TIMES)];
        for _ in 0..TIMES {
            let mut ours = bench.lab.host().command_as_user(&bench.ringtap.to_string_lossy())?;
            took[0].push(time(ours.arg0(persona.name()))?);
            took[1].push(time(&mut bench.lab.host().command_as_user("slirp4netns")?)?);
        }
        for (column, took) in ["ringtap", "slirp4netns"].into_iter().zip(&took) {
            report.add(&row(persona), column, median(took).unwrap_or(f64::NAN));
        }
    }
    Ok(())
}

/// At most twice as long as slirp4netns's.
pub fn bars(report: &mut Report) {
    for persona in Persona::ALL {
        report.ratio(&row(persona), "slirp4netns", 2.0, true);
    }
}

fn row(persona: Persona) -> String {
    format!("{} --help, ms", persona.name())
}

/// In milliseconds.
fn time(command: &mut Command) -> Result<f64, Box<dyn Error>> {
    command.arg("--help").stdin(Stdio::null()).stdout(Stdio::null());
    let start = Instant::now();
    let status = command.status()?;
    let took = start.elapsed();
    if !status.success() {
        return Err(format!("--help: {status}").into());
    }
    Ok(took.as_secs_f64() * 1e3)
}
