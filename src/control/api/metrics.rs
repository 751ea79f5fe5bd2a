//! The same for Prometheus: `GET /ringtap/v1/metrics`, in its text format, version 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
//!
//! Names begin with `ringtap_`; times are seconds. Buckets end at powers of two, because no bin spans one, so that their
//! counts are exact.

use crate::buf::Class;
use crate::control::ports::Ports;
use crate::flow::bins::Snapshot;
use crate::flow::{DropReason, Limit};
use crate::msg::stats::BufferStats;
use crate::msg::{PlaneStats, PortCounters};
use std::fmt::{Display, Write as _};

/// What the format is called in an answer.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A text that grows by one family of metrics after the other.
#[derive(Default)]
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP ringtap_{name} {help}\n# TYPE ringtap_{name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = match labels {
            "" => writeln!(self.0, "ringtap_{name} {value}"),
            _ => writeln!(self.0, "ringtap_{name}{{{labels}}} {value}"),
        };
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.line(name, "", value);
    }

    fn several(&mut self, name: &str, kind: &str, help: &str, label: &str, values: &[(&str, u64)]) {
        self.family(name, kind, help);
        for (of, value) in values {
            self.line(name, &format!("{label}=\"{of}\""), value);
        }
    }

    /// `scale` divides values, for seconds.
    fn histogram(
        &mut self,
        name: &str,
        labels: &str,
        told: &Snapshot,
        powers: std::ops::RangeInclusive<u32>,
        scale: f64,
    ) {
        let sep = if labels.is_empty() { "" } else { "," };
        for power in powers {
            // Bounds are inclusive: of whole numbers, those below a power of two.
            let bound =
                if scale > 1.0 { (1u64 << power) as f64 / scale } else { ((1u64 << power) - 1) as f64 };
            let bucket = format!("{labels}{sep}le=\"{bound}\"");
            self.line(&format!("{name}_bucket"), &bucket, told.below(power));
        }
        self.line(&format!("{name}_bucket"), &format!("{labels}{sep}le=\"+Inf\""), told.count);
        if scale > 1.0 {
            self.line(&format!("{name}_sum"), labels, told.sum as f64 / scale);
        } else {
            self.line(&format!("{name}_sum"), labels, told.sum);
        }
        self.line(&format!("{name}_count"), labels, told.count);
    }

    fn times(&mut self, name: &str, help: &str, told: &Snapshot) {
        self.family(name, "histogram", help);
        // 16 us to 67 s.
        self.histogram(name, "", told, 4..=26, 1e6);
    }
}

/// All of it.
pub fn text(s: &PlaneStats, ports: &Ports, counters: &[PortCounters]) -> String {
    let mut t = Text::default();
    t.family("build_info", "gauge", "The program.");
    t.line("build_info", &format!("version=\"{}\"", env!("CARGO_PKG_VERSION")), 1);
    let age = s.age_ms as f64 / 1e3;
    t.one("plane_age_seconds", "gauge", "Since the data plane began; its counters were zero then.", age);
    let c = &s.counters;
    let both = |up, down| [("from_guest", up), ("to_guest", down)];
    let frames = both(c.frames_from_guest, c.frames_to_guest);
    t.several("frames_total", "counter", "Frames on the tap.", "direction", &frames);
    let bytes = both(c.bytes_from_guest, c.bytes_to_guest);
    t.several("frame_bytes_total", "counter", "Bytes of frames on the tap.", "direction", &bytes);
    t.family("frame_size_bytes", "histogram", "Sizes of frames on the tap.");
    let h = &s.histograms;
    for (direction, told) in
        [("from_guest", &h.frame_bytes_from_guest), ("to_guest", &h.frame_bytes_to_guest)]
    {
        t.histogram("frame_size_bytes", &format!("direction=\"{direction}\""), told, 6..=17, 1.0);
    }
    for (name, help, value) in [
        ("flows_opened_total", "Flows opened.", c.flows_opened),
        ("flows_closed_total", "Flows closed.", c.flows_closed),
        ("flows_refused_total", "Flows refused for want of descriptors.", c.flows_refused),
        ("shown_as_gateway_total", "Injected clients shown as the gateway.", c.shown_as_gateway),
        ("published_refused_total", "Datagrams that nobody inside listened for.", c.published_refused),
    ] {
        t.one(name, "counter", help, value);
    }
    let live = [
        ("tcp", s.live.tcp),
        ("udp", s.live.udp),
        ("icmp", s.live.icmp),
        ("dns", s.live.dns),
        ("injected_udp", s.live.injected_udp),
        ("relay_tcp", s.live.relay_tcp),
        ("relay_udp", s.live.relay_udp),
    ];
    t.several("flows", "gauge", "Live flows.", "kind", &live);
    t.family("drops_total", "counter", "Frames, datagrams and flows refused.");
    for why in DropReason::ALL {
        t.line("drops_total", &format!("reason=\"{}\"", snake(&format!("{why:?}"))), c.dropped(why));
    }
    t.family("limit_met_total", "counter", "Times that the guest met one of its limits.");
    for which in Limit::ALL {
        let label = format!("limit=\"{}\"", snake(&format!("{which:?}")));
        t.line("limit_met_total", &label, c.limited(which));
    }
    t.family("wakeup_submissions", "histogram", "Entries submitted by each wake-up.");
    t.histogram("wakeup_submissions", "", &h.submitted_per_wakeup, 0..=10, 1.0);
    t.family("wakeup_completions", "histogram", "Completions handled by each wake-up.");
    t.histogram("wakeup_completions", "", &h.completed_per_wakeup, 0..=7, 1.0);
    t.times("connect_host_seconds", "From the guest's SYN to the host's connection.", &h.connect_host_us);
    t.times("connect_guest_seconds", "From a client's connection to the server's.", &h.connect_guest_us);
    t.times("first_byte_seconds", "From a client's connection to its first byte.", &h.first_byte_us);
    t.times("dns_seconds", "From a question at the DNS address to its answer.", &h.dns_us);
    for (name, help, value) in [
        ("ring_enters_total", "Times the kernel was entered.", s.ring.enters),
        ("ring_submitted_total", "Entries submitted.", s.ring.submitted),
        ("ring_completed_total", "Completions taken.", s.ring.completed),
        ("ring_queue_full_total", "Times the submission queue was full.", s.ring.queue_full),
        ("ring_starved_total", "Receives that ended for want of a buffer.", s.ring.starved),
        ("ring_refused_total", "Operations refused: too many in flight.", s.ring.refused),
        ("buffers_refused_total", "Requests for a buffer that found none.", s.buffers_refused),
        ("pipes_made_total", "Pipes made.", s.pipes.made),
        ("pipes_refused_total", "Times that there was no pipe to lend.", s.pipes.refused),
        ("pipes_spoiled_total", "Pipes closed with something in them.", s.pipes.spoiled),
    ] {
        t.one(name, "counter", help, value);
    }
    t.one("ring_inflight", "gauge", "Operations in flight.", s.ring.inflight);
    let named = |of: fn(&BufferStats) -> u64| -> Vec<(&str, u64)> {
        Class::ALL.iter().zip(&s.buffers).map(|(class, b)| (class.name(), of(b))).collect()
    };
    let held = named(|b| b.held);
    t.several("buffers_held", "gauge", "Buffers in use.", "class", &held);
    let total = named(|b| b.total);
    t.several("buffers", "gauge", "Buffers that there are.", "class", &total);
    let pipes = [("lent", s.pipes.lent), ("idle", s.pipes.idle)];
    t.several("pipes", "gauge", "Pipes that are open.", "state", &pipes);
    t.one("pipes_most", "gauge", "Pipes that there may be.", s.pipes.most);
    per_port(&mut t, ports, counters);
    t.0
}

