//! The bench's load generators against iperf3 and wrk: on the direct path, and on the paths of the contenders.
//!
//! A generator counts if its direct figure is at least 0.9 of theirs, and its ratios of a contender to the direct path must be
//! theirs within 20 %. Both take turns in each round, over the same sockets' ends: the client in the guest, the server behind the
//! link. wrk speaks to our own server, which has a page for it, so that clients are compared and not servers; a request of its
//! is some 40 bytes, ours are as long.

use crate::Bench;
use crate::report::Report;
use ringtap::bench::iperf3;
use ringtap::bench::load::{Agent, AgentError, Reading, Role, Task, Way};
use ringtap::bench::pace::Search;
use ringtap::bench::wrk::Wrk;
use ringtap::lab::{Guest, Place, addr};
use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

const PORT: u16 = 7101;
const PATIENCE: Duration = Duration::from_secs(10);
/// Let go before it counts, as iperf3's first second is not.
const WARM_UP: Duration = Duration::from_millis(300);
/// Bytes of wrk's request.
const REQUEST: u32 = 40;

/// A load, as both have it.
struct Load {
    name: &'static str,
    task: Task,
    theirs: Theirs,
}

/// The other's way to do it.
enum Theirs {
    Iperf3(u32, &'static [&'static str]),
    Wrk(Option<&'static str>),
}

const LOADS: [Load; 7] = [
    Load {
        name: "TCP 1 stream to server, Gbit/s",
        task: Task::Bulk { way: Way::Up, streams: 1 },
        theirs: Theirs::Iperf3(1, &[]),
    },
    Load {
        name: "TCP 1 stream to guest, Gbit/s",
        task: Task::Bulk { way: Way::Down, streams: 1 },
        theirs: Theirs::Iperf3(1, &["-R"]),
    },
    Load {
        name: "TCP 4 streams to server, Gbit/s",
        task: Task::Bulk { way: Way::Up, streams: 4 },
        theirs: Theirs::Iperf3(4, &[]),
    },
    Load {
        name: "TCP 4 streams to guest, Gbit/s",
        task: Task::Bulk { way: Way::Down, streams: 4 },
        theirs: Theirs::Iperf3(4, &["-R"]),
    },
    Load {
        name: "request-response, thousand/s",
        task: Task::Exchange { bytes: REQUEST, connections: 16 },
        theirs: Theirs::Wrk(None),
    },
    Load {
        name: "connections, thousand/s",
        task: Task::Connect { connections: 16 },
        theirs: Theirs::Wrk(Some("Connection: close")),
    },
    Load {
        name: "UDP 1400 B to server, thousand/s",
        task: Task::Datagrams { way: Way::Up },
        // As fast as it can, which is what it is good for.
        theirs: Theirs::Iperf3(1, &["-u", "-b", "0", "-l", "1400"]),
    },
];

/// Takes each figure once of both.
pub fn measure(bench: &Bench, report: &mut Report) -> Result<(), Box<dyn Error>> {
    let internet = bench.lab.internet();
    let at = SocketAddr::from((addr::SERVER_V4, PORT));
    let server = Agent::start(internet, &bench.ringtap, &Role::Serve { at: vec![at] }, PATIENCE)?;
    let _iperf3 = iperf3::server(internet, addr::SERVER_V4.into())?;
    bench.lab.host().sysctl("net/ipv4/tcp_tw_reuse", "1")?;
    for load in &LOADS {
        for contender in bench.contenders() {
            let (guest, inner) = bench.guest(&contender, 1500)?;
            let place = inner.as_ref().map_or(guest.place(), Guest::place);
            let figure = ours(bench, place, at, &server, load)?;
            report.add(&row("ours", load), contender.name(), figure);
            let figure = theirs(bench, place, at, load)?;
            report.add(&row("iperf3 or wrk", load), contender.name(), figure);
        }
    }
    Ok(())
}

fn row(who: &str, load: &Load) -> String {
    format!("{who}: {}", load.name)
}

fn ours(
    bench: &Bench,
    place: Place<'_>,
    at: SocketAddr,
    server: &Agent,
    load: &Load,
) -> Result<f64, AgentError> {
    server.next()?;
    let client = Agent::client(place, &bench.ringtap, at, load.task, PATIENCE)?;
    let datagrams = matches!(load.task, Task::Datagrams { .. });
    if datagrams {
        let mut search = Search::default();
        loop {
            client.pace(search.pace())?;
            let (sent, received) = (client.mark()?, server.mark()?);
            std::thread::sleep(WARM_UP);
            let sent = rate(&sent, &client.mark()?, |r| r.datagrams_sent);
            let received = rate(&received, &server.mark()?, |r| r.datagrams_received);
            if search.seen(sent, received) {
                break;
            }
        }
        client.pace(search.pace())?;
    }
    std::thread::sleep(WARM_UP);
    let (c0, s0) = (client.begin()?, server.mark()?);
    std::thread::sleep(Duration::from_secs(bench.options.seconds.into()));
    let (c1, s1) = (client.mark()?, server.mark()?);
    client.finish()?;
    Ok(match load.task {
        Task::Bulk { way: Way::Down, .. } => rate(&c0, &c1, |r| r.received) * 8.0 / 1e9,
        Task::Bulk { .. } => rate(&s0, &s1, |r| r.received) * 8.0 / 1e9,
        Task::Datagrams { .. } => rate(&s0, &s1, |r| r.datagrams_received) / 1e3,
        _ => rate(&c0, &c1, |r| r.operations) / 1e3,
    })
}

fn rate(from: &Reading, to: &Reading, of: fn(&Reading) -> u64) -> f64 {
    (of(to) - of(from)) as f64 * 1e9 / (to.at - from.at).max(1) as f64
}

fn theirs(bench: &Bench, place: Place<'_>, at: SocketAddr, load: &Load) -> Result<f64, Box<dyn Error>> {
    let seconds = bench.options.seconds;
    Ok(match load.theirs {
        Theirs::Iperf3(streams, options) => {
            let seen = iperf3::transfer(place, &at.ip().to_string(), seconds, streams, options)?;
            match load.task {
                Task::Datagrams { .. } => seen.rate / 8.0 / 1400.0 / 1e3,
                _ => seen.rate / 1e9,
            }
        }
        Theirs::Wrk(header) => Wrk::run(place, &format!("http://{at}/"), seconds, 16, header)?.rate / 1e3,
    })
}

/// Bars: our direct figure against theirs, and the ratios of each contender's to the direct one's.
pub fn bars(report: &mut Report) {
    for load in &LOADS {
        let median = |report: &Report, who, column| report.median(&row(who, load), column);
        let both = |report: &Report, column| {
            Some((median(report, "ours", column)?, median(report, "iperf3 or wrk", column)?))
        };
        let Some(direct) = both(report, "direct") else { continue };
        let what = format!("{}, direct: ours / iperf3's or wrk's", load.name);
        report.bar(&what, direct.0 / direct.1, 0.9, false);
        // How fast iperf3 sends datagrams is its own limit, so there is no ratio of it.
        if matches!(load.task, Task::Datagrams { .. }) {
            continue;
        }
        let Some(ringtap) = both(report, "ringtap") else { continue };
        let off = (ringtap.0 / direct.0) / (ringtap.1 / direct.1);
        let what = format!("{}, ringtap / direct: ours in proportion to theirs, less one", load.name);
        report.bar(&what, (off - 1.0).abs(), 0.2, true);
    }
}
