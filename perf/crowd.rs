//! What many idle connections cost: memory, wake-ups, and the throughput and latency of the others; and what it costs the
//! others that somebody watches the idle ones.
//!
//! Two programs of their own hold the ends, so that each stays below the descriptor limit: a client in the place, which
//! dials one connection after the other and hears one byte echoed on each, and a server that keeps what it accepted.
//! Both sit still from then on. The same figures are taken with and without them in one run of one guest, either first
//! in turn. The client goes by resets: TIME_WAIT of ten thousand tuples would be measured with the next figures.

use crate::Bench;
use crate::latency::{self, connect, exchange};
use crate::report::Report;
use crate::tcp;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use ringtap::bench::cost::{self, contender, pss, switches};
use ringtap::bench::iperf3::transfer;
use ringtap::lab::contender::Contender;
use ringtap::lab::{Guest, Place, Running, Server, addr};
use socket2::SockRef;
use std::error::Error;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

const PORT: u16 = 7003;
/// Buffers that the handshakes passed through go back ten seconds after the last of them.
const SETTLE: Duration = Duration::from_secs(12);
/// How long wake-ups are counted.
const WATCH: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(30);

/// Rows of the figures, without the number of idle connections.
pub const ROWS: [(&str, bool); 4] = [
    ("TCP 1 stream to server beside idle connections, Gbit/s", true),
    ("TCP 1 stream to guest beside idle connections, Gbit/s", true),
    ("TCP request-response beside idle connections, median us", false),
    ("TCP connections for one byte beside idle connections, thousand/s", true),
];

/// A row's name with `idle` connections open.
pub fn row(of: &str, idle: usize) -> String {
    of.replace("beside idle", &format!("beside {idle} idle"))
}

/// The name of the same row while the flows are watched.
pub fn watched(of: &str, idle: usize) -> String {
    of.replace("beside idle connections", &format!("beside {idle} idle connections that are watched"))
}

/// Takes each figure without idle connections, with them, and with them watched.
pub fn measure(bench: &Bench, report: &mut Report, round: u32) -> Result<(), Box<dyn Error>> {
    if !bench.asked("ringtap") {
        return Ok(());
    }
    let _iperf3 = tcp::server(bench)?;
    let echo = SocketAddr::new(addr::SERVER_V4.into(), latency::PORT);
    let _echo = Server::tcp_echo(bench.lab.internet().tcp_listener(echo)?)?;
    // As in latency.rs.
    bench.lab.host().sysctl("net/ipv4/tcp_tw_reuse", "1")?;
    let (guest, inner) = bench.guest(&Contender::Ringtap(bench.ringtap.clone()), 1500)?;
    let place = inner.as_ref().unwrap_or(&guest).place();
    let mut turns = [0, bench.options.idle];
    if round.is_multiple_of(2) {
        turns.reverse();
    }
    let bulk = |report: &mut Report, name: &dyn Fn(&str) -> String| -> Result<(), Box<dyn Error>> {
        for (options, (of, _)) in [&[][..], &["-R"][..]].into_iter().zip(ROWS) {
            let bits = transfer(place, &addr::SERVER_V4.to_string(), bench.options.seconds, 1, options)?;
            report.add(&name(of), "ringtap", bits.rate / 1e9);
        }
        Ok(())
    };
    for idle in turns {
        let crowd = if idle > 0 { Some(Crowd::open(bench, &guest, place, idle)?) } else { None };
        // Either first in turn, in pairs of rounds that the order above does not follow. Connections are not made while
        // somebody watches: with those before and the idle ones they would be more than the guest has ports.
        for looks in [round % 4 < 2, round % 4 >= 2].into_iter().filter(|looks| idle > 0 || !looks) {
            let watcher = watch(bench, looks)?;
            bulk(report, &|of| if looks { watched(of, idle) } else { row(of, idle) })?;
            drop(watcher);
        }
        let time = Duration::from_secs(bench.options.seconds.into());
        let seen = exchange(place, echo, time)?;
        report.add(&row(ROWS[2].0, idle), "ringtap", seen.value_at_quantile(0.5) as f64 / 1e3);
        let made = connect(place, echo, time)?;
        report.add(&row(ROWS[3].0, idle), "ringtap", made as f64 / time.as_secs_f64() / 1e3);
        if let Some(crowd) = crowd {
            crowd.close(&guest)?;
        }
    }
    Ok(())
}

/// Somebody who looks at all flows once a second, and is shown as many as a terminal has lines for; or somebody who does
/// nothing, so that the time before the figures and the processes beside them are the same.
fn watch(bench: &Bench, looks: bool) -> Result<Running, Box<dyn Error>> {
    let program = bench.ringtap.to_str().ok_or("the path of ringtap is not UTF-8")?;
    let (program, arguments) = match looks {
        true => (program, &["flows", "--watch", "1", "--limit", "50"][..]),
        false => ("sleep", &["infinity"][..]),
    };
    let mut command = bench.lab.host().command_as_user(program)?;
    let watcher = bench.lab.host().spawn(command.args(arguments).stdout(Stdio::null()))?;
    // The first looks are told everything.
    std::thread::sleep(Duration::from_secs(3));
    Ok(watcher)
}

