//! DNS forwarding: to whom, failover, and what is kept meanwhile.

use super::*;
use crate::stack::dns::{MAX_KEPT, PATIENCE, RETURN};
use crate::stack::{HostError, IcmpError};

const G: &str = "10.0.2.100:4000";
const TWO: [&str; 2] = ["198.51.100.53:53", "[2001:db8::53]:53"];

fn query(w: &mut World, n: u8) -> Vec<Done> {
    w.batch(&[udp_frame(G, "10.0.2.3:53", &[n; 30])])
}

fn to(done: &[Done]) -> Vec<(SocketAddr, u8)> {
    sends(done).iter().map(|(_, d, bytes)| (d.to, bytes[0])).collect()
}

#[test]
fn answers_come_from_the_address_that_was_asked() {
    for (guest, dns, server) in [
        (G, "10.0.2.3:53", "127.0.0.53:53"),
        ("[fd00::64]:4000", "[fd00::3]:53", "198.51.100.53:53"),
        (G, "10.0.2.3:53", "[fe80::1%7]:5353"),
    ] {
        let mut w = World::with(Network::default(), &[server]);
        let done = w.batch(&[udp_frame(guest, dns, b"query")]);
        let flow = opened(&done);
        let (_, d, bytes) = sends(&done)[0];
        assert_eq!((d.to, &bytes[..]), (at(server), &b"query"[..]));
        // One resolver: nothing could be sent again, so nothing is kept.
        assert_eq!(w.held(), 0);
        let done = w.datagrams(flow, server, b"answer", None);
        let (_, frame) = only(&done);
        assert_eq!(ends(&frame), (at(dns).ip(), at(guest).ip()));
        // Whoever else answers is not heard.
        assert!(w.datagrams(flow, "203.0.113.1:53", b"forged", None).is_empty());
        assert!(w.datagrams(flow, "198.51.100.53:54", b"forged", None).is_empty());
        assert_eq!(w.dropped(DropReason::Filtered), 2);
        assert!(matches!(w.pass(Duration::from_secs(11))[..], [Done::Close(f, _)] if f == flow));
        assert_eq!(w.held(), 0);
    }
}

#[test]
fn silence_makes_the_next_resolver_answer_and_keeps_it() {
    let mut w = World::with(Network::default(), &TWO);
    let done = query(&mut w, 1);
    assert_eq!(to(&done), [(at(TWO[0]), 1)]);
    assert_eq!(w.held(), 1);
    assert!(w.pass(PATIENCE - Duration::from_millis(1)).is_empty());
    let done = w.pass(Duration::from_millis(1));
    // Another family, another socket.
    let second = opened(&done);
    assert_eq!(to(&done), [(at(TWO[1]), 1)]);
    let done = w.datagrams(second, TWO[1], b"answer", None);
    assert_eq!(ends(&only(&done).1).0, addr("10.0.2.3"));
    assert_eq!(w.held(), 0);
    // The one that works is asked now; after a minute the first one again.
    assert_eq!(to(&query(&mut w, 2)), [(at(TWO[1]), 2)]);
    w.datagrams(second, TWO[1], b"answer", None);
    w.pass(RETURN);
    assert_eq!(to(&query(&mut w, 3)), [(at(TWO[0]), 3)]);
}

#[test]
fn after_one_round_the_query_is_given_up() {
    let mut w = World::with(Network::default(), &TWO);
    query(&mut w, 1);
    assert_eq!(to(&w.pass(PATIENCE)), [(at(TWO[1]), 1)]);
    assert!(w.pass(PATIENCE).is_empty());
    assert_eq!(w.held(), 0);
    assert_eq!(w.pass(Duration::from_secs(40)).iter().filter(|d| matches!(d, Done::Close(_, _))).count(), 2);
    assert_eq!((w.stack.poll_timeout(), w.stack.flows().count()), (None, 0));
}

