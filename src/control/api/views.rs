//! What the API's answers look like as JSON.

use crate::config::network::MAX_FRAME;
use crate::config::port_spec::Families;
use crate::config::rootlesskit_spec::PROTOCOLS;
use crate::config::{Network, PortId, ProxyProtocol, RootlessKitSpec, SourceIp, Via};
use crate::control::ports::{Asked, Entry};
use crate::flow::{DropReason, Limit, PlaneCounters};
use crate::msg::PortCounters;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// Version of RootlessKit's API that is spoken.
pub const API_VERSION: &str = "1.1.2";

/// Answer to `GET /v1/info`, ours and RootlessKit's. What an instance leaves out stays out when it is shown again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Info {
    /// Ours: [`API_VERSION`].
    pub api_version: String,
    /// Ours, or that of the program whose place we take.
    pub version: String,
    /// Absolute.
    pub state_dir: String,
    /// The first process of the namespaces; 0 where there is none that we know.
    #[serde(rename = "childPID")]
    pub child_pid: i32,
    /// Docker wants it to be there. None if the network is the host's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_driver: Option<NetworkDriver>,
    /// None if no ports can be published by the API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port_driver: Option<PortDriver>,
}

impl Info {
    /// Of a running instance.
    pub fn new(network: &Network, drivers: &Drivers, state: &Path, child_pid: i32) -> Self {
        let dns =
            std::iter::once(network.dns_v4().to_string()).chain(network.dns_v6().map(|a| a.to_string()));
        let network_driver = drivers.network.map(|driver| NetworkDriver {
            driver: driver.to_owned(),
            dns: if network.dns { dns.collect() } else { Vec::new() },
            child_ip: network.guest_v4().to_string(),
            dynamic_child_ip: false,
            ipv6: network.v6.is_some(),
        });
        Self {
            api_version: API_VERSION.to_owned(),
            version: drivers.version.to_owned(),
            state_dir: state.display().to_string(),
            child_pid,
            network_driver,
            port_driver: drivers.port.clone(),
        }
    }
}

/// What the API says that we are.
#[derive(Clone, Debug)]
pub struct Drivers {
    /// Of the program.
    pub version: &'static str,
    /// Of the network; none if it is the host's.
    pub network: Option<&'static str>,
    /// Of published ports; without one the API neither adds nor removes any.
    pub port: Option<PortDriver>,
}

impl Default for Drivers {
    fn default() -> Self {
        let port = PortDriver::new("ringtap", &PROTOCOLS, false);
        Self { version: env!("CARGO_PKG_VERSION"), network: Some("ringtap"), port: Some(port) }
    }
}

/// Part of [`Info`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkDriver {
    /// Its name.
    pub driver: String,
    /// Resolvers inside.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<String>,
    /// The guest's address.
    #[serde(rename = "childIP", skip_serializing_if = "String::is_empty")]
    pub child_ip: String,
    /// That may change. Ours does not.
    #[serde(rename = "dynamicChildIP", skip_serializing_if = "std::ops::Not::not")]
    pub dynamic_child_ip: bool,
    /// IPv6 works inside.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ipv6: bool,
}

/// Part of [`Info`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortDriver {
    /// Its name.
    pub driver: String,
    /// What can be published.
    pub protos: Vec<String>,
    /// Servers on the guest's loopback cannot be reached; Docker lets its proxies listen at the guest's address then.
    #[serde(rename = "disallowLoopbackChildIP", skip_serializing_if = "std::ops::Not::not")]
    pub disallow_loopback_child_ip: bool,
}

impl PortDriver {
    /// One of ours.
    pub fn new(driver: &str, protos: &[&str], disallow_loopback_child_ip: bool) -> Self {
        let protos = protos.iter().map(|proto| (*proto).to_owned()).collect();
        Self { driver: driver.to_owned(), protos, disallow_loopback_child_ip }
    }
}

/// RootlessKit's view of a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its id.
    pub id: PortId,
    /// As it was asked for.
    pub spec: RootlessKitSpec,
}

impl Status {
    /// One for each port of an entry: RootlessKit knows no ranges.
    pub fn of(entry: &Entry) -> impl Iterator<Item = Self> {
        let spec = match &entry.asked {
            Asked::RootlessKit(spec) => spec.clone(),
            Asked::Spec(_) => translated(entry),
        };
        let id = entry.published.id;
        (0..i64::from(entry.published.count)).map(move |n| {
            let (parent_port, child_port) = (spec.parent_port + n, spec.child_port + n);
            Self { id, spec: RootlessKitSpec { parent_port, child_port, ..spec.clone() } }
        })
    }
}

fn translated(entry: &Entry) -> RootlessKitSpec {
    let text = |ip: Option<IpAddr>| ip.map(|ip| ip.to_string()).unwrap_or_default();
    let suffix = match entry.spec.families {
        Families::Any => "",
        Families::V4 => "4",
        Families::V6 => "6",
    };
    RootlessKitSpec {
        proto: format!("{}{suffix}", protocol(entry)),
        parent_ip: text(entry.spec.host_ip),
        parent_port: entry.host_port.into(),
        child_port: entry.published.guest_port.into(),
        child_ip: text(entry.published.guest_ip),
    }
}

