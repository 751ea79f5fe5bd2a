//! What an instance says of itself: `GET /ringtap/v1/instance`, for `ringtap ps` and whoever explains a connection.

use crate::config::Network;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What does not change while an instance runs.
#[derive(Debug)]
pub struct Facts {
    /// How it was started: `run`, `attach`, `rootlesskit`.
    pub verb: &'static str,
    /// A path to its network namespace, as the host sees it.
    pub netns: Option<String>,
    began: Instant,
    started: SystemTime,
}

impl Facts {
    /// Of an instance that begins now.
    pub fn new(verb: &'static str, netns: Option<String>) -> Self {
        Self { verb, netns, began: Instant::now(), started: SystemTime::now() }
    }
}

/// An instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceView {
    /// The last part of the state directory's path.
    pub name: String,
    /// How it was started.
    pub verb: String,
    /// Of the program.
    pub version: String,
    /// The process that was started, which controls the others.
    pub pid: u32,
    /// The data plane, unless the network is the host's.
    #[serde(rename = "planePID")]
    pub plane_pid: Option<u32>,
    /// The first process of the namespaces, if it is known.
    #[serde(rename = "childPID")]
    pub child_pid: Option<u32>,
    /// Absolute.
    pub state_dir: String,
    /// When it began, in milliseconds since 1970.
    pub started_ms: u64,
    /// How long ago that was, in milliseconds.
    pub uptime_ms: u64,
    /// A path to the network namespace, as the host sees it.
    pub netns: Option<String>,
    /// The network inside; none if it is the host's.
    pub network: Option<NetworkView>,
}

/// The network inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkView {
    /// The tap.
    pub ifname: String,
    /// Its MTU.
    pub mtu: u16,
    /// The guest's addresses, with the lengths of their prefixes.
    pub addresses: Vec<String>,
    /// The gateway's.
    pub gateways: Vec<IpAddr>,
    /// Where names are asked for.
    pub dns: Vec<IpAddr>,
    /// The gateway's addresses stand for the host's loopback.
    pub host_loopback: bool,
}

impl From<&Network> for NetworkView {
    fn from(net: &Network) -> Self {
        let v6 = net.guest_v6().zip(net.v6).map(|(ip, net)| format!("{ip}/{}", net.prefix_len()));
        let addresses = [format!("{}/{}", net.guest_v4(), net.v4.prefix_len())].into_iter().chain(v6);
        let both = |v4, v6: Option<_>| std::iter::once(IpAddr::V4(v4)).chain(v6.map(IpAddr::V6)).collect();
        Self {
            ifname: net.ifname.clone(),
            mtu: net.mtu,
            addresses: addresses.collect(),
            gateways: both(net.gateway_v4(), net.gateway_v6()),
            dns: if net.dns { both(net.dns_v4(), net.dns_v6()) } else { Vec::new() },
            host_loopback: net.policy.allow_host_loopback,
        }
    }
}

impl InstanceView {
    /// Of this process.
    pub fn of(facts: &Facts, state: &Path, child_pid: i32, network: Option<&Network>) -> Self {
        let millis = |t: Duration| u64::try_from(t.as_millis()).unwrap_or(u64::MAX);
        let plane = std::fs::read_to_string(state.join("plane_pid")).ok();
        Self {
            name: state.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            verb: facts.verb.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            plane_pid: plane.and_then(|text| text.trim().parse().ok()),
            child_pid: u32::try_from(child_pid).ok().filter(|pid| *pid > 0),
            state_dir: state.display().to_string(),
            started_ms: facts.started.duration_since(UNIX_EPOCH).map(millis).unwrap_or_default(),
            uptime_ms: millis(facts.began.elapsed()),
            netns: facts.netns.clone(),
            network: network.map(NetworkView::from),
        }
    }
}