fn per_port(t: &mut Text, ports: &Ports, counters: &[PortCounters]) {
    type Count = fn(&PortCounters) -> u64;
    let families: [(&str, &str, &str, Count); 7] = [
        ("port_accepted_total", "counter", "Clients accepted.", |c| c.accepted),
        ("port_open", "gauge", "Clients connected.", |c| c.open),
        ("port_refused_total", "counter", "Clients that the guest refused.", |c| c.refused),
        ("port_shed_total", "counter", "Clients turned away for want of room.", |c| c.shed),
        ("port_shown_as_gateway_total", "counter", "Clients shown as the gateway.", |c| c.shown_as_gateway),
        ("port_bytes_from_guest_total", "counter", "Payload bytes from the guest.", |c| c.bytes_up),
        ("port_bytes_to_guest_total", "counter", "Payload bytes to the guest.", |c| c.bytes_down),
    ];
    for (name, kind, help, count) in families {
        t.family(name, kind, help);
        for entry in ports.iter() {
            let id = entry.published.id;
            let seen = counters.binary_search_by_key(&id, |c| c.port).map_or(0, |i| count(&counters[i]));
            t.line(name, &format!("id=\"{id}\",port=\"{}\"", entry.text()), seen);
        }
    }
}

/// `BadChecksum` as `bad_checksum`.
fn snake(name: &str) -> String {
    let mut text = String::new();
    for (at, letter) in name.char_indices() {
        if letter.is_uppercase() && at > 0 {
            text.push('_');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Bins;

    #[test]
    fn every_line_is_one_of_the_format_and_buckets_add_up() {
        let mut bins = Bins::default();
        for us in [3, 17, 900, 70_000_000_000] {
            bins.record(us);
        }
        let mut stats = PlaneStats::default();
        stats.histograms.dns_us = bins.snapshot();
        stats.counters.drop(DropReason::BadChecksum);
        stats.counters.limit(Limit::HalfOpen);
        let text = text(&stats, &Ports::default(), &[]);
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(name.starts_with("ringtap_") && value.parse::<f64>().is_ok(), "{line}");
        }
        for line in [
            "ringtap_drops_total{reason=\"bad_checksum\"} 1",
            "ringtap_drops_total{reason=\"no_room\"} 0",
            "ringtap_limit_met_total{limit=\"half_open\"} 1",
            "ringtap_limit_met_total{limit=\"flows\"} 0",
            "ringtap_dns_seconds_bucket{le=\"0.000016\"} 1",
            "ringtap_dns_seconds_bucket{le=\"0.000032\"} 2",
            "ringtap_dns_seconds_bucket{le=\"0.001024\"} 3",
            "ringtap_dns_seconds_bucket{le=\"+Inf\"} 4",
            "ringtap_dns_seconds_count 4",
            "# TYPE ringtap_dns_seconds histogram",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        // Every family is introduced once, and whole numbers have whole bounds.
        let types: Vec<_> = text.lines().filter(|l| l.starts_with("# TYPE")).collect();
        let mut once = types.clone();
        once.dedup();
        assert_eq!(types, once);
        assert!(text.contains("ringtap_frame_size_bytes_bucket{direction=\"to_guest\",le=\"1023\"} 0"));
    }
}
