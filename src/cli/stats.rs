//! `ringtap stats`: what an instance has counted and measured.

use super::CliError;
use super::instance::InstanceArgs;
use super::port::client::{Client, ClientError};
use super::table::{age, bytes, micros, table};
use super::watch::{Every, show};
use crate::control::api::stats::{HistogramView, StatsView};
use clap::Args;
use std::collections::BTreeMap;
use std::time::Duration;

/// Options of `stats`.
#[derive(Debug, Args)]
pub struct StatsArgs {
    #[command(flatten)]
    instance: InstanceArgs,
    #[command(flatten)]
    every: Every,
    /// One JSON object for each look
    #[arg(long, conflicts_with = "prometheus")]
    json: bool,
    /// In the text format of Prometheus, with counters by port
    #[arg(long)]
    prometheus: bool,
}

impl StatsArgs {
    /// Shows it.
    ///
    /// # Errors
    /// [`CliError`].
    pub fn run(self) -> Result<u8, CliError> {
        let client = self.instance.find()?;
        let mut before: Option<StatsView> = None;
        for period in self.every.looks() {
            // The first look is at once, the last is not waited for.
            if before.is_some() {
                std::thread::sleep(period.unwrap_or_default());
            }
            let stats: StatsView = client.get("/ringtap/v1/stats")?;
            let text = if self.prometheus {
                prometheus(&client)?
            } else if self.json {
                serde_json::to_string(&stats).map_err(ClientError::answer)? + "\n"
            } else {
                listing(&stats, before.as_ref())
            };
            if !show(&text, period.is_some() && !self.json && !self.prometheus) {
                break;
            }
            before = Some(stats);
        }
        Ok(0)
    }
}

fn prometheus(client: &Client) -> Result<String, ClientError> {
    let text = client.call("GET", "/ringtap/v1/metrics", None)?;
    String::from_utf8(text).map_err(ClientError::answer)
}

/// Counters with what was added each second since the look before, gauges, and distributions.
fn listing(now: &StatsView, before: Option<&StatsView>) -> String {
    // A younger plane has taken the place of the one looked at before.
    let before = before.filter(|b| b.age_ms < now.age_ms);
    let seconds = before.map(|b| (now.age_ms - b.age_ms) as f64 / 1e3);
    let row = |name: &str, get: fn(&StatsView) -> u64, show: fn(u64) -> String| {
        let value = get(now);
        let rate =
            before.zip(seconds).map(|(b, s)| show((value.saturating_sub(get(b)) as f64 / s) as u64) + "/s");
        [name.to_owned(), show(value), rate.unwrap_or_default()]
    };
    let plain: fn(u64) -> String = |n| n.to_string();
    let mut rows = vec![
        row("frames from the guest", |s| s.counters.frames_from_guest, plain),
        row("  bytes", |s| s.counters.bytes_from_guest, bytes),
        row("frames to the guest", |s| s.counters.frames_to_guest, plain),
        row("  bytes", |s| s.counters.bytes_to_guest, bytes),
        row("flows opened", |s| s.counters.flows_opened, plain),
        row("flows closed", |s| s.counters.flows_closed, plain),
        row("flows refused", |s| s.counters.flows_refused, plain),
        row("injected clients shown as the gateway", |s| s.counters.shown_as_gateway, plain),
        row("datagrams that nobody inside wanted", |s| s.counters.published_refused, plain),
        row("ring: kernel entered", |s| s.ring.enters, plain),
        row("  entries submitted", |s| s.ring.submitted, plain),
        row("  completions", |s| s.ring.completed, plain),
        row("  queue full", |s| s.ring.queue_full, plain),
        row("  receives without a buffer", |s| s.ring.starved, plain),
        row("buffers that were missing", |s| s.buffers.refused, plain),
        row("pipes made", |s| s.pipes.made, plain),
        row("  missing", |s| s.pipes.refused, plain),
        row("  spoiled", |s| s.pipes.spoiled, plain),
    ];
    // What never came up says nothing.
    let mut named = |kind: &str, of: fn(&StatsView) -> &BTreeMap<String, u64>| {
        for (why, count) in of(now).iter().filter(|(_, count)| **count > 0) {
            let old = before.and_then(|b| of(b).get(why)).copied().unwrap_or(0);
            let rate = seconds.map(|s| format!("{}/s", (count.saturating_sub(old) as f64 / s) as u64));
            rows.push([format!("{kind}: {why}"), count.to_string(), rate.unwrap_or_default()]);
        }
    };
    named("dropped", |s| &s.counters.drops);
    named("limit met", |s| &s.counters.limited);
    let b = &now.buffers;
    let held = |name: &str, b: crate::msg::stats::BufferStats| format!("{name} {}/{}", b.held, b.total);
    let l = now.live;
    let gauges = [
        ("up", age(Duration::from_millis(now.age_ms))),
        (
            "live flows",
            format!(
                "tcp {}, udp {}, icmp {}, dns {}, injected udp {}, relay tcp {}, relay udp {}",
                l.tcp, l.udp, l.icmp, l.dns, l.injected_udp, l.relay_tcp, l.relay_udp
            ),
        ),
        (
            "buffers in use",
            [
                held("tap", b.tap),
                held("host", b.host),
                held("small", b.small),
                held("relay", b.relay),
                held("message", b.message),
            ]
            .join(", "),
        ),
        ("pipes", format!("{} lent, {} idle, {} at most", now.pipes.lent, now.pipes.idle, now.pipes.most)),
        ("operations in flight", now.ring.inflight.to_string()),
    ];
    let gauges = table(gauges.map(|(name, value)| [name.to_owned(), value]));
    format!("{gauges}\n{}\n{}", table(rows), distributions(now))
}

