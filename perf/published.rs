//! Published ports: what a client on the host's loopback gets from servers in the guest.
//!
//! The direct path is client and servers in the host. The others publish the same ports of a guest in which the same
//! servers run: ringtap by the relay and, in a column of its own, through the tap; rootlesskit with its two port drivers.
//! iperf3 moves bulk, wrk asks nginx for a page of a few bytes, datagrams are echoed one at a time by sixteen clients and
//! sent one way as `udp` sends them. CPU is that of the launcher and everything it started, not of the servers.

use crate::report::Report;
use crate::{Bench, udp};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use ringtap::bench::cost::{cpu_of, pss};
use ringtap::bench::iperf3::transfer;
use ringtap::bench::wrk::{Wrk, nginx};
use ringtap::lab::contender::on_path;
use ringtap::lab::{Guest, Place, Server};
use std::error::Error;
use std::io::{self, BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Ports of the servers of a way, published under the same numbers; one for each kind. Each way has its own, for what was
/// killed may hold its listeners for a moment longer.
#[derive(Clone, Copy)]
struct Ports {
    bulk: u16,
    web: u16,
    echo: u16,
    sink: u16,
}
const CLIENTS: usize = 16;
/// How long a launcher may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Ports of the range.
const RANGE: u16 = 10_000;
const FIRST: u16 = 20_000;

/// Who publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Direct,
    Relay,
    Tap,
    Builtin,
    Slirp,
    /// By the relay, for [`range`].
    Range,
}

impl Way {
    const ALL: [Self; 5] = [Self::Direct, Self::Relay, Self::Tap, Self::Builtin, Self::Slirp];

    /// The column of its figures.
    const fn column(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Relay | Self::Range => "ringtap",
            Self::Tap => "ringtap by the tap",
            Self::Builtin => "rootlesskit builtin",
            Self::Slirp => "rootlesskit slirp4netns",
        }
    }

    const fn ports(self) -> Ports {
        let first = 5300 + 10 * self as u16;
        Ports { bulk: first, web: first + 1, echo: first + 2, sink: first + 3 }
    }

    fn wanted(self, bench: &Bench) -> bool {
        match self {
            Self::Direct => true,
            Self::Relay | Self::Tap | Self::Range => bench.asked("ringtap"),
            Self::Builtin | Self::Slirp => {
                bench.asked("rootlesskit")
                    && on_path("rootlesskit")
                    && on_path("slirp4netns")
                    && bench.lab.users_are_real()
            }
        }
    }

    /// Starts the launcher, as an ordinary user; `None` for the direct path.
    fn start(self, bench: &Bench) -> Result<Option<Guest>, Box<dyn Error>> {
        let Ports { bulk, web, echo, sink } = self.ports();
        let ports = [(bulk, "tcp"), (web, "tcp"), (echo, "udp"), (sink, "udp")];
        let user = |program: &str| bench.lab.host().command_as_user(program);
        let mut command = match self {
            Self::Direct => return Ok(None),
            Self::Relay | Self::Tap | Self::Range => {
                let mut ringtap = user(&bench.ringtap.to_string_lossy())?;
                let via = if self == Self::Tap { "tap" } else { "relay" };
                ringtap.args(["run", "--via", via]);
                for (port, protocol) in ports {
                    ringtap.args(["-p", &format!("127.0.0.1:{port}:{port}/{protocol}")]);
                }
                ringtap.arg("--");
                ringtap
            }
            Self::Builtin | Self::Slirp => {
                let mut rootlesskit = user("rootlesskit")?;
                let driver = if self == Self::Builtin { "builtin" } else { "slirp4netns" };
                rootlesskit.args(["--net=slirp4netns", "--disable-host-loopback"]);
                rootlesskit.arg(format!("--port-driver={driver}"));
                for (port, protocol) in ports {
                    rootlesskit.args(["--publish", &format!("127.0.0.1:{port}:{port}/{protocol}")]);
                }
                rootlesskit
            }
        };
        command.args(["sh", "-c", "echo ready; exec sleep infinity"]).stdout(Stdio::piped());
        let mut running = bench.lab.host().spawn(&mut command)?;
        let mut line = String::new();
        if let Some(out) = running.child().stdout.take() {
            BufReader::new(out).read_line(&mut line)?;
        }
        Ok(Some(bench.lab.guest_below(running, "sleep", PATIENCE)?))
    }
}