/// Memory of each idle connection, and what wakes the processes while all sit still.
pub fn still(bench: &Bench, report: &mut Report) -> Result<(), Box<dyn Error>> {
    if !bench.asked("ringtap") {
        return Ok(());
    }
    let (guest, inner) = bench.guest(&Contender::Ringtap(bench.ringtap.clone()), 1500)?;
    let place = inner.as_ref().unwrap_or(&guest).place();
    let idle = bench.options.idle;
    // Code and tables that the first connections bring in are not the idle ones' cost.
    Crowd::open(bench, &guest, place, 16)?.close(&guest)?;
    std::thread::sleep(SETTLE);
    let before = pss(&guest.processes()[1..])?;
    let crowd = Crowd::open(bench, &guest, place, idle)?;
    std::thread::sleep(SETTLE);
    let each = (pss(&guest.processes()[1..])? - before) * 1024.0 / idle as f64;
    let what = format!("memory of each of {idle} idle connections, KiB PSS");
    report.add(&what, "ringtap", each);
    report.bar(&what, each, 2.0, true);
    let count = switches(&contender(&guest))?;
    std::thread::sleep(WATCH);
    let what = format!("wake-ups in {} s with {idle} idle connections", WATCH.as_secs());
    report.add(&what, "ringtap", (switches(&contender(&guest))? - count) as f64);
    let watcher = watch(bench, true)?;
    let used = || cost::cpu(&guest) + cost::cpu_of(watcher.pid()).unwrap_or_default();
    let before = used();
    std::thread::sleep(WATCH);
    let what = format!(
        "CPU that a look at {idle} idle connections each second takes, watcher included, % of the host's"
    );
    let cores = std::thread::available_parallelism()?.get() as f64;
    let share = (used() - before) / WATCH.as_secs_f64() / cores * 1e2;
    report.add(&what, "ringtap", share);
    // Less than the throughput of two runs of the same differs by.
    report.bar(&what, share, 1.0, true);
    drop(watcher);
    crowd.close(&guest)
}

/// Idle connections.
struct Crowd {
    client: Running,
    server: Running,
    /// Descriptors of the contender before.
    before: usize,
}

impl Crowd {
    fn open(bench: &Bench, guest: &Guest, place: Place<'_>, count: usize) -> Result<Self, Box<dyn Error>> {
        let at = SocketAddr::new(addr::SERVER_V4.into(), PORT).to_string();
        let before = descriptors(guest);
        let server = ready(bench.lab.internet(), &["--accept", &at])?;
        let client = ready(place, &["--hold", &at, "--idle", &count.to_string()])?;
        let held = descriptors(guest) - before;
        if held < count {
            return Err(format!("{held} descriptors for {count} connections").into());
        }
        Ok(Self { client, server, before })
    }

    /// Ends them, and waits until nothing is left of them.
    fn close(self, guest: &Guest) -> Result<(), Box<dyn Error>> {
        let Self { client, server, before } = self;
        drop(client);
        // Of ten thousand resets at once the tap's queue may drop some; what the server ends reaches the others at once.
        drop(server);
        let end = Instant::now() + PATIENCE;
        while descriptors(guest) > before {
            if Instant::now() > end {
                return Err(format!("{} descriptors are open, {before} were", descriptors(guest)).into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

/// Starts this program with `args` and waits for its first byte.
fn ready(place: Place<'_>, args: &[&str]) -> Result<Running, Box<dyn Error>> {
    let this = std::env::current_exe()?;
    let mut command = place.command(this.to_str().ok_or("the path of this program is not UTF-8")?)?;
    let mut running = place.spawn(command.args(args).stdout(Stdio::piped()))?;
    let mut byte = [0];
    match running.child().stdout.as_mut().map_or(Ok(0), |out| out.read(&mut byte))? {
        1 => Ok(running),
        _ => Err(format!("{args:?} ended before it was ready").into()),
    }
}

fn raise_limit() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

fn say_ready() -> io::Result<()> {
    println!();
    io::stdout().flush()
}

/// The program at the client's end: dials, and sits still until it is killed.
pub fn hold(server: SocketAddr, count: usize) -> io::Result<()> {
    raise_limit()?;
    let dial = |_| -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect(server)?;
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&[1])?;
        stream.read_exact(&mut [0])?;
        Ok(stream)
    };
    let _held = (0..count).map(dial).collect::<io::Result<Vec<_>>>()?;
    say_ready()?;
    loop {
        std::thread::park();
    }
}

/// The program at the server's end: answers one byte, and keeps the connection.
pub fn accept(at: SocketAddr) -> io::Result<()> {
    raise_limit()?;
    let listener = TcpListener::bind(at)?;
    say_ready()?;
    let mut held = Vec::new();
    loop {
        let (mut stream, _) = listener.accept()?;
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        stream.write_all(&byte)?;
        held.push(stream);
    }
}

/// Open descriptors of the contender, but for control's watch of resolv.conf, which begins after a second.
fn descriptors(guest: &Guest) -> usize {
    let watch =
        |fd: &fs::DirEntry| fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == "anon_inode:inotify");
    let count = |pid| {
        let all = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        all.filter(|fd| !watch(fd)).count()
    };
    contender(guest).into_iter().map(count).sum()
}
