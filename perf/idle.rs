//! What an idle network costs, and how many of them one user may have.

use crate::Bench;
use crate::report::Report;
use ringtap::bench::cost::pss;
use ringtap::lab::contender::{Contender, Start};
use ringtap::lab::{Guest, Running, Server, addr};
use std::error::Error;
use std::io::{Read, Write};
use std::process::Stdio;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

/// PSS of the contenders' processes, idle: `attach` and its peers, and `ringtap run`.
pub fn memory(bench: &Bench, report: &mut Report) -> Result<(), Box<dyn Error>> {
    for contender in bench.contenders() {
        if contender == Contender::Direct {
            continue;
        }
        let start = Start { as_user: true, ..Start::default() };
        let guest = contender.start(&bench.lab, &start)?;
        std::thread::sleep(Duration::from_secs(1));
        // The first is the holder of the namespace.
        let mib = pss(&guest.processes()[1..])?;
        report.add("idle memory of attach, MiB PSS", contender.name(), mib);
        if let Contender::Ringtap(_) = contender {
            report.bar("idle memory of attach, MiB PSS", mib, 8.0, true);
        }
    }
    if bench.asked("ringtap") {
        let guest = run(bench)?;
        std::thread::sleep(Duration::from_secs(1));
        let mib = pss(&guest.processes())?;
        report.add("idle memory of run, MiB PSS", "ringtap", mib);
        report.bar("idle memory of run, MiB PSS", mib, 16.0, true);
    }
    Ok(())
}

/// Instances of one user at once, each of which must carry a connection at the end.
pub fn many(bench: &Bench, report: &mut Report) -> Result<(), Box<dyn Error>> {
    if !bench.asked("ringtap") {
        return Ok(());
    }
    let at = (addr::SERVER_V4, 7);
    let _echo = Server::tcp_echo(bench.lab.internet().tcp_listener(at)?)?;
    let mut guests = Vec::new();
    for n in 0..bench.options.instances {
        match run(bench) {
            Ok(guest) => guests.push(guest),
            Err(e) => {
                eprintln!("instance {n}: {e}");
                break;
            }
        }
    }
    let works = |guest: &Guest| -> Result<(), Box<dyn Error>> {
        let mut stream = guest.place().tcp_connect_within(at, Duration::from_secs(10))?;
        stream.write_all(b"x")?;
        Ok(stream.read_exact(&mut [0])?)
    };
    let live = guests.iter().filter(|g| works(g).is_ok()).count();
    report.bar("instances of one user that work at once", live as f64, bench.options.instances as f64, false);
    let all: Vec<u32> = guests.iter().flat_map(Guest::processes).collect();
    report.add(
        "memory of run among many instances, MiB PSS each",
        "ringtap",
        pss(&all)? / guests.len().max(1) as f64,
    );
    Ok(())
}

/// `ringtap run -- sleep infinity` as the ordinary user.
fn run(bench: &Bench) -> Result<Guest, Box<dyn Error>> {
    let mut ringtap = bench.lab.host().command_as_user(&bench.ringtap.to_string_lossy())?;
    ringtap.args(["run", "--", "sh", "-c", "echo; exec sleep infinity"]).stdout(Stdio::piped());
    let mut running: Running = bench.lab.host().spawn(&mut ringtap)?;
    if let Some(out) = running.child().stdout.as_mut() {
        out.read_exact(&mut [0])?;
    }
    Ok(bench.lab.guest_below(running, "sleep", PATIENCE)?)
}