/// Takes each figure once, ways in turn.
pub fn measure(bench: &Bench, report: &mut Report) -> Result<(), Box<dyn Error>> {
    for way in Way::ALL.into_iter().filter(|way| way.wanted(bench)) {
        let guest = way.start(bench)?;
        let place = guest.as_ref().map_or(bench.lab.host(), Guest::place);
        let costs = guest.as_ref().map(|g| move || g.processes().into_iter().filter_map(cpu_of).sum::<f64>());
        let costs: &dyn Fn() -> f64 = match &costs {
            Some(costs) => costs,
            None => &|| 0.0,
        };
        let taker = Taker { bench, way, report, costs };
        taker.all(place)?;
    }
    Ok(())
}

/// What one way's figures are taken with.
struct Taker<'a> {
    bench: &'a Bench,
    way: Way,
    report: &'a mut Report,
    costs: &'a dyn Fn() -> f64,
}

impl Taker<'_> {
    fn add(&mut self, row: &str, value: f64) {
        self.report.add(row, self.way.column(), value);
    }

    fn all(mut self, servers: Place<'_>) -> Result<(), Box<dyn Error>> {
        self.bulk(servers)?;
        self.web(servers)?;
        self.datagrams(servers)
    }

    fn bulk(&mut self, servers: Place<'_>) -> Result<(), Box<dyn Error>> {
        let port = self.way.ports().bulk.to_string();
        let mut iperf3 = servers.command("iperf3")?;
        let _server = servers.spawn(iperf3.args(["-s", "-p", &port]).stdout(Stdio::null()))?;
        for (streams, name) in [(1, "1 stream"), (4, "4 streams")] {
            for (to, reverse) in [("to guest", &[][..]), ("to client", &["-R"][..])] {
                let options = [&["-p", &port], reverse].concat();
                let before = (self.costs)();
                let seconds = self.bench.options.seconds;
                let seen = transfer(self.bench.lab.host(), "127.0.0.1", seconds, streams, &options)?;
                let spent = (self.costs)() - before;
                self.add(&format!("published, {name} {to}, Gbit/s"), seen.rate / 1e9);
                if self.way != Way::Direct {
                    self.add(&format!("published, {name} {to}, CPU s/GB"), spent / (seen.bytes / 1e9));
                }
            }
        }
        Ok(())
    }

    fn web(&mut self, servers: Place<'_>) -> Result<(), Box<dyn Error>> {
        if !on_path("wrk") {
            eprintln!("  wrk is not installed: no HTTP figures");
            return Ok(());
        }
        let port = self.way.ports().web;
        let _nginx = nginx(&self.bench.lab, servers, port)?;
        let url = format!("http://127.0.0.1:{port}/");
        for (what, connections, header) in [
            ("HTTP keep-alive, 16 connections", 16, None),
            ("HTTP keep-alive, 64 connections", 64, None),
            ("HTTP connections, 16 at a time", 16, Some("Connection: close")),
        ] {
            let (host, seconds) = (self.bench.lab.host(), self.bench.options.seconds);
            let before = (self.costs)();
            let seen = Wrk::run(host, &url, seconds, connections, header)?;
            let spent = (self.costs)() - before;
            self.add(&format!("published, {what}, thousand/s"), seen.rate / 1e3);
            self.add(&format!("published, {what}, p99 us"), seen.p99);
            if self.way != Way::Direct {
                self.add(&format!("published, {what}, CPU us each"), 1e6 * spent / seen.requests);
            }
        }
        Ok(())
    }

    fn datagrams(&mut self, servers: Place<'_>) -> Result<(), Box<dyn Error>> {
        let Ports { echo, sink, .. } = self.way.ports();
        let _echo = Server::udp_echo(servers.udp_socket((Ipv4Addr::UNSPECIFIED, echo))?)?;
        let host = self.bench.lab.host();
        let time = Duration::from_secs(self.bench.options.seconds.into());
        let trips = round_trips(host, echo, time)?;
        self.add("published, UDP round trips, 16 clients, thousand/s", trips / time.as_secs_f64() / 1e3);
        let far = servers.udp_socket((Ipv4Addr::UNSPECIFIED, sink))?;
        let near = host.udp_socket((Ipv4Addr::UNSPECIFIED, 0))?;
        near.connect((Ipv4Addr::LOCALHOST, sink))?;
        let seen = udp::settle(&near, &far, time)?;
        self.add("published, UDP 1400 B one way, thousand/s received", seen.received / 1e3);
        Ok(())
    }
}

