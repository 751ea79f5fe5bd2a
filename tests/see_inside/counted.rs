//! What is counted of flows and ports: live ones by kind, clients refused and shown as the gateway, limits that were met. Read
//! from Prometheus' text, whose names the API's counters have, too.

use crate::common::{HOST, PATIENCE, SERVER, World};
use crate::{carry, pair, ringtap};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The samples of Prometheus' text, by name and labels, `ringtap_` taken off.
pub fn samples(world: &World) -> BTreeMap<String, f64> {
    let text = ringtap(world, &["stats", "--prometheus"]);
    let lines = text.lines().filter_map(|l| l.strip_prefix("ringtap_")?.rsplit_once(' '));
    lines.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
}

/// Waits until all of these have these values.
fn become_exactly(world: &World, want: &[(&str, u64)]) {
    let start = Instant::now();
    loop {
        let all = samples(world);
        let of = |name: &str| all.get(name).unwrap_or_else(|| panic!("there is no {name}: {all:#?}"));
        let different = |(name, value): &&(&str, u64)| *of(name) != *value as f64;
        let wrong: Vec<_> = want.iter().filter(different).map(|want| (want, of(want.0))).collect();
        if wrong.is_empty() {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "wanted, and what there is: {wrong:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn live_flows_are_counted_by_kind() {
    let world = World::new();
    let options = ["--no-ipv6", "-p", "8080:80", "-p", "5353:53/udp", "-p", "5354:54/udp,via=tap"];
    let guest = world.guest_with(&options);
    let kinds = |counts: [u64; 6]| {
        let names = ["tcp", "udp", "icmp", "injected_udp", "relay_tcp", "relay_udp"];
        let names = names.map(|kind| format!("flows{{kind=\"{kind}\"}}"));
        let want: Vec<_> = names.iter().map(String::as_str).zip(counts).collect();
        become_exactly(&world, &want);
    };
    kinds([0; 6]);
    let far = world.lab.internet().tcp_listener((SERVER[0], 9000)).unwrap();
    let near = guest.place().tcp_listener((ANY, 80)).unwrap();
    let out: Vec<_> =
        (0..6).map(|_| pair(guest.place().tcp_connect((SERVER[0], 9000)).unwrap(), &far)).collect();
    let datagrams: Vec<_> = (0..5).map(|_| guest.place().udp_socket((ANY, 0)).unwrap()).collect();
    datagrams.iter().for_each(|s| assert_eq!(s.send_to(b"x", (SERVER[0], 9001)).unwrap(), 1));
    crate::common::sh(guest.place(), &format!("ping -c 1 {}; ping -c 1 {0}", SERVER[0])).ok();
    let published: Vec<_> =
        (0..4).map(|_| pair(world.lab.internet().tcp_connect((HOST[0], 8080)).unwrap(), &near)).collect();
    let servers = [53, 54].map(|port| guest.place().udp_socket((ANY, port)).unwrap());
    let clients: Vec<_> = (0..3).map(|_| world.lab.internet().udp_socket((SERVER[0], 0)).unwrap()).collect();
    for (n, port) in [(3, 5354), (2, 5353)] {
        clients[..n].iter().for_each(|c| assert_eq!(c.send_to(b"x", (HOST[0], port)).unwrap(), 1));
    }
    kinds([6, 5, 2, 3, 4, 2]);
    drop((out, published));
    kinds([0, 5, 2, 3, 0, 2]);
    drop((datagrams, servers));
}

#[test]
fn clients_of_ports_are_counted_as_what_became_of_them() {
    let world = World::new();
    let options = ["--no-ipv6", "-p", "8080:80", "-p", "8081:80,via=tap", "-p", "5354:54/udp,via=tap"];
    let guest = world.guest_with(&options);
    // Nobody listens yet: two are reset, and of three datagrams the guest's kernel says so. One after the other, for it says
    // so once of those that come joined.
    for _ in 0..2 {
        let mut stream = world.lab.internet().tcp_connect((HOST[0], 8080)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        std::io::Read::read(&mut stream, &mut [0]).unwrap_err();
    }
    let client = world.lab.internet().udp_socket((SERVER[0], 0)).unwrap();
    for count in 1..=3 {
        client.send_to(b"x", (HOST[0], 5354)).unwrap();
        become_exactly(&world, &[("published_refused_total", count)]);
    }
    let near = guest.place().tcp_listener((ANY, 80)).unwrap();
    let connect = |loopback: bool, port: u16| match loopback {
        true => pair(world.lab.host().tcp_connect((LOOPBACK, port)).unwrap(), &near),
        false => pair(world.lab.internet().tcp_connect((HOST[0], port)).unwrap(), &near),
    };
    let mut open = Vec::new();
    for (loopback, port, count) in [(true, 8080, 3), (false, 8080, 2), (true, 8081, 4), (false, 8081, 1)] {
        open.extend((0..count).map(|_| connect(loopback, port)));
    }
    let (client, server) = &open[0];
    carry(client, server, 700);
    carry(server, client, 11);
    let port = |name: &str, id: u32, spec: &str| format!("port_{name}{{id=\"{id}\",port=\"{spec}\"}}");
    let relay = |name: &str| port(name, 1, "8080:80/tcp");
    let tap = |name: &str| port(name, 2, "8081:80/tcp");
    let want = [
        ("shown_as_gateway_total".to_owned(), 4),
        ("published_refused_total".to_owned(), 3),
        (relay("accepted_total"), 7),
        (relay("refused_total"), 2),
        (relay("open"), 5),
        (relay("shown_as_gateway_total"), 3),
        (relay("bytes_to_guest_total"), 700),
        (relay("bytes_from_guest_total"), 11),
        (relay("shed_total"), 0),
        (tap("accepted_total"), 5),
        (tap("open"), 5),
        (tap("shown_as_gateway_total"), 4),
    ];
    let names: Vec<_> = want.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    become_exactly(&world, &names);
}

#[test]
fn flows_beyond_the_guests_limit_are_counted_as_refused() {
    let world = World::new();
    let guest = world.guest_with(&["--no-ipv6", "--max-flows", "8"]);
    let far = world.lab.internet().tcp_listener((SERVER[0], 9000)).unwrap();
    let out: Vec<_> =
        (0..8).map(|_| pair(guest.place().tcp_connect((SERVER[0], 9000)).unwrap(), &far)).collect();
    let none = [
        ("flows_opened_total", 8),
        ("flows_refused_total", 0),
        ("limit_met_total{limit=\"flows\"}", 0),
        ("drops_total{reason=\"no_room\"}", 0),
    ];
    become_exactly(&world, &none);
    for _ in 0..3 {
        guest.place().tcp_connect((SERVER[0], 9000)).unwrap_err();
    }
    become_exactly(&world, &none.map(|(name, n)| (name, if n == 0 { 3 } else { n })));
    drop(out);
    become_exactly(&world, &[("flows_closed_total", 8), ("flows{kind=\"tcp\"}", 0)]);
}

#[test]
fn questions_are_live_until_they_are_forgotten() {
    let world = World::new();
    crate::common::need("dig");
    let guest = world.guest_with(&["--no-ipv6"]);
    crate::common::sh(guest.place(), "dig +short @10.0.2.3 server.test").ok();
    become_exactly(&world, &[("flows{kind=\"dns\"}", 1), ("dns_seconds_count", 1)]);
    // Ten seconds after the answer.
    become_exactly(&world, &[("flows{kind=\"dns\"}", 0), ("dns_seconds_count", 1)]);
}