const fn protocol(entry: &Entry) -> &'static str {
    if entry.published.udp { "udp" } else { "tcp" }
}

/// Our own view of a port or range; `ringtap port` reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortView {
    /// Its id.
    pub id: PortId,
    /// As one would type it, with the port that was picked.
    pub spec: String,
    /// tcp or udp.
    pub protocol: String,
    /// Address of the host; none: any of both families.
    #[serde(rename = "hostIP")]
    pub host_ip: Option<IpAddr>,
    /// First port of the host.
    pub host_port: u16,
    /// Address in the guest, if one was given.
    #[serde(rename = "guestIP")]
    pub guest_ip: Option<IpAddr>,
    /// First port in the guest.
    pub guest_port: u16,
    /// Ports in all.
    pub count: u16,
    /// The host's port was picked.
    pub picked: bool,
    /// relay or tap.
    pub via: String,
    /// preserve or gateway.
    #[serde(rename = "sourceIP")]
    pub source_ip: String,
    /// v1 or v2, if any.
    pub proxy_protocol: Option<String>,
    /// What it has carried, once something has come.
    pub counters: Option<PortCounters>,
}

impl PortView {
    /// Of an entry.
    pub fn of(entry: &Entry, counters: Option<PortCounters>) -> Self {
        let p = &entry.published;
        Self {
            id: p.id,
            spec: entry.text(),
            protocol: protocol(entry).to_owned(),
            host_ip: entry.spec.host_ip,
            host_port: entry.host_port,
            guest_ip: p.guest_ip,
            guest_port: p.guest_port,
            count: p.count,
            picked: entry.picked,
            via: match p.via {
                Via::Relay => "relay",
                Via::Tap => "tap",
            }
            .to_owned(),
            source_ip: match p.source_ip {
                SourceIp::Preserve => "preserve",
                SourceIp::Gateway => "gateway",
            }
            .to_owned(),
            proxy_protocol: p.proxy_protocol.map(|v| match v {
                ProxyProtocol::V1 => "v1".to_owned(),
                ProxyProtocol::V2 => "v2".to_owned(),
            }),
            counters,
        }
    }
}

/// Body of `POST /ringtap/v1/ports`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddPort {
    /// As behind `-p`.
    pub spec: String,
}

/// Body of `POST /ringtap/v1/capture`: the connection becomes a pcapng stream, until its other end is shut down for writing.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capture {
    /// The id of a flow: frames of that one only.
    #[serde(default)]
    pub flow: Option<String>,
    /// Bytes to keep of each frame.
    #[serde(default = "whole_frames")]
    pub snaplen: u32,
}

const fn whole_frames() -> u32 {
    MAX_FRAME
}

/// Body of `POST /ringtap/v1/targets`: what is published to an address inside is to go to another one. Docker's proxies ask
/// for it, who know the container behind the address that they listen at.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// tcp or udp.
    pub protocol: String,
    /// As published.
    pub from: SocketAddr,
    /// Where to.
    pub to: SocketAddr,
}

/// Answer to `POST /ringtap/v1/targets`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Redirected {
    /// How many ports.
    pub ports: usize,
}

/// Answer to `GET /ringtap/v1/counters`: [`PlaneCounters`] by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "each is documented where it is counted")]
pub struct Counters {
    pub frames_from_guest: u64,
    pub bytes_from_guest: u64,
    pub frames_to_guest: u64,
    pub bytes_to_guest: u64,
    pub flows_opened: u64,
    pub flows_closed: u64,
    pub flows_refused: u64,
    pub shown_as_gateway: u64,
    pub published_refused: u64,
    pub buffers_held: u64,
    /// By reason.
    pub drops: BTreeMap<String, u64>,
    /// How often each limit was met.
    pub limited: BTreeMap<String, u64>,
}

impl From<&PlaneCounters> for Counters {
    fn from(c: &PlaneCounters) -> Self {
        let camel = |why: &dyn Debug| {
            let mut name = format!("{why:?}");
            name[..1].make_ascii_lowercase();
            name
        };
        Self {
            frames_from_guest: c.frames_from_guest,
            bytes_from_guest: c.bytes_from_guest,
            frames_to_guest: c.frames_to_guest,
            bytes_to_guest: c.bytes_to_guest,
            flows_opened: c.flows_opened,
            flows_closed: c.flows_closed,
            flows_refused: c.flows_refused,
            shown_as_gateway: c.shown_as_gateway,
            published_refused: c.published_refused,
            buffers_held: c.buffers_held,
            drops: DropReason::ALL.into_iter().map(|why| (camel(&why), c.dropped(why))).collect(),
            limited: Limit::ALL.into_iter().map(|which| (camel(&which), c.limited(which))).collect(),
        }
    }
}
