//! What people and programs write: requests of both APIs, ports, rules, the host's resolv.conf, networks.

use super::input::Input;
use ringtap::config::{Exposed, Network, PortSpec, Resolvers, RootlessKitSpec, Rule, rule};
use ringtap::control::api::http::{self, Parsed};
use ringtap::control::api::views::{AddPort, Target};
use ringtap::control::slirp4netns::api as slirp;
use std::net::Ipv4Addr;

/// A conversation on `api.sock`: pipelined requests, however they are cut.
pub fn http(data: &[u8]) {
    let mut held = data;
    while let Ok(Parsed::Complete(request, length)) = http::parse(held) {
        assert!(length > 0 && length <= held.len());
        assert!(request.body.len() <= http::MAX_BODY);
        // Whatever arrives later cannot change what has been read, and less is never more.
        let again = http::parse(&held[..length]);
        assert_eq!(again, Ok(Parsed::Complete(request.clone(), length)));
        if let Ok(Parsed::Complete(..)) = http::parse(&held[..length - 1]) {
            panic!("complete before its end");
        }
        request.parameter("from");
        held = &held[length..];
    }
}

/// Bodies of the REST API, and the API of slirp4netns, errors as they go to the client.
pub fn api(data: &[u8]) {
    if let Ok(spec) = serde_json::from_slice::<RootlessKitSpec>(data) {
        match spec.resolve(|| Some(Ipv4Addr::new(192, 0, 2, 1))) {
            Ok(spec) => said_again(&spec),
            Err(e) => assert!(!e.to_string().is_empty()),
        }
    }
    if let Ok(add) = serde_json::from_slice::<AddPort>(data) {
        ports(add.spec.as_bytes());
    }
    let _ = serde_json::from_slice::<Target>(data);
    match slirp::parse(data) {
        Ok(request) => {
            assert!(data.len() < slirp::MAX_REQUEST);
            if let Some(request) = request {
                asked(&request);
            }
        }
        Err(refused) => assert!(refused.to_value()["error"]["desc"].is_string()),
    }
}

/// A request that names no host port at which a socket could be bound here: 0 is refused, and so are the addresses below.
fn asked(request: &serde_json::Value) {
    let mut request = request.clone();
    if let Some(host) = request.pointer_mut("/arguments/host_addr")
        && (host.is_string() || host.is_null())
    {
        // Documentation's network: bind(2) says that it is not ours.
        *host = "192.0.2.1".into();
    } else if let Some(arguments) = request.pointer_mut("/arguments").and_then(|a| a.as_object_mut()) {
        arguments.insert("host_addr".into(), "192.0.2.1".into());
    }
    let Ok(plane) = ringtap::msg::Channel::closed() else { return };
    let mut ports = ringtap::control::ports::Ports::default();
    let answer = slirp::answer(&mut ports, &Network::default(), &request, &plane);
    let error = answer["error"]["desc"].is_string();
    assert!(error != answer["return"].is_object(), "{answer}");
}

/// What a port is said to be can be read again and is the same.
fn said_again(spec: &PortSpec) {
    let text = spec.to_string();
    let again: PortSpec = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
    assert_eq!(again.to_string(), text);
}

/// Ports as behind `-p`, as RootlessKit takes them, and of the host's loopback.
pub fn ports(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match text.parse::<PortSpec>() {
        Ok(spec) => said_again(&spec),
        Err(e) => assert!(!e.to_string().contains('\n') || text.contains('\n')),
    }
    if let Ok(spec) = text.parse::<RootlessKitSpec>()
        && let Ok(spec) = spec.resolve(|| None)
    {
        said_again(&spec);
    }
    if let Ok(exposed) = text.parse::<Exposed>() {
        assert_eq!(exposed.to_string().parse(), Ok(exposed));
    }
}

/// Rules, networks, and the host's resolv.conf.
pub fn config(data: &[u8]) {
    let mut input = Input::new(data);
    let (deny, to) = (input.u8() & 1 == 1, [input.u8(), input.u8(), input.u8(), input.u8()]);
    let port = input.u16();
    let text = String::from_utf8_lossy(input.rest());
    let texts: Vec<String> = text.lines().map(str::to_owned).collect();
    for line in &texts {
        if let Ok(rules) = Rule::parse(line, deny) {
            assert!((1..=2).contains(&rules.len()));
            for rule in &rules {
                assert_eq!(rule.net, rule.net.trunc());
                assert!(rule.ports.is_none_or(|(first, last)| 0 < first && first <= last));
            }
            rule::admits(&rules, Ipv4Addr::from(to).into(), Some(port));
        }
        if let Ok(net) = line.parse()
            && let Ok(v4) = Network::check_v4(net)
        {
            let net = Network { v4, ..Network::default() };
            for ours in [net.gateway_v4(), net.dns_v4(), net.guest_v4(), net.dhcp_pool().1] {
                assert!(net.contains(ours.into()) && ours != v4.broadcast());
            }
        }
        if let Ok(net) = line.parse()
            && let Ok(v6) = Network::check_v6(net)
        {
            let net = Network { v6: Some(v6), ..Network::default() };
            assert!(net.guest_v6().is_some_and(|guest| net.contains(guest.into())));
        }
    }
    let _ = Rule::all(&texts, &texts);
    let resolvers = Resolvers::parse(&text, |name| (name == "eth0").then_some(2));
    assert!((1..=3).contains(&resolvers.servers.len()));
}