/// Datagrams answered within `time`, each client having one under way.
fn round_trips(host: Place<'_>, port: u16, time: Duration) -> Result<f64, Box<dyn Error>> {
    let sockets =
        (0..CLIENTS).map(|_| host.udp_socket((Ipv4Addr::UNSPECIFIED, 0))).collect::<Result<Vec<_>, _>>()?;
    let end = Instant::now() + time;
    let converse = |socket: UdpSocket| -> io::Result<u64> {
        socket.connect((Ipv4Addr::LOCALHOST, port))?;
        // What is lost is asked again.
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let mut made = 0;
        while Instant::now() < end {
            let _ = socket.send(&[1; 16]);
            made += u64::from(socket.recv(&mut [0; 64]).is_ok());
        }
        Ok(made)
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = sockets.into_iter().map(|s| scope.spawn(move || converse(s))).collect();
        let parts =
            threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err(io::Error::other("panicked"))));
        let sum: io::Result<u64> = parts.sum();
        Ok(sum? as f64)
    })
}

/// How long ten thousand ports take, and what they weigh.
pub fn range(bench: &Bench, report: &mut Report) -> Result<(), Box<dyn Error>> {
    if !bench.asked("ringtap") {
        return Ok(());
    }
    let host = bench.lab.host();
    let this = std::env::current_exe()?;
    let mut bare = host.command(this.to_str().ok_or("the path of this program is not UTF-8")?)?;
    let out = bare.arg("--bare-range").output()?;
    let bare_ms: f64 = String::from_utf8_lossy(&out.stdout)
        .trim()
        .parse()
        .map_err(|_| format!("bare listeners: {}", String::from_utf8_lossy(&out.stderr)))?;
    let guest = Way::Range.start(bench)?.ok_or("no guest")?;
    let before = pss(&guest.processes())?;
    let last = FIRST + RANGE - 1;
    let mut add = host.command_as_user(&bench.ringtap.to_string_lossy())?;
    add.args(["port", "add", &format!("127.0.0.1:{FIRST}-{last}:{FIRST}-{last}")]);
    let start = Instant::now();
    let out = add.output()?;
    let ours_ms = start.elapsed().as_secs_f64() * 1e3;
    if !out.status.success() {
        return Err(format!("ringtap port add: {}", String::from_utf8_lossy(&out.stderr)).into());
    }
    report.add(ROW_RANGE, "direct", bare_ms);
    report.add(ROW_RANGE, "ringtap", ours_ms);
    report.add(ROW_WEIGHT, "ringtap", 1024.0 * (pss(&guest.processes())? - before) / f64::from(RANGE));
    Ok(())
}

/// The program that [`range`] compares with: milliseconds for as many listeners as a process makes by itself.
pub fn bare_range() -> io::Result<f64> {
    let _ = rlimit_to_hard();
    let start = Instant::now();
    let _all = (FIRST..FIRST + RANGE)
        .map(|port| TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))))
        .collect::<io::Result<Vec<_>>>()?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

fn rlimit_to_hard() -> nix::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
}

const ROW_RANGE: &str = "published, 10,000 ports at once, ms";
const ROW_WEIGHT: &str = "published, memory of a port of 10,000, KiB PSS";

/// The bars of these figures.
pub fn bars(report: &mut Report) {
    let builtin = Way::Builtin.column();
    for (name, of_direct) in [("1 stream", 0.60), ("4 streams", 0.80)] {
        for to in ["to guest", "to client"] {
            let row = format!("published, {name} {to}, Gbit/s");
            report.ratio(&row, "direct", of_direct, false);
            report.ratio(&row, builtin, 1.15, false);
            report.ratio(&format!("published, {name} {to}, CPU s/GB"), builtin, 1.0, true);
        }
    }
    for connections in [16, 64] {
        let what = format!("published, HTTP keep-alive, {connections} connections");
        report.ratio(&format!("{what}, thousand/s"), builtin, 1.3, false);
        report.ratio(&format!("{what}, p99 us"), builtin, 1.0, true);
    }
    let fresh = "published, HTTP connections, 16 at a time, thousand/s";
    report.ratio(fresh, builtin, 2.0, false);
    report.ratio(fresh, "direct", 0.55, false);
    for row in [
        "published, UDP round trips, 16 clients, thousand/s",
        "published, UDP 1400 B one way, thousand/s received",
    ] {
        let columns = ["ringtap", builtin, "direct"].map(|c| report.median(row, c));
        if let [Some(ours), Some(theirs), Some(direct)] = columns {
            let what = format!("{row}: at least 2 x builtin, or 0.85 x direct where that is less");
            report.bar(&what, ours, (2.0 * theirs).min(0.85 * direct), false);
        }
    }
    report.ratio(ROW_RANGE, "direct", 3.0, true);
    if let Some(weight) = report.median(ROW_WEIGHT, "ringtap") {
        report.bar(ROW_WEIGHT, weight, 4.0, true);
    }
}
