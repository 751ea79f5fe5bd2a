//! How connections begin, and how they fail to.

use super::*;
use crate::flow::{DropReason, Limit};
use crate::wire::icmp::{ErrorHead, Quoted};
use crate::wire::proto;

#[test]
fn the_host_connects_first_and_the_guest_is_answered_then() {
    let mut w = World::new();
    let id = w.dial();
    // Impatience is absorbed.
    let syn = w.syn();
    w.segment(&syn, 0);
    assert_eq!(w.flush(), []);
    w.host(id, HostEvent::Connected);
    let reply = only(&w.flush());
    assert_eq!(reply.tcp.ack, IRS.wrapping_add(1));
    assert_eq!(reply.tcp.options.mss, Some(1460));
    assert!(reply.tcp.options.sack_permitted);
    assert!(reply.tcp.options.window_scale.is_some_and(|s| s > 0));
    assert_eq!((reply.tcp.src_port, reply.tcp.dst_port), (80, 40000));
    // A lost SYN-ACK is sent again when the SYN comes again.
    w.segment(&syn, 0);
    assert_eq!(only(&w.flush()).tcp, reply.tcp);
}

#[test]
fn options_are_echoes_of_the_guests() {
    let mut w = World::new();
    let bare = w.tcp(IRS, 0, Flags::SYN);
    w.segment(&bare, 0);
    let actions = w.flush();
    let [Action::Open(id, Open::Tcp { remote, bind: None })] = actions.as_slice() else { panic!() };
    assert_eq!(*remote, w.remote);
    w.host(*id, HostEvent::Connected);
    let reply = only(&w.flush());
    assert_eq!((reply.tcp.options.window_scale, reply.tcp.options.sack_permitted), (None, false));
}

#[test]
fn a_refused_connection_is_a_reset() {
    for error in [HostError::Refused, HostError::Reset, HostError::TimedOut, HostError::Exhausted] {
        let mut w = World::new();
        let id = w.dial();
        w.host(id, HostEvent::ConnectFailed(error));
        let actions = w.flush();
        let reset = only(&actions);
        assert!(reset.is(Flags::RST.with(Flags::ACK)));
        assert_eq!(reset.tcp.ack, IRS.wrapping_add(1));
        assert!(closed(&actions).is_some());
        // What the host refused is its peer's word, what it had no descriptor for is a flow refused.
        let short = u64::from(error == HostError::Exhausted);
        let c = &w.counters;
        assert_eq!((c.flows_refused, c.limited(Limit::Descriptors)), (short, short));
        assert_eq!((c.dropped(DropReason::NoRoom), c.dropped(DropReason::HostRefused)), (short, 1 - short));
        w.assert_empty();
    }
}

#[test]
fn no_answer_from_the_host_is_a_reset_after_75_seconds() {
    let mut w = World::new();
    w.dial();
    assert_eq!(w.wait(Duration::from_secs(74)), []);
    let actions = w.wait(Duration::from_secs(2));
    assert!(only(&actions).is(Flags::RST));
    assert_eq!(closed(&actions), Some(Close::Reset));
    w.assert_empty();
}

#[test]
fn a_stranger_is_reset_but_never_for_a_reset() {
    let mut w = World::new();
    let stray = w.tcp(5, 77, Flags::ACK);
    w.segment(&stray, 10);
    let reset = only(&w.flush());
    assert_eq!((reset.tcp.seq, reset.tcp.flags), (77, Flags::RST));
    let stray = w.tcp(5, 0, Flags::FIN);
    w.segment(&stray, 10);
    let reset = only(&w.flush());
    assert_eq!((reset.tcp.ack, reset.tcp.flags), (16, Flags::RST.with(Flags::ACK)));
    let stray = w.tcp(5, 77, Flags::RST);
    w.segment(&stray, 0);
    assert_eq!(w.flush(), []);
    w.assert_empty();
}

