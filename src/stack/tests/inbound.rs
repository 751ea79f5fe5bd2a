//! Published ports through the tap: whom the guest sees, which way its answers go, and how clients come and go.

use super::link::arp;
use super::*;
use crate::config::SourceIp;
use crate::stack::inbound::{IDLE, IDLE_UNANSWERED};
use crate::stack::{Arrival, HostError, IcmpError};
use crate::wire::tcp::Flags;
use crate::wire::{Payload, Tcp, tcp};

const G: &str = "10.0.2.100:53";
const G6: &str = "[fd00::64]:53";
const CLIENT: &str = "198.51.100.7:4000";
const CLIENT6: &str = "[2001:db8::7]:4000";
const LOCAL: &str = "203.0.113.1";
const LOCAL6: &str = "2001:db8:1::1";
const DOOR: Door = Door(1);

/// A world whose guest has been heard at both its addresses.
fn world() -> World {
    let mut w = World::new();
    for (from, to) in [("10.0.2.100:9", "10.0.2.77:9"), ("[fd00::64]:9", "[fd00::77]:9")] {
        assert!(w.batch(&[udp_frame(from, to, b"hello")]).is_empty());
    }
    w
}

/// What arrives at a door, for the guest's end of the client's family.
fn arrive(
    w: &mut World,
    door: Door,
    client: &str,
    local: &str,
    bytes: &[u8],
    segment: Option<u16>,
) -> Vec<Done> {
    let data = w.hold(Class::Host, 0, bytes);
    let client = at(client);
    let guest = at(if client.ip().to_canonical().is_ipv4() { G } else { G6 });
    let source_ip = SourceIp::Preserve;
    let a = Arrival { door, client, local: addr(local), guest, source_ip, data, segment, tos: 0 };
    w.stack.accept_datagrams(w.now, &a);
    w.drain()
}

/// Payload, source and destination of the one datagram that reached the guest.
fn seen(done: &[Done]) -> (Vec<u8>, SocketAddr, SocketAddr) {
    let (bytes, frame) = only(done);
    let (src, dst) = ends(&frame);
    let Net::Ip(_, Payload::Udp(udp, range)) = frame.net else { panic!("not UDP") };
    (bytes[range].to_vec(), SocketAddr::new(src, udp.src_port), SocketAddr::new(dst, udp.dst_port))
}

