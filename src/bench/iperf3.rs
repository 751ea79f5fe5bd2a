//! iperf3 as a measure: what the loads of our own are held against, and what `perf/` moves bulk with.

use crate::lab::{LabError, Place, Running};
use serde_json::Value;
use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::process::Stdio;
use std::time::Duration;

/// What one transfer came to.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// Received, in bits a second.
    pub rate: f64,
    /// Received.
    pub bytes: f64,
}

/// An iperf3 server at `at`, port 5201.
///
/// # Errors
/// It does not start.
pub fn server(place: Place<'_>, at: IpAddr) -> Result<Running, LabError> {
    let mut iperf3 = place.command("iperf3")?;
    place.spawn(iperf3.args(["-s", "-B", &at.to_string()]).stdout(Stdio::null()))
}

/// `streams` streams from `place` for so many seconds.
///
/// # Errors
/// What iperf3 said in the end.
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
        if let Some(transfer) = transfer_of(&json) {
            return Ok(transfer);
        }
        said = json["error"].as_str().unwrap_or("no figures").to_owned();
        std::thread::sleep(Duration::from_millis(100));
    }
    Err(io::Error::other(format!("iperf3: {said}")).into())
}

/// What arrived: of TCP, what the receiver counted; of UDP, the sum less what was lost.
fn transfer_of(json: &Value) -> Option<Transfer> {
    let number = |of: &Value, name: &str| of[name].as_f64();
    let received = &json["end"]["sum_received"];
    if let (Some(rate), Some(bytes)) = (number(received, "bits_per_second"), number(received, "bytes"))
        && bytes > 0.0
    {
        return Some(Transfer { rate, bytes });
    }
    let sum = &json["end"]["sum"];
    let share = 1.0 - number(sum, "lost_percent")? / 100.0;
    let (rate, bytes) = (number(sum, "bits_per_second")? * share, number(sum, "bytes")? * share);
    (bytes > 0.0).then_some(Transfer { rate, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_receivers_count_is_taken_and_losses_come_off() {
        let tcp = json!({"end": {"sum_received": {"bits_per_second": 8e9, "bytes": 1e9}}});
        let seen = transfer_of(&tcp).unwrap();
        assert_eq!((seen.rate, seen.bytes), (8e9, 1e9));
        let udp = json!({"end": {"sum": {"bits_per_second": 8e9, "bytes": 1e9, "lost_percent": 25.0}}});
        assert_eq!(transfer_of(&udp).unwrap().bytes, 0.75e9);
        assert!(transfer_of(&json!({"error": "the server is busy"})).is_none());
    }
}
