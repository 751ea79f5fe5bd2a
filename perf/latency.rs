//! Many small exchanges: request-response on connections that stay, and connections made for one byte each.
//!
//! Sixteen clients, a thread each, on sockets of the place; the server echoes. A request is one byte, sent when the last
//! one is answered, so the figure is the latency of a path that is busy but not full. A connection counts when its one
//! byte has come back. Latencies go to one histogram a thread, merged at the end.

use crate::Bench;
use crate::report::Report;
use hdrhistogram::Histogram;
use ringtap::bench::cost::cpu;
use ringtap::lab::contender::Contender;
use ringtap::lab::{Place, Server, addr};
use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const CLIENTS: usize = 16;
/// Where the echo server listens.
pub const PORT: u16 = 7002;
/// Longest latency that the histogram tells apart, in nanoseconds, to two digits.
const LONGEST: u64 = 10_000_000_000;

/// Row of the median latency, in microseconds.
pub const MEDIAN: &str = "TCP request-response, 16 connections, median us";
/// Row of its cost.
pub const COST: &str = "TCP request-response, 16 connections, CPU us each";
/// Row of connections a second.
pub const CONNECTS: &str = "TCP connections for one byte, 16 at a time, thousand/s";

/// Takes each figure once, contenders in turn.
pub fn measure(bench: &Bench, report: &mut Report) -> Result<(), Box<dyn Error>> {
    let server = SocketAddr::new(addr::SERVER_V4.into(), PORT);
    let _echo = Server::tcp_echo(bench.lab.internet().tcp_listener(server)?)?;
    let time = Duration::from_secs(bench.options.seconds.into());
    // The direct path leaves tens of thousands of ports in TIME_WAIT, among which those after it would have to search.
    bench.lab.host().sysctl("net/ipv4/tcp_tw_reuse", "1")?;
    for contender in bench.contenders() {
        let (guest, inner) = bench.guest(&contender, 1500)?;
        let place = inner.as_ref().unwrap_or(&guest).place();
        let name = contender.name();

        let before = cpu(&guest);
        let seen = exchange(place, server, time)?;
        report.add(MEDIAN, name, seen.value_at_quantile(0.5) as f64 / 1e3);
        report.add(
            "TCP request-response, 16 connections, p99 us",
            name,
            seen.value_at_quantile(0.99) as f64 / 1e3,
        );
        if contender != Contender::Direct {
            report.add(COST, name, 1e6 * (cpu(&guest) - before) / seen.len() as f64);
        }
        let made = connect(place, server, time)?;
        report.add(CONNECTS, name, made as f64 / time.as_secs_f64() / 1e3);
    }
    Ok(())
}

/// Latencies of requests from `place`, sixteen at a time.
pub fn exchange(
    place: Place<'_>,
    server: SocketAddr,
    time: Duration,
) -> Result<Histogram<u64>, Box<dyn Error>> {
    let streams = (0..CLIENTS).map(|_| place.tcp_connect(server)).collect::<Result<Vec<_>, _>>()?;
    let end = Instant::now() + time;
    let mut all = Histogram::new_with_bounds(1, LONGEST, 2)?;
    let parts = std::thread::scope(|scope| {
        let threads: Vec<_> = streams.into_iter().map(|s| scope.spawn(move || converse(s, end))).collect();
        threads
            .into_iter()
            .map(|t| t.join().unwrap_or_else(|_| Err(io::Error::other("panicked"))))
            .collect::<Vec<_>>()
    });
    for part in parts {
        all.add(part?)?;
    }
    Ok(all)
}

fn converse(mut stream: TcpStream, end: Instant) -> io::Result<Histogram<u64>> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut seen = Histogram::new_with_bounds(1, LONGEST, 2).map_err(io::Error::other)?;
    let mut byte = [0; 1];
    loop {
        let start = Instant::now();
        if start >= end {
            return Ok(seen);
        }
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
        let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(LONGEST);
        seen.record(nanos.clamp(1, LONGEST)).map_err(io::Error::other)?;
    }
}

/// Connections that a program of the place made, used for one byte and closed within `time`. A program of its own, because
/// making sockets for another namespace, as the lab does, costs more than what is measured.
pub fn connect(place: Place<'_>, server: SocketAddr, time: Duration) -> Result<u64, Box<dyn Error>> {
    let this = std::env::current_exe()?;
    let mut client = place.command(this.to_str().ok_or("the path of this program is not UTF-8")?)?;
    let out =
        client.args(["--client", &server.to_string(), "--seconds", &time.as_secs().to_string()]).output()?;
    let text = String::from_utf8_lossy(&out.stdout);
    text.trim().parse().map_err(|_| format!("client: {}", String::from_utf8_lossy(&out.stderr)).into())
}

/// The program that [`connect`] runs.
pub fn client(server: SocketAddr, time: Duration) -> io::Result<u64> {
    let end = Instant::now() + time;
    let count = || -> io::Result<u64> {
        let mut made = 0;
        while Instant::now() < end {
            let mut stream = TcpStream::connect(server)?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(&[1])?;
            stream.read_exact(&mut [0; 1])?;
            made += 1;
        }
        Ok(made)
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(count)).collect();
        threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err(io::Error::other("panicked")))).sum()
    })
}
