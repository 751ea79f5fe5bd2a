//! TCP throughput by iperf3, and what it costs the contender in CPU time.

use crate::Bench;
use crate::report::Report;
use ringtap::lab::contender::Contender;
use ringtap::lab::{Guest, LabError, Place, Running, addr};
use serde_json::Value;
use std::error::Error;
use std::fs;
use std::io;
use std::process::Stdio;
use std::time::Duration;

/// Takes each figure once, contenders in turn.
pub fn measure(bench: &Bench, report: &mut Report) -> Result<(), Box<dyn Error>> {
    let _server = server(bench)?;
    let server = addr::SERVER_V4.to_string();
    for &mtu in &bench.options.mtus {
        for contender in bench.contenders() {
            // The direct path has one MTU, that of the link.
            if contender == Contender::Direct && mtu != bench.options.mtus[0] {
                continue;
            }
            let (guest, inner) = bench.guest(&contender, mtu)?;
            let place = inner.as_ref().unwrap_or(&guest).place();
            for &streams in &bench.options.streams {
                for (way, options) in [("to server", &[][..]), ("to guest", &["-R"][..])] {
                    let before = cpu(&guest);
                    let bits = transfer(place, &server, bench.options.seconds, streams, options)?;
                    let spent = cpu(&guest) - before;
                    let row = format!(
                        "TCP {streams} stream{} {way}, MTU {mtu}",
                        if streams == 1 { "" } else { "s" }
                    );
                    report.add(&format!("{row}, Gbit/s"), contender.name(), bits.rate / 1e9);
                    if contender != Contender::Direct {
                        let gigabytes = bits.bytes / 1e9;
                        report.add(&format!("{row}, CPU s/GB"), contender.name(), spent / gigabytes);
                    }
                }
            }
        }
    }
    Ok(())
}

/// An iperf3 server behind the link.
pub fn server(bench: &Bench) -> Result<Running, LabError> {
    let internet = bench.lab.internet();
    let mut iperf3 = internet.command("iperf3")?;
    internet.spawn(iperf3.args(["-s", "-B", &addr::SERVER_V4.to_string()]).stdout(Stdio::null()))
}

/// What one transfer came to.
pub struct Transfer {
    /// Received, in bits a second.
    pub rate: f64,
    /// Received.
    pub bytes: f64,
}

/// `streams` streams from `place` for so many seconds.
pub fn transfer(
    place: Place<'_>,
    server: &str,
    seconds: u32,
    streams: u32,
    options: &[&str],
) -> Result<Transfer, Box<dyn Error>> {
    // The server may still be listening for the first time, or finishing the last test.
    let mut said = String::new();
    for _ in 0..20 {
        let mut iperf3 = place.command("iperf3")?;
        iperf3.args(["-c", server, "-J", "--connect-timeout", "5000"]).args(options);
        let out = iperf3.args(["-t", &seconds.to_string(), "-P", &streams.to_string()]).output()?;
        let json: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
        let received = &json["end"]["sum_received"];
        if let (Some(rate), Some(bytes)) = (received["bits_per_second"].as_f64(), received["bytes"].as_f64())
            && bytes > 0.0
        {
            return Ok(Transfer { rate, bytes });
        }
        said = json["error"].as_str().unwrap_or("no figures").to_owned();
        std::thread::sleep(Duration::from_millis(100));
    }
    Err(io::Error::other(format!("iperf3: {said}")).into())
}

/// CPU seconds that the contender has used so far: user and system time of its processes, which includes that of every
/// thread, io_uring's kernel workers among them. The first program is the holder of the namespace.
pub fn cpu(guest: &Guest) -> f64 {
    let holder = guest.processes().first().copied();
    guest.processes().into_iter().filter(|&p| Some(p) != holder).filter_map(cpu_of).sum()
}

/// CPU seconds that a process has used so far, all threads; `None` once it is gone.
pub fn cpu_of(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split_whitespace().collect();
    // utime and stime are fields 14 and 15 (proc_pid_stat(5)), in ticks of 1/100 s on every Linux; state is field 3.
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some(ticks / 100.0)
}
