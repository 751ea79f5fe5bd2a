//! The perf command: ringtap, its peers and the direct path in one lab, in turn, medians.
//!
//! Every figure of a table comes from the same run, and contenders take turns within each round, so that what else the
//! machine does falls on all alike. The client is in the guest, the server behind a veth in another namespace. Bars are
//! those that the project set itself. See NOTES.md for how each figure is taken and for traps.

mod crowd;
mod flood;
mod generators;
mod help;
mod idle;
mod latency;
mod published;
mod report;
mod start;
mod tcp;
mod udp;

use clap::Parser;
use report::Report;
use ringtap::lab::contender::{Contender, Start};
use ringtap::lab::{Guest, Lab, LabError};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Measures ringtap against the direct path, slirp4netns and pasta
#[derive(Debug, Parser)]
pub struct Options {
    /// Times that each figure is taken; the median counts
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Length of one transfer, in seconds
    #[arg(long, default_value_t = 3)]
    seconds: u32,
    /// What to measure; `flood` too, which is about a guest that floods, and `generators`, which compares the loads of `ringtap
    /// bench` with iperf3 and wrk
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "tcp,udp,latency,crowd,published,start,help,idle,many"
    )]
    only: Vec<String>,
    /// Who takes part, besides the direct path
    #[arg(long, value_delimiter = ',', default_value = "ringtap,slirp4netns,pasta,rootlesskit")]
    against: Vec<String>,
    /// Put the client behind a bridge made inside the namespace, as a container is
    #[arg(long)]
    bridge: bool,
    /// Take every figure in the namespace itself and behind a bridge, in turn
    #[arg(long, conflicts_with = "bridge")]
    both: bool,
    /// Streams of the TCP transfers
    #[arg(long, value_delimiter = ',', default_value = "1,4")]
    streams: Vec<u32>,
    /// MTUs of the TCP transfers
    #[arg(long, value_delimiter = ',', default_value = "1500,65520")]
    mtus: Vec<u16>,
    /// Further options of `ringtap attach`, for comparing them
    #[arg(long, value_delimiter = ',', allow_hyphen_values = true)]
    with: Vec<String>,
    /// Instances for `many`
    #[arg(long, default_value_t = 150)]
    instances: usize,
    /// Idle connections for `crowd`
    #[arg(long, default_value_t = 10_000)]
    idle: usize,
    /// Dial this server and hold the idle connections
    #[arg(long, hide = true)]
    hold: Option<std::net::SocketAddr>,
    /// Accept such connections here
    #[arg(long, hide = true)]
    accept: Option<std::net::SocketAddr>,
    /// Be the client of `latency` against this server
    #[arg(long, hide = true)]
    client: Option<std::net::SocketAddr>,
    /// Listen on the ports of the range that `published` adds, and say how long it took
    #[arg(long, hide = true)]
    bare_range: bool,
    /// Write the tables to perf/RESULTS.md too
    #[arg(long)]
    write: bool,
}

/// The lab, who takes part, and how.
pub struct Bench {
    lab: Lab,
    options: Options,
    ringtap: PathBuf,
    /// The client is behind a bridge now.
    bridge: bool,
}

impl Bench {
    /// All contenders that are asked for and installed, the direct path first.
    fn contenders(&self) -> Vec<Contender> {
        let all = [Contender::Ringtap(self.ringtap.clone()), Contender::Slirp4netns, Contender::Pasta];
        let mut here = vec![Contender::Direct];
        here.extend(all.into_iter().filter(|c| self.asked(c.name()) && c.installed()));
        here
    }

    fn wanted(&self, figure: &str) -> bool {
        self.options.only.iter().any(|o| o == figure)
    }

    fn asked(&self, name: &str) -> bool {
        self.options.against.iter().any(|a| a == name)
    }