#[test]
fn the_table_is_bounded() {
    let mut w = World::new();
    w.engine.pool.limits.flows = 1;
    w.establish();
    w.guest.set_port(40001);
    let syn = w.syn();
    w.segment(&syn, 0);
    assert!(only(&w.flush()).is(Flags::RST));
    assert_eq!((w.counters.dropped(DropReason::NoRoom), w.counters.flows_refused), (1, 1));
    let (guest, remote) = (w.guest, w.remote);
    assert_eq!(w.run(|e, cx| e.connect(cx, guest, remote)), None);
    assert_eq!((w.flush(), w.counters.flows_refused), (vec![], 2));
}

#[test]
fn a_flood_of_syns_costs_a_bounded_number_of_sockets() {
    let mut w = World::new();
    w.engine.pool.limits.half_open = 10;
    let mut open = 0usize;
    for port in 1..2000 {
        w.guest.set_port(port);
        let syn = w.syn();
        w.segment(&syn, 0);
        for action in w.flush() {
            match action {
                Action::Open(..) => open += 1,
                Action::Close(..) => open -= 1,
                other => panic!("{other:?}"),
            }
        }
        assert!(open <= 10 && w.engine.len() == open && w.engine.half_open.len() <= 84);
    }
}

#[test]
fn a_flood_that_the_host_answers_or_that_comes_from_its_side_is_bounded_as_well() {
    for inbound in [false, true] {
        let mut w = World::new();
        w.engine.pool.limits.half_open = 10;
        let mut open = Vec::new();
        for port in 1..2000 {
            w.guest.set_port(port);
            if inbound {
                let (guest, remote) = (w.guest, w.remote);
                open.push(w.run(|e, cx| e.connect(cx, guest, remote)).unwrap());
            } else {
                let syn = w.syn();
                w.segment(&syn, 0);
            }
            let mut actions = w.flush();
            if let Some(Action::Open(id, _)) = actions.iter().find(|a| matches!(a, Action::Open(..))) {
                open.push(*id);
                w.host(*id, HostEvent::Connected);
                actions.extend(w.flush());
            }
            // One SYN or SYN-ACK each, and not a word to those that are forgotten.
            let said = only(&actions);
            assert_eq!((said.is(Flags::SYN), said.is(Flags::ACK)), (true, !inbound));
            let gone = actions.iter().filter_map(|a| match a {
                Action::Close(id, Close::Reset) => Some(*id),
                _ => None,
            });
            // The oldest goes.
            let gone: Vec<_> = gone.collect();
            assert!(gone.iter().all(|id| *id == open.remove(0)), "{gone:?}");
            assert!(open.len() <= 10 && w.engine.len() == open.len() && w.engine.half_open.len() <= 84);
        }
        assert_eq!(w.counters.dropped(DropReason::NoRoom), 1989);
        // Who is still there can be answered.
        let id = open[9];
        let ours = w.engine.table.get(id).unwrap().snd.nxt.0;
        let mut answer = w.syn();
        answer.ack = ours;
        answer.flags = Flags::SYN.with(Flags::ACK);
        if !inbound {
            answer = w.tcp(IRS.wrapping_add(1), ours, Flags::ACK);
        }
        w.segment(&answer, 0);
        assert!(w.flush().contains(&Action::Receive(id, Intake::On)));
    }
}

#[test]
fn we_dial_the_guest_and_it_may_dial_us_at_the_same_moment() {
    for simultaneous in [false, true] {
        let mut w = World::new();
        let (guest, remote) = (w.guest, w.remote);
        let id = w.run(|e, cx| e.connect(cx, guest, remote)).unwrap();
        let syn = only(&w.flush());
        assert_eq!(syn.tcp.flags, Flags::SYN);
        let mut reply = w.syn();
        if simultaneous {
            w.segment(&reply, 0);
            assert!(only(&w.flush()).is(Flags::SYN.with(Flags::ACK)));
        }
        reply.flags = Flags::SYN.with(Flags::ACK);
        reply.ack = syn.tcp.seq.wrapping_add(1);
        w.segment(&reply, 0);
        let actions = w.flush();
        assert_eq!(only(&actions).tcp.ack, IRS.wrapping_add(1));
        assert!(actions.contains(&Action::Receive(id, Intake::On)));
    }
}

