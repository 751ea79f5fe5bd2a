//! Which path the clients of a port take, given what was asked for and what the namespace can do.
//!
//! A relay keeps a client's address only where answers were steered back to us ([`crate::netns::steer`]). What could not
//! be kept goes through the tap instead: decided once for each port, before its listeners are served, so that no client
//! ever waits for an answer that cannot come. A port of both families needs both. A port that is to show the gateway
//! needs no steering: where there is none its server sees the namespace itself in the gateway's place.

use crate::config::port_spec::Families;
use crate::config::{Dial, Network, PortSpec, SourceIp, Via};
use crate::msg::Steering;
use std::net::IpAddr;

/// What is known of the namespace's side of relays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Inside {
    /// Not asked yet, or not answered. Relayed ports wait.
    #[default]
    Unknown,
    /// There is a socket factory, and answers are steered so far.
    Steered {
        /// For IPv4 clients.
        v4: Steering,
        /// For IPv6 clients.
        v6: Steering,
    },
    /// No socket factory.
    Gone,
}

/// What was decided; `None` while that is not possible.
pub fn decide(spec: &PortSpec, network: &Network, inside: &Inside) -> Option<(Via, Dial)> {
    if spec.options.via == Some(Via::Tap) {
        return Some((Via::Tap, Dial::default()));
    }
    let (v4, v6) = match inside {
        Inside::Unknown => return None,
        Inside::Gone => return Some((Via::Tap, Dial::default())),
        Inside::Steered { v4, v6 } => (v4, v6),
    };
    let named = spec.guest_ip.filter(|ip| !ip.is_unspecified());
    // Clients of the other family than the server's are shown as the gateway of the server's.
    let (on_v4, on_v6) = match (named, spec.families) {
        (Some(ip), _) => (ip.is_ipv4(), ip.is_ipv6()),
        (None, Families::V4) => (true, false),
        (None, Families::V6) => (network.v6.is_none(), true),
        (None, Families::Any) => (true, network.v6.is_some()),
    };
    let needed = [on_v4.then_some(v4), on_v6.then_some(v6)];
    if needed.iter().flatten().all(|s| **s == Steering::Full) {
        return Some((Via::Relay, Dial::Transparent));
    }
    let own = [Some(network.guest_v4().into()), network.guest_v6().map(IpAddr::V6)];
    let local = !spec.udp && named.is_none_or(|ip| ip.is_loopback() || own.contains(&Some(ip)));
    if local && !needed.iter().flatten().any(|s| matches!(s, Steering::Off(_))) {
        return Some((Via::Relay, Dial::Loopback));
    }
    match spec.options.source_ip.unwrap_or_default() {
        SourceIp::Gateway => Some((Via::Relay, Dial::Plain)),
        SourceIp::Preserve => Some((Via::Tap, Dial::default())),
    }
}

/// Why ports go through the tap although that was not asked for, in one line; `None` if steering is complete.
pub fn why(inside: &Inside) -> Option<String> {
    let Inside::Steered { v4, v6 } = inside else { return None };
    let (what, why) = match (v4, v6) {
        (Steering::Off(why), _) | (_, Steering::Off(why)) => ("", why),
        (Steering::LocalTcp(why), _) | (_, Steering::LocalTcp(why)) => {
            ("datagrams and what leads to other addresses inside: ", why)
        }
        (Steering::Full, Steering::Full) => return None,
    };
    Some(format!(
        "published ports go through the tap where only that keeps their clients' addresses; {what}{why}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn off() -> Steering {
        Steering::Off("no".into())
    }

    fn local() -> Steering {
        Steering::LocalTcp("no".into())
    }

    fn ask(spec: &str, v4: Steering, v6: Steering) -> (Via, Dial) {
        decide(&spec.parse().unwrap(), &Network::default(), &Inside::Steered { v4, v6 }).unwrap()
    }

    #[test]
    fn all_are_relayed_where_answers_are_steered_and_none_without_a_factory() {
        for spec in ["80", "53/udp", "80:172.17.0.2:80", "80,source=gateway"] {
            assert_eq!(ask(spec, Steering::Full, Steering::Full), (Via::Relay, Dial::Transparent), "{spec}");
            let (parsed, network) = (spec.parse().unwrap(), Network::default());
            assert_eq!(decide(&parsed, &network, &Inside::Unknown), None);
            assert_eq!(decide(&parsed, &network, &Inside::Gone).unwrap().0, Via::Tap);
        }
        assert_eq!(ask("80,via=tap", Steering::Full, Steering::Full).0, Via::Tap);
    }

    #[test]
    fn half_a_steering_relays_streams_to_the_namespace_itself() {
        for spec in ["80", "80:127.0.0.1:80", "80:10.0.2.100:80", "80,source=gateway"] {
            assert_eq!(ask(spec, local(), local()), (Via::Relay, Dial::Loopback), "{spec}");
        }
        assert_eq!(ask("53/udp", local(), local()).0, Via::Tap);
        assert_eq!(ask("80:172.17.0.2:80", local(), local()).0, Via::Tap);
        assert_eq!(ask("53/udp,source=gateway", local(), local()), (Via::Relay, Dial::Plain));
    }

    #[test]
    fn without_any_only_the_gateway_is_relayed_and_families_count_where_they_matter() {
        assert_eq!(ask("80", off(), off()).0, Via::Tap);
        assert_eq!(ask("80,source=gateway", off(), off()), (Via::Relay, Dial::Plain));
        assert_eq!(ask("80", Steering::Full, off()).0, Via::Tap);
        assert_eq!(ask("0.0.0.0:80:80", Steering::Full, off()).0, Via::Relay);
        assert_eq!(ask("80:172.17.0.2:80", Steering::Full, off()).0, Via::Relay);
        assert_eq!(ask("[::]:80:80", Steering::Full, off()).0, Via::Tap);
        let (spec, v4_only) = ("80".parse().unwrap(), Network { v6: None, ..Network::default() });
        let inside = Inside::Steered { v4: Steering::Full, v6: off() };
        assert_eq!(decide(&spec, &v4_only, &inside).unwrap().0, Via::Relay);
        assert!(why(&inside).unwrap().ends_with("no"));
    }
}
