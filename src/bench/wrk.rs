//! wrk as a measure of request-response, and nginx as its server, for `perf/`.

use crate::lab::{Lab, Place, Running};
use std::error::Error;
use std::fs;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// How long nginx may take to listen.
const PATIENCE: Duration = Duration::from_secs(20);

/// nginx with a page of a few bytes, at `port` of every address of `servers`.
///
/// # Errors
/// It does not start, or does not listen.
pub fn nginx(lab: &Lab, servers: Place<'_>, port: u16) -> Result<Running, Box<dyn Error>> {
    let config = lab.dir().join("nginx.conf");
    let text = format!(
        "daemon off; master_process off; error_log /dev/null; pid /dev/null;
         events {{ worker_connections 4096; }}
         http {{ access_log off; keepalive_requests 1000000;
                 client_body_temp_path /tmp/ringtap-nginx; proxy_temp_path /tmp/ringtap-nginx;
                 fastcgi_temp_path /tmp/ringtap-nginx; uwsgi_temp_path /tmp/ringtap-nginx;
                 scgi_temp_path /tmp/ringtap-nginx;
                 server {{ listen {port} backlog=4096; location / {{ return 200 'hello'; }} }} }}"
    );
    fs::write(&config, text)?;
    let mut nginx = servers.command("nginx")?;
    nginx.args(["-c", &config.to_string_lossy()]).stderr(Stdio::null());
    let running = servers.spawn(&mut nginx)?;
    let end = Instant::now() + PATIENCE;
    while servers.tcp_connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        if Instant::now() > end {
            return Err("nginx does not listen".into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(running)
}

/// What wrk said.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wrk {
    /// Requests a second.
    pub rate: f64,
    /// Median latency, in microseconds.
    pub p50: f64,
    /// Latency that one request in a hundred exceeds, in microseconds.
    pub p99: f64,
    /// Requests in all.
    pub requests: f64,
}

impl Wrk {
    /// One thread of wrk from `place` for so many seconds.
    ///
    /// # Errors
    /// It does not run, or what it said has no figures.
    pub fn run(
        place: Place<'_>,
        url: &str,
        seconds: u32,
        connections: u32,
        header: Option<&str>,
    ) -> Result<Self, Box<dyn Error>> {
        let mut wrk = place.command("wrk")?;
        let (connections, time) = (connections.to_string(), format!("{seconds}s"));
        wrk.args(["-t", "1", "-c", &connections, "-d", &time, "--latency", url]);
        wrk.args(header.iter().flat_map(|h| ["-H", h]));
        let out = wrk.output()?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        Ok(Self::of(&text).ok_or_else(|| format!("wrk said: {text}"))?)
    }

    /// Reads its report.
    pub fn of(text: &str) -> Option<Self> {
        let line = |start: &str| text.lines().find_map(|l| l.trim().strip_prefix(start)).map(str::trim);
        let microseconds = |text: &str| -> Option<f64> {
            let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
            let unit = match &text[digits.len()..] {
                "us" => 1.0,
                "ms" => 1e3,
                _ => 1e6,
            };
            Some(digits.parse::<f64>().ok()? * unit)
        };
        let requests = text.lines().find_map(|l| l.trim().split_once(" requests in "))?.0;
        Some(Self {
            rate: line("Requests/sec:")?.parse().ok()?,
            p50: microseconds(line("50%")?)?,
            p99: microseconds(line("99%")?)?,
            requests: requests.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_report_is_read() {
        let text = "Running 1s test @ http://127.0.0.1:5301/
  Latency Distribution
     50%  256.00us
     75%  301.00us
     90%  350.00us
     99%    1.25ms
  58213 requests in 1.10s, 8.66MB read
Requests/sec:  52907.42
Transfer/sec:      7.87MB
";
        let expected = Wrk { rate: 52907.42, p50: 256.0, p99: 1250.0, requests: 58213.0 };
        assert_eq!(Wrk::of(text), Some(expected));
        assert_eq!(Wrk::of("unable to connect"), None);
    }
}