#[test]
fn ip_version_and_a_lower_path_mtu_shape_the_segments() {
    // Type and code of the report, and the segments for the link, for a path of 1400 bytes, for the smallest.
    let v4 = (World::new(), (3, 4), [1460, 1360, 536]);
    let v6 = (World::v6(), (2, 0), [1440, 1340, 1220]);
    for (mut w, (icmp_type, code), [link, path, smallest]) in [v4, v6] {
        let mut syn = w.syn();
        syn.options.mss = Some(9000);
        let c = w.establish_with(&syn);
        w.receive(c.id, 10_000);
        let frame = only(&w.flush());
        let too_big = |mtu: u16, seq: u32| Quoted {
            head: ErrorHead { icmp_type, code, info: mtu.into() },
            mtu: Some(mtu),
            protocol: proto::TCP,
            src: w.remote,
            dst: w.guest,
            seq: Some(seq),
        };
        let seq = frame.tcp.seq;
        let report = too_big(1400, seq);
        let forged = [too_big(1400, seq.wrapping_sub(1)), too_big(1400, seq.wrapping_add(10_000))];
        let (tiny, wide) = (too_big(10, seq), too_big(9000, seq));
        assert_eq!((frame.len, frame.gso), (10_000, Gso::Tcp { mss: link }));
        // About segments that are not on their way: forged.
        for report in forged {
            w.run(|e, cx| e.too_big(cx, &report));
            assert!(w.flush().is_empty());
        }
        // Too big after all: sent again at once, in smaller segments.
        w.run(|e, cx| e.too_big(cx, &report));
        let again = only(&w.flush());
        assert_eq!((again.tcp.seq, again.gso), (seq, Gso::Tcp { mss: path }));
        assert_eq!(again.spans, frame.spans);
        // A path does not get wider by a report.
        w.run(|e, cx| e.too_big(cx, &wide));
        assert!(w.flush().is_empty());
        // A forged report cannot make us send dust.
        w.run(|e, cx| e.too_big(cx, &tiny));
        assert_eq!(only(&w.flush()).gso, Gso::Tcp { mss: smallest });
        // What comes later is cut like that, too.
        let ack = w.tcp(c.guest, c.ours.wrapping_add(10_000), Flags::ACK);
        w.segment(&ack, 0);
        w.receive(c.id, 5000);
        assert_eq!(only(&w.flush()).gso, Gso::Tcp { mss: smallest });
    }
}

#[test]
fn unreachable_is_told_as_it_is_by_icmp_that_quotes_the_syn() {
    use HostError::{HostUnreachable, NetUnreachable, Prohibited};
    for (error, v4, v6) in
        [(HostUnreachable, (3, 1), (1, 3)), (NetUnreachable, (3, 0), (1, 0)), (Prohibited, (3, 13), (1, 1))]
    {
        for (mut w, want, ip) in [(World::new(), v4, 20), (World::v6(), v6, 40)] {
            let id = w.dial();
            w.host(id, HostEvent::ConnectFailed(error));
            let actions = w.flush();
            let Some(Action::EmitBytes(frame)) = actions.iter().find(|a| matches!(a, Action::EmitBytes(_)))
            else {
                panic!("{actions:?}")
            };
            let icmp = &frame[14 + ip..];
            assert_eq!((icmp[0], icmp[1]), want);
            let quoted = &icmp[8 + ip..];
            assert_eq!(quoted[..4], [156, 64, 0, 80]);
            assert_eq!(quoted[4..8], IRS.to_be_bytes());
            assert!(closed(&actions).is_some() && segments(&actions).is_empty());
            w.assert_empty();
        }
    }
}