/// The one answer that left through a door: which, from where, to whom, what.
fn left(done: &[Done]) -> (Door, IpAddr, SocketAddr, Vec<u8>) {
    match done {
        [Done::Published(door, from, data, bytes)] => (*door, *from, data.to, bytes.clone()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_client_is_seen_and_answered_and_the_ports_other_traffic_is_left_alone() {
    for (guest, client, local, other) in
        [(G, CLIENT, LOCAL, "192.0.2.9:53"), (G6, CLIENT6, LOCAL6, "[2001:db8:9::9]:53")]
    {
        let mut w = world();
        let done = arrive(&mut w, DOOR, client, local, b"question", None);
        assert_eq!(seen(&done), (b"question".to_vec(), at(client), at(guest)));
        let done = w.batch(&[udp_frame(guest, client, b"answer")]);
        assert_eq!(left(&done), (DOOR, addr(local), at(client), b"answer".to_vec()));
        // From the same port to somebody else, the same address by another port included: its own mapping.
        let mut near = at(client);
        near.set_port(4001);
        let done = w.batch(&[udp_frame(guest, other, b"own"), udp_frame(guest, &near.to_string(), b"own")]);
        assert!(matches!(done[0], Done::Open(..)), "{done:?}");
        assert_eq!(sends(&done).iter().map(|(_, d, _)| d.to).collect::<Vec<_>>(), [at(other), near]);
        let flow = w.stack.flows().find(|f| f.id.kind() == Kind::Inbound).unwrap();
        assert_eq!((flow.guest, flow.remote, flow.host), (at(guest), Some(at(client)), Some(at(client))));
        assert_eq!((flow.counters.packets_down, flow.counters.bytes_up), (1, 6));
        assert_eq!(w.stack.flow(flow.id), Some(flow));
        assert_eq!((w.held(), w.stack.counters().shown_as_gateway), (0, 0));
    }
}

#[test]
fn clients_that_could_not_be_answered_are_the_gateway_and_never_one() {
    let mut w = world();
    let ends: Vec<_> = ["127.0.0.1:4000", "127.0.0.2:4000", "10.0.2.100:4000", "169.254.1.1:4000"]
        .iter()
        .map(|client| (at(client), seen(&arrive(&mut w, DOOR, client, "127.0.0.1", b"?", None)).1))
        .collect();
    assert_eq!(ends[0].1, at("10.0.2.2:4000"), "the client's own port while it is free");
    for (i, (client, shown)) in ends.iter().enumerate() {
        assert_eq!(shown.ip(), addr("10.0.2.2"));
        assert!(ends[..i].iter().all(|(_, other)| other != shown), "{ends:?}");
        // The gateway is no destination of this guest's, but these ends of it are.
        let done = w.batch(&[udp_frame(G, &shown.to_string(), b"!")]);
        assert_eq!(left(&done), (DOOR, addr("127.0.0.1"), *client, b"!".to_vec()));
    }
    assert_eq!(w.stack.counters().shown_as_gateway, 4);
    let done = w.batch(&[udp_frame(G, "10.0.2.2:9", b"x")]);
    assert!(matches!(&done[..], [Done::Frame(..)]), "an error for what answers nobody: {done:?}");
    assert_eq!(w.held(), 0);
}

#[test]
fn one_client_at_two_doors_or_two_addresses_is_two() {
    let mut w = world();
    let first = seen(&arrive(&mut w, DOOR, CLIENT, LOCAL, b"1", None)).1;
    let second = seen(&arrive(&mut w, Door(2), CLIENT, LOCAL, b"2", None)).1;
    let third = seen(&arrive(&mut w, DOOR, CLIENT, "203.0.113.2", b"3", None)).1;
    assert_eq!((first, second.ip(), third.ip()), (at(CLIENT), addr("10.0.2.2"), addr("10.0.2.2")));
    assert_ne!(second, third);
    assert_eq!(w.stack.counters().shown_as_gateway, 2);
    for (shown, door, local) in [(first, DOOR, LOCAL), (second, Door(2), LOCAL), (third, DOOR, "203.0.113.2")]
    {
        let done = w.batch(&[udp_frame(G, &shown.to_string(), b"x")]);
        assert_eq!(left(&done), (door, addr(local), at(CLIENT), b"x".to_vec()));
        // Known by now: the same end again.
        assert_eq!(seen(&arrive(&mut w, door, CLIENT, local, b"again", None)).1, shown);
    }
}

#[test]
fn a_client_of_a_dual_stack_socket_is_an_ipv4_client() {
    let mut w = world();
    let mapped = "[::ffff:198.51.100.7]:4000";
    assert_eq!(seen(&arrive(&mut w, DOOR, mapped, LOCAL6, b"?", None)).1, at(CLIENT));
    // It is answered by the name that its socket knows.
    let done = w.batch(&[udp_frame(G, CLIENT, b"!")]);
    assert_eq!(left(&done).2, at(mapped));
}

#[test]
fn super_datagrams_both_ways() {
    let mut w = world();
    let done = arrive(&mut w, DOOR, CLIENT, LOCAL, &[7; 4500], Some(1000));
    assert!(matches!(&done[..], [Done::Frame(_, Gso::Udp { size: 1000 })]), "{done:?}");
    // Equal ones of a batch leave as one, in order; a super-frame as it is.
    let mut frames: Vec<_> = (0..5u8).map(|i| udp_frame(G, CLIENT, &[i; 700])).collect();
    frames.push(udp_frame(G, CLIENT, b"short"));
    let done = w.batch(&frames);
    let [Done::Published(_, _, data, bytes)] = &done[..] else { panic!("{done:?}") };
    assert_eq!((data.segment, bytes.len(), bytes[699], bytes[700], data.ttl), (Some(700), 3505, 0, 1, 63));
    let done = w.frame_gso(&udp_frame(G, CLIENT, &[9; 3000]), Gso::Udp { size: 1200 });
    let [Done::Published(_, _, data, bytes)] = &done[..] else { panic!("{done:?}") };
    assert_eq!((data.segment, bytes.len()), (Some(1200), 3000));
    w.end_batch();
    assert_eq!(w.held(), 0);
}

#[test]
fn a_flow_lives_while_either_side_speaks() {
    let mut w = world();
    let alive = |w: &World| w.stack.flows().filter(|f| f.id.kind() == Kind::Inbound).count();
    // One way only: as long as the client sends.
    for _ in 0..10 {
        arrive(&mut w, DOOR, CLIENT, LOCAL, b"x", None);
        w.pass(IDLE_UNANSWERED * 9 / 10);
        assert_eq!(alive(&w), 1);
    }
    w.pass(IDLE_UNANSWERED / 5);
    assert_eq!(alive(&w), 0);
    // Answered, it has more time, and the guest alone keeps it.
    arrive(&mut w, DOOR, CLIENT, LOCAL, b"x", None);
    for _ in 0..3 {
        w.batch(&[udp_frame(G, CLIENT, b"y")]);
        w.pass(IDLE * 9 / 10);
        assert_eq!(alive(&w), 1);
    }
    w.pass(IDLE / 5);
    assert_eq!((alive(&w), w.stack.inbound.next_deadline()), (0, None));
    assert_eq!(w.stack.counters().flows_opened, w.stack.counters().flows_closed);
}

#[test]
fn nobody_listens_and_the_flow_ends() {
    for (guest, client, local) in [(G, CLIENT, LOCAL), (G6, CLIENT6, LOCAL6)] {
        let mut w = world();
        arrive(&mut w, DOOR, client, local, b"x", None);
        let v6 = at(guest).is_ipv6();
        let error = |from: &str, to: &str| {
            let quoted = udp_frame(from, to, b"x")[14..].to_vec();
            let head = if v6 { [1, 4, 0, 0, 0, 0, 0, 0] } else { [3, 3, 0, 0, 0, 0, 0, 0] };
            icmp_frame(
                &at(guest).ip().to_string(),
                &at(client).ip().to_string(),
                64,
                &[&head[..], &quoted].concat(),
            )
        };
        // About somebody else's datagram: nothing happens.
        let stranger = if v6 { "[2001:db8::8]:4000" } else { "198.51.100.8:4000" };
        w.batch(&[error(stranger, guest)]);
        assert_eq!(w.stack.counters().published_refused, 0);
        assert!(w.batch(&[error(client, guest)]).is_empty());
        assert_eq!(w.stack.counters().published_refused, 1);
        assert_eq!(w.stack.flows().filter(|f| f.id.kind() == Kind::Inbound).count(), 0);
        // The next datagram is a client's first one again.
        assert_eq!(seen(&arrive(&mut w, DOOR, client, local, b"y", None)).1, at(client));
    }
}

#[test]
fn an_error_of_the_clients_side_reaches_the_guest() {
    let mut w = world();
    arrive(&mut w, DOOR, CLIENT, LOCAL, b"x", None);
    let to = at(CLIENT);
    let error =
        |to| IcmpError { offender: Some(addr(LOCAL)), icmp_type: 3, code: 3, info: 0, to, echo_seq: 0 };
    w.stack.published_error(w.now, at(G), &error(to));
    let done = w.drain();
    let (icmp_type, code, _, quoted) = icmp_error(frames(&done)[0]);
    assert_eq!((icmp_type, code), (3, 3));
    // It quotes what the guest sent: from its port to the client's.
    assert_eq!((&quoted[12..16], &quoted[20..24]), (&[10, 0, 2, 100][..], &[0, 53, 0x0f, 0xa0][..]));
    w.stack.published_error(w.now, at(G), &error(at("198.51.100.8:4000")));
    assert!(w.drain().is_empty(), "an error about nobody's answer");
}

#[test]
fn strangers_make_room_for_others_but_not_those_who_are_served() {
    let mut w = world();
    w.stack.inbound.limit = 8;
    for port in 1..=4 {
        let client = format!("198.51.100.1:{port}");
        arrive(&mut w, DOOR, &client, LOCAL, b"x", None);
        w.batch(&[udp_frame(G, &client, b"y")]);
    }
    // A flood with forged sources.
    for port in 1..=1000 {
        arrive(&mut w, DOOR, &format!("198.51.100.2:{port}"), LOCAL, b"x", None);
        assert!(w.stack.inbound.flows().count() <= 8);
    }
    for port in 1..=4 {
        let client = format!("198.51.100.1:{port}");
        let done = w.batch(&[udp_frame(G, &client, b"y")]);
        assert_eq!(left(&done).2, at(&client));
    }
    // All served: the next one has to wait.
    for port in 997..=1000 {
        w.batch(&[udp_frame(G, &format!("198.51.100.2:{port}"), b"y")]);
    }
    let before = w.dropped(DropReason::NoRoom);
    assert!(arrive(&mut w, DOOR, CLIENT, LOCAL, b"x", None).is_empty());
    assert_eq!((w.dropped(DropReason::NoRoom), w.held()), (before + 1, 0));
}

#[test]
fn a_closed_door_ends_its_flows_and_sends_what_was_held_back() {
    let mut w = world();
    arrive(&mut w, DOOR, CLIENT, LOCAL, b"x", None);
    arrive(&mut w, Door(2), "198.51.100.8:1", LOCAL, b"x", None);
    assert!(w.frame(&udp_frame(G, CLIENT, b"last")).is_empty());
    w.stack.close_door(w.now, DOOR);
    assert_eq!(left(&w.drain()).3, b"last");
    assert_eq!(w.stack.inbound.flows().count(), 1);
    // What the guest sends now is traffic of its own.
    let done = w.batch(&[udp_frame(G, CLIENT, b"y")]);
    assert!(matches!(done[0], Done::Open(..)));
    assert_eq!(w.held(), 0);
}

#[test]
fn the_guests_mac_is_asked_for_as_soon_as_a_port_is_published() {
    let mut w = World::new();
    w.stack.expect_inbound(w.now, addr("10.0.2.100"));
    w.stack.expect_inbound(w.now, addr("fd00::64"));
    let done = w.drain();
    assert_eq!(frames(&done).len(), 2);
    w.stack.expect_inbound(w.now, addr("10.0.2.100"));
    assert!(w.drain().is_empty(), "not at once again");
    w.frame(&arp(2, GUEST, [10, 0, 2, 100], [10, 0, 2, 2]));
    assert_eq!(seen(&arrive(&mut w, DOOR, CLIENT, LOCAL, b"x", None)).0, b"x");
}

#[test]
fn about_a_container_behind_the_guest_the_guest_is_asked_and_sent_to() {
    let mut w = World::new();
    w.stack.expect_inbound(w.now, addr("172.17.0.2"));
    let done = w.drain();
    assert_eq!(frames(&done)[0][38..42], [10, 0, 2, 100]);
    w.frame(&arp(2, GUEST, [10, 0, 2, 100], [10, 0, 2, 2]));
    let (_, done) = accept(&mut w, "172.17.0.2:80", CLIENT);
    let (syn, from) = segment_seen(&done);
    let frame = parse(frames(&done)[0]).unwrap();
    assert_eq!((syn.flags, from, frame.dst_mac), (Flags::SYN, at(CLIENT), GUEST));
    assert_eq!(ends(&frame).1, addr("172.17.0.2"));
}

fn segment(from: &str, to: SocketAddr, seq: u32, ack: u32, flags: Flags) -> Vec<u8> {
    let (from, tcp) = (at(from), |src_port, dst_port| Tcp {
        src_port,
        dst_port,
        seq,
        ack,
        flags,
        window: 65_535,
        urgent: 0,
        options: tcp::Options::default(),
    });
    let ip = IpOut { src: from.ip(), dst: to.ip(), protocol: 0, ttl: 64, tos: 0, id: 0, dont_fragment: true };
    tcp::head(GUEST, [0x52, 0x55, 10, 0, 2, 2], &ip, &tcp(from.port(), to.port()), 0).0.to_vec()
}

/// The one segment that reached the guest, and whom it came from.
fn segment_seen(done: &[Done]) -> (Tcp, SocketAddr) {
    let frame = parse(frames(done)[0]).unwrap();
    let (src, _) = ends(&frame);
    let Net::Ip(_, Payload::Tcp(tcp, _)) = frame.net else { panic!("not TCP: {frame:?}") };
    let from = SocketAddr::new(src, tcp.src_port);
    (tcp, from)
}

fn accept(w: &mut World, guest: &str, client: &str) -> (FlowId, Vec<Done>) {
    let flow = w.stack.accept_stream(w.now, at(guest), at(client), SourceIp::Preserve).unwrap();
    (flow, w.end_batch())
}

const S: &str = "10.0.2.100:80";
const S6: &str = "[fd00::64]:80";

#[test]
fn a_connection_comes_from_the_client_and_stands_when_the_guest_says_so() {
    for (server, client, shown) in [
        (S, CLIENT, CLIENT),
        (S6, CLIENT6, CLIENT6),
        (S, "127.0.0.1:4000", "10.0.2.2:4000"),
        (S6, "[::1]:4000", "[fd00::2]:4000"),
    ] {
        let mut w = world();
        let (flow, done) = accept(&mut w, server, client);
        let (syn, from) = segment_seen(&done);
        assert_eq!((syn.flags, from), (Flags::SYN, at(shown)));
        let ack = syn.seq.wrapping_add(1);
        let done = w.batch(&[segment(server, from, 100, ack, Flags::SYN.with(Flags::ACK))]);
        let (reply, _) = segment_seen(&done);
        assert_eq!((reply.flags, reply.ack), (Flags::ACK, 101));
        assert!(done.iter().any(|d| matches!(d, Done::Receive(f) if *f == flow)), "{done:?}");
        assert_eq!(w.stack.flow(flow).unwrap().remote, Some(at(shown)));
        // The host's end of the stream is the guest's FIN: half-closed, the guest may go on.
        let done = w.event(flow, HostEvent::Eof);
        let done = [done, w.end_batch()].concat();
        assert!(segment_seen(&done).0.flags.has(Flags::FIN));
        assert!(!done.iter().any(|d| matches!(d, Done::Close(..))));
        // The client's reset is the guest's.
        let done = w.event(flow, HostEvent::SendFailed(HostError::Reset));
        let done = [done, w.end_batch()].concat();
        assert!(segment_seen(&done).0.flags.has(Flags::RST));
        assert!(matches!(done.last(), Some(Done::Close(f, Close::Reset)) if *f == flow), "{done:?}");
    }
}

#[test]
fn a_refusal_resets_the_client_at_once() {
    let mut w = world();
    let (flow, done) = accept(&mut w, S, CLIENT);
    let (syn, from) = segment_seen(&done);
    let refusal = segment(S, from, 0, syn.seq.wrapping_add(1), Flags::RST.with(Flags::ACK));
    let done = w.batch(&[refusal]);
    assert!(matches!(done[..], [Done::Close(f, Close::Reset)] if f == flow), "{done:?}");
    assert_eq!(w.stack.flows().count(), 0);
}

#[test]
fn no_two_connections_are_one_to_the_guest() {
    let mut w = world();
    let shown: Vec<_> = ["127.0.0.1:4000", "127.0.0.2:4000", "127.0.0.3:4000", CLIENT, CLIENT]
        .iter()
        .map(|client| segment_seen(&accept(&mut w, S, client).1).1)
        .collect();
    assert_eq!((shown[0], shown[3]), (at("10.0.2.2:4000"), at(CLIENT)));
    assert!(shown.iter().all(|s| *s == at(CLIENT) || s.ip() == addr("10.0.2.2")));
    let distinct: std::collections::HashSet<_> = shown.iter().collect();
    assert_eq!(distinct.len(), 5, "{shown:?}");
    assert_eq!(w.stack.counters().shown_as_gateway, 4);
}

#[test]
fn a_full_table_takes_nobody() {
    let mut w = world();
    // Otherwise the oldest of those that do not stand yet makes room.
    let limits = super::super::tcp::TcpLimits { half_open: 100, ..w.stack.tcp.limits().clone() };
    w.stack.tcp.set_limits(limits);
    for port in 1..=64 {
        accept(&mut w, S, &format!("198.51.100.7:{port}"));
    }
    assert_eq!(w.stack.accept_stream(w.now, at(S), at("198.51.100.7:65"), SourceIp::Preserve), None);
    assert_eq!(w.stack.counters().flows_refused, 1);
}

#[test]
fn a_guest_that_has_never_spoken_is_asked_and_dialled_as_soon_as_it_answers() {
    let mut w = World::new();
    let (first, done) = accept(&mut w, S, CLIENT);
    assert_eq!(frames(&done)[0][12..14], [8, 6], "a question and no SYN");
    assert_eq!(done.len(), 1);
    // Another one who is nobody must not silence the question.
    let (nobody, done) = accept(&mut w, "10.0.2.101:80", CLIENT);
    assert_eq!(done.len(), 1);
    let done = w.pass(Duration::from_millis(950));
    let asked = |last: u8| frames(&done).iter().filter(|f| f[12..14] == [8, 6] && f[41] == last).count();
    assert_eq!((asked(100), asked(101)), (9, 9), "every 100 ms");
    let done = w.batch(&[arp(2, GUEST, [10, 0, 2, 100], [10, 0, 2, 2])]);
    let (syn, from) = segment_seen(&done);
    assert_eq!((done.len(), syn.flags, from), (1, Flags::SYN, at(CLIENT)));
    // It counts as the first attempt, and its round trip is measured from now.
    w.pass(Duration::from_millis(1));
    w.batch(&[segment(S, from, 1, syn.seq.wrapping_add(1), Flags::SYN.with(Flags::ACK))]);
    let rtt = w.stack.flow(first).unwrap().rtt.unwrap();
    assert_eq!(rtt, Duration::from_millis(1));
    // Who never answers costs his client three seconds.
    let done = w.pass(Duration::from_millis(2100));
    assert!(done.iter().any(|d| matches!(d, Done::Close(f, Close::Reset) if *f == nobody)), "{done:?}");
    assert!(w.stack.flow(nobody).is_none() && w.stack.flow(first).is_some());
}

#[test]
fn a_silent_server_costs_its_client_a_bounded_wait() {
    let mut w = world();
    let (flow, _) = accept(&mut w, S, CLIENT);
    let done = w.pass(Duration::from_secs(16));
    let syns = frames(&done).iter().filter(|f| f[47] == 2).count();
    assert_eq!(syns, 3, "sent again at growing distances");
    assert!(done.iter().any(|d| matches!(d, Done::Close(f, Close::Reset) if *f == flow)));
    assert_eq!((w.stack.flows().count(), w.stack.tcp.next_deadline()), (0, None));
}

#[test]
fn what_comes_before_the_guest_is_heard_waits_for_it_and_the_question_is_repeated() {
    let mut w = World::new();
    let done = arrive(&mut w, DOOR, CLIENT, LOCAL, b"first", None);
    assert!(matches!(only(&done).1.net, Net::Arp(_)), "a question");
    assert!(arrive(&mut w, DOOR, CLIENT, LOCAL, b"second", None).is_empty());
    // The first question was lost on an interface that was on its way up.
    let asked = w.pass(Duration::from_secs(1));
    assert!((4..=10).contains(&frames(&asked).len()), "{asked:?}");
    let done = w.batch(&[arp(2, GUEST, [10, 0, 2, 100], [10, 0, 2, 2])]);
    let payloads: Vec<_> = frames(&done)
        .into_iter()
        .map(|bytes| match parse(bytes).unwrap().net {
            Net::Ip(_, Payload::Udp(_, range)) => bytes[range].to_vec(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(payloads, [b"first".to_vec(), b"second".to_vec()]);
    assert_eq!((w.held(), w.dropped(DropReason::NoNeighbour)), (0, 0));
    assert_eq!(left(&w.batch(&[udp_frame(G, CLIENT, b"answer")])).3, b"answer");
}

#[test]
fn what_waits_is_bounded_and_goes_when_nobody_answers_or_the_port_does() {
    let mut w = World::new();
    for n in 0..40 {
        arrive(&mut w, DOOR, &format!("198.51.100.7:{}", 4000 + n), LOCAL, b"x", None);
    }
    assert_eq!((w.held(), w.dropped(DropReason::NoNeighbour)), (16, 24));
    w.pass(Duration::from_secs(4));
    assert_eq!((w.held(), w.dropped(DropReason::NoNeighbour)), (0, 40));
    assert_eq!(w.stack.poll_timeout(), None, "nothing is asked any more");
    arrive(&mut w, DOOR, CLIENT, LOCAL, b"x", None);
    w.stack.close_door(w.now, DOOR);
    w.drain();
    assert_eq!((w.held(), w.dropped(DropReason::NoNeighbour)), (0, 41));
}