    /// A guest of `contender`, and where the client runs: the guest itself, or a container on a bridge in it.
    fn guest(&self, contender: &Contender, mtu: u16) -> Result<(Guest, Option<Guest>), LabError> {
        let options = match contender {
            Contender::Ringtap(_) => self.options.with.clone(),
            _ => Vec::new(),
        };
        let guest = contender.start(&self.lab, &Start { mtu, as_user: true, options, ..Start::default() })?;
        let inner = match contender {
            Contender::Direct => None,
            _ if self.bridge => Some(guest.behind_bridge(&self.lab, mtu)?),
            _ => None,
        };
        Ok((guest, inner))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    if let Some(server) = options.client {
        println!("{}", latency::client(server, Duration::from_secs(options.seconds.into()))?);
        return Ok(());
    }
    if options.bare_range {
        println!("{}", published::bare_range()?);
        return Ok(());
    }
    if let Some(server) = options.hold {
        return Ok(crowd::hold(server, options.idle)?);
    }
    if let Some(at) = options.accept {
        return Ok(crowd::accept(at)?);
    }
    let ringtap = std::env::current_exe()?.with_file_name("").join("../ringtap").canonicalize()?;
    // Shown at a place that the lab's ordinary user may enter.
    let lab = Lab::with_binds(&[(&ringtap, "ringtap")])?;
    let ringtap = lab.bin("ringtap");
    let places: &[bool] = match (options.both, options.bridge) {
        (true, _) => &[false, true],
        (_, bridge) => &[bridge][..],
    };
    let mut reports: Vec<_> = places.iter().map(|&bridge| Report::new(bridge)).collect();
    let mut bench = Bench { lab, options, ringtap, bridge: false };
    for round in 1..=bench.options.rounds {
        for report in &mut reports {
            bench.bridge = report.bridge;
            let place = if bench.bridge { ", behind a bridge" } else { "" };
            eprintln!("round {round} of {}{place}", bench.options.rounds);
            take(&bench, report, round)?;
        }
    }
    for report in &mut reports {
        bench.bridge = report.bridge;
        if bench.wanted("crowd") {
            crowd::still(&bench, report)?;
        }
    }
    // These have no traffic, or none that could take another way.
    if bench.wanted("published") {
        for round in 1..=bench.options.rounds {
            eprintln!("round {round} of {}, published ports", bench.options.rounds);
            published::measure(&bench, &mut reports[0])?;
            published::range(&bench, &mut reports[0])?;
        }
    }
    if bench.wanted("generators") {
        for round in 1..=bench.options.rounds {
            eprintln!("round {round} of {}, load generators", bench.options.rounds);
            generators::measure(&bench, &mut reports[0])?;
        }
        generators::bars(&mut reports[0]);
    }
    if bench.wanted("flood") {
        for round in 1..=bench.options.rounds {
            eprintln!("round {round} of {}, floods", bench.options.rounds);
            flood::measure(&bench, &mut reports[0])?;
        }
        flood::bars(&bench, &mut reports[0]);
    }
    if bench.wanted("start") {
        for _ in 0..bench.options.rounds {
            start::measure(&bench, &mut reports[0])?;
        }
    }
    if bench.wanted("help") {
        for _ in 0..bench.options.rounds {
            help::measure(&bench, &mut reports[0])?;
        }
    }
    if bench.wanted("idle") {
        idle::memory(&bench, &mut reports[0])?;
    }
    if bench.wanted("many") {
        idle::many(&bench, &mut reports[0])?;
    }
    let text = report::markdown(&mut reports, &bench);
    println!("{text}");
    if bench.options.write {
        std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("perf/RESULTS.md"), text)?;
    }
    Ok(())
}

/// One round of what travels.
fn take(bench: &Bench, report: &mut Report, round: u32) -> Result<(), Box<dyn Error>> {
    if bench.wanted("tcp") {
        tcp::measure(bench, report)?;
    }
    if bench.wanted("udp") {
        udp::measure(bench, report)?;
    }
    if bench.wanted("latency") {
        latency::measure(bench, report)?;
    }
    if bench.wanted("crowd") {
        crowd::measure(bench, report, round)?;
    }
    Ok(())
}