#[test]
fn a_forbidden_destination_is_an_unreachable_network_and_nobody_is_silence() {
    let mut w = World::with(Network::default(), GUEST, "127.0.0.1:80");
    let syn = w.syn();
    w.segment(&syn, 0);
    assert!(matches!(w.flush().as_slice(), [Action::EmitBytes(f)] if f[34..36] == [3, 0]));
    let mut w = World::with(Network::default(), GUEST, "10.0.2.77:80");
    w.segment(&syn, 0);
    assert_eq!(w.flush(), []);
    w.assert_empty();
}

#[test]
fn names_over_tcp_try_the_resolvers_in_turn() {
    let mut w = World::with(Network::default(), GUEST, "10.0.2.3:53");
    let servers: Vec<SocketAddr> =
        vec!["192.0.2.1:53".parse().unwrap(), "[2001:db8::53]:53".parse().unwrap()];
    w.engine.set_resolvers(servers.clone());
    let first = w.dial();
    w.host(first, HostEvent::ConnectFailed(HostError::Refused));
    let actions = w.flush();
    let [Action::Close(old, _), Action::Open(second, Open::Tcp { remote, .. })] = actions.as_slice() else {
        panic!("{actions:?}")
    };
    assert_eq!((*old, *remote), (first, servers[1]));
    assert_ne!(first, *second);
    w.host(*second, HostEvent::ConnectFailed(HostError::Refused));
    assert!(only(&w.flush()).is(Flags::RST));
    w.assert_empty();
}

#[test]
fn a_lost_syn_ack_is_sent_again_and_given_up_at_last() {
    let mut w = World::new();
    let id = w.dial();
    w.host(id, HostEvent::Connected);
    let first = only(&w.flush());
    // The guest's SYN again is answered at once, but once only: the timer does the rest.
    let syn = w.syn();
    w.segment(&syn, 0);
    assert_eq!(only(&w.flush()).tcp.seq, first.tcp.seq);
    w.segment(&syn, 0);
    assert_eq!(w.flush(), []);
    let actions = w.wait(Duration::from_secs(120));
    let (last, again) = segments(&actions).split_last().map(|(l, a)| (l.clone(), a.to_vec())).unwrap();
    assert_eq!(again.len(), 4);
    assert!(again.iter().all(|s| s.is(Flags::SYN.with(Flags::ACK)) && s.tcp.seq == first.tcp.seq));
    assert!(last.is(Flags::RST));
    assert_eq!(closed(&actions), Some(Close::Reset));
    w.assert_empty();
}

#[test]
fn a_guest_that_gives_up_while_the_host_connects_frees_the_socket() {
    let mut w = World::new();
    w.dial();
    let far = w.tcp(IRS.wrapping_add(5000), 0, Flags::RST);
    w.segment(&far, 0);
    assert_eq!(w.flush(), []);
    let rst = w.tcp(IRS.wrapping_add(1), 0, Flags::RST);
    w.segment(&rst, 0);
    assert_eq!(closed(&w.flush()), Some(Close::Reset));
    w.assert_empty();
}

#[test]
fn a_guest_that_refuses_us_or_is_silent_is_told_to_the_host() {
    let mut w = World::new();
    let (guest, remote) = (w.guest, w.remote);
    w.run(|e, cx| e.connect(cx, guest, remote)).unwrap();
    let ours = only(&w.flush()).tcp.seq;
    // A reset must acknowledge our SYN.
    let mut rst = w.tcp(0, ours, Flags::RST.with(Flags::ACK));
    w.segment(&rst, 0);
    assert_eq!(closed(&w.flush()), None);
    rst.ack = ours.wrapping_add(1);
    w.segment(&rst, 0);
    assert_eq!(closed(&w.flush()), Some(Close::Reset));
    w.assert_empty();

    // Silence: asked four times within a quarter of a minute.
    w.run(|e, cx| e.connect(cx, guest, remote)).unwrap();
    let actions = w.wait(Duration::from_millis(14_900));
    assert_eq!(segments(&actions).iter().filter(|s| s.is(Flags::SYN)).count(), 4);
    assert_eq!(closed(&actions), None);
    assert_eq!(closed(&w.wait(Duration::from_millis(200))), Some(Close::Reset));
    w.assert_empty();
}