#[test]
fn a_refusal_moves_on_at_once_and_at_last_reaches_the_guest() {
    let mut w = World::with(Network::default(), &TWO);
    let done = query(&mut w, 1);
    let first = opened(&done);
    let refused = IcmpError {
        offender: Some(addr("198.51.100.53")),
        icmp_type: 3,
        code: 3,
        info: 0,
        to: at(TWO[0]),
        echo_seq: 0,
    };
    let done = w.event(first, HostEvent::Icmp(refused));
    assert_eq!(to(&done), [(at(TWO[1]), 1)]);
    let second = opened(&done);
    // New queries go where there is hope.
    assert_eq!(to(&query(&mut w, 2)), [(at(TWO[1]), 2)]);
    let done =
        w.event(second, HostEvent::DatagramsFailed { to: at(TWO[1]), error: HostError::NetUnreachable });
    // The first query has been round, the second goes on to the first resolver.
    assert_eq!(to(&done), [(at(TWO[0]), 2)]);
    let (bytes, frame) = only(&done);
    let (kind, code, _, quote) = icmp_error(bytes);
    assert_eq!((kind, code, ends(&frame)), (3, 3, (addr("10.0.2.2"), addr("10.0.2.100"))));
    assert_eq!(quote[16..20], [10, 0, 2, 3]);
    assert_eq!(w.held(), 1);
    w.pass(Duration::from_secs(60));
    assert_eq!(w.held(), 0);
}

#[test]
fn one_refused_resolver_and_none_at_all() {
    let mut w = World::with(Network::default(), &["127.0.0.1:53"]);
    let flow = opened(&query(&mut w, 1));
    let done =
        w.event(flow, HostEvent::DatagramsFailed { to: at("127.0.0.1:53"), error: HostError::Refused });
    let (kind, code, ..) = icmp_error(only(&done).0);
    assert_eq!((kind, code), (3, 3));
    let mut w = World::with(Network::default(), &[]);
    let done = query(&mut w, 1);
    assert_eq!(icmp_error(only(&done).0).1, 3);
    assert_eq!((w.held(), w.stack.flows().count()), (0, 0));
}

#[test]
fn two_queries_of_one_port_need_two_answers() {
    let mut w = World::with(Network::default(), &TWO);
    let flow = opened(&query(&mut w, 1));
    query(&mut w, 2);
    w.datagrams(flow, TWO[0], b"answer", None);
    assert_eq!(w.held(), 2);
    // The second answer is missing: both are asked again.
    assert_eq!(to(&w.pass(PATIENCE)), [(at(TWO[1]), 1), (at(TWO[1]), 2)]);
    w.datagrams(flow, TWO[0], b"late", None);
    assert_eq!(w.held(), 0);
    // Two answers in one delivery count as two.
    query(&mut w, 3);
    query(&mut w, 4);
    w.datagrams(flow, TWO[0], b"answer", Some(3));
    assert_eq!(w.held(), 0);
}

#[test]
fn what_is_kept_is_bounded() {
    let mut w = World::with(Network::default(), &TWO);
    for n in 0..100 {
        assert_eq!(to(&query(&mut w, n)), [(at(TWO[0]), n)]);
    }
    assert_eq!(w.held(), MAX_KEPT);
    for port in 1..=40 {
        for _ in 0..MAX_KEPT {
            w.batch(&[udp_frame(&format!("10.0.2.100:{port}"), "10.0.2.3:53", b"q")]);
        }
    }
    assert_eq!(w.held(), 256);
    // Too many clients: the query is dropped.
    for port in 100..200 {
        w.batch(&[udp_frame(&format!("10.0.2.100:{port}"), "10.0.2.3:53", b"q")]);
    }
    assert_eq!(w.stack.flows().count(), 48);
    assert_eq!(w.dropped(DropReason::NoRoom), 93);
    w.pass(Duration::from_secs(100));
    assert_eq!((w.held(), w.stack.flows().count()), (0, 0));
}

#[test]
fn new_resolvers_are_used_from_then_on() {
    let mut w = World::with(Network::default(), &TWO);
    let flow = opened(&query(&mut w, 1));
    let resolvers = Resolvers { servers: vec![at("192.0.2.53:53")], ..Resolvers::default() };
    w.stack.set_resolvers(w.now, resolvers);
    assert_eq!(to(&query(&mut w, 2)), [(at("192.0.2.53:53"), 2)]);
    // The query that waited has only been asked of one that is gone: it is not asked again, and goes.
    w.pass(PATIENCE);
    w.datagrams(flow, "192.0.2.53:53", b"answer", None);
    assert_eq!(w.held(), 0);
    w.stack.set_resolvers(w.now, Resolvers::default());
    assert_eq!(icmp_error(only(&query(&mut w, 3)).0).1, 3);
}