fn distributions(now: &StatsView) -> String {
    let h = &now.histograms;
    let plain: fn(u64) -> String = |n| n.to_string();
    let row = |name: &str, h: &HistogramView, show: fn(u64) -> String| {
        let mean = h.sum.checked_div(h.count).map_or_else(|| "-".to_owned(), show);
        let quantiles =
            [h.p50, h.p90, h.p99, h.p999, h.max].map(|v| if h.count > 0 { show(v) } else { "-".to_owned() });
        let [p50, p90, p99, p999, max] = quantiles;
        [name.to_owned(), h.count.to_string(), mean, p50, p90, p99, p999, max]
    };
    let head = ["", "COUNT", "MEAN", "P50", "P90", "P99", "P99.9", "MAX"].map(str::to_owned);
    table([
        head,
        row("frame from the guest, bytes", &h.frame_bytes_from_guest, plain),
        row("frame to the guest, bytes", &h.frame_bytes_to_guest, plain),
        row("submissions a wake-up", &h.submitted_per_wakeup, plain),
        row("completions a wake-up", &h.completed_per_wakeup, plain),
        row("connecting to the host's side", &h.connect_host_us, micros),
        row("connecting to the guest", &h.connect_guest_us, micros),
        row("accept to first byte", &h.first_byte_us, micros),
        row("DNS", &h.dns_us, micros),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{DropReason, Limit};
    use crate::msg::PlaneStats;

    #[test]
    fn rates_are_differences_and_a_new_plane_has_none() {
        let mut stats = PlaneStats { age_ms: 1000, ..PlaneStats::default() };
        stats.counters.frames_from_guest = 100;
        let before = StatsView::from(&stats);
        stats.age_ms = 3000;
        stats.counters.frames_from_guest = 400;
        stats.counters.drop(DropReason::Policy);
        stats.counters.limit(Limit::NewFlows);
        let now = StatsView::from(&stats);
        let text = listing(&now, Some(&before));
        let line = |text: &str, name: &str| {
            let line = text.lines().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("{name}: {text}"));
            line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(line(&text, "frames from the guest")[4..], ["400", "150/s"]);
        assert_eq!(line(&text, "dropped: policy")[2..], ["1", "0/s"]);
        assert_eq!(line(&text, "limit met: newFlows")[3..], ["1", "0/s"]);
        assert!(!text.contains("malformed") && !text.contains("halfOpen"));
        assert_eq!(line(&listing(&before, Some(&now)), "frames from the guest")[4..], ["100"]);
        assert_eq!(line(&listing(&now, None), "DNS")[1..3], ["0", "-"]);
    }
}
