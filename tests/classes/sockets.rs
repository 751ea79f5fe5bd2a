//! (i), (j): sockets that die at the wrong time, and descriptors that there are none of.

use crate::common::World as Lab;
use crate::fuzz::seeds::{addr, at, datagram, message, plain, segment};
use crate::fuzz::world::World;
use crate::{heard, still_works};
use ringtap::flow::{FlowId, Kind, Limit};
use ringtap::stack::{HostError, HostEvent, IcmpError};
use ringtap::wire::tcp::Flags;
use std::process::Stdio;
use std::time::Duration;

/// One flow of each kind that has a socket.
fn open(w: &mut World, port: u16) -> Vec<FlowId> {
    let before = w.opened.len();
    let from = at(&format!("10.0.2.100:{port}"));
    w.frame(&segment(from, at("198.51.100.2:80"), &plain(1, 0, Flags::SYN), 0));
    w.frame(&datagram(from, at("198.51.100.2:9"), b"x"));
    let [a, b] = port.to_be_bytes();
    w.frame(&message(addr("10.0.2.100"), addr("198.51.100.2"), 64, &[8, 0, 0, 0, a, b, 0, 1]));
    w.frame(&datagram(from, at("10.0.2.3:53"), b"query"));
    w.end_batch();
    let flows: Vec<FlowId> = w.opened[before..].iter().map(|(id, _)| *id).collect();
    let kinds: Vec<Kind> = flows.iter().map(|id| id.kind()).collect();
    assert_eq!(kinds, [Kind::Tcp, Kind::Udp, Kind::Ping, Kind::Dns]);
    flows
}

/// What a completion that comes late can say.
fn events(w: &mut World) -> Vec<HostEvent> {
    let (peer, offender) = (at("198.51.100.2:9"), Some(addr("198.51.100.1")));
    let icmp = IcmpError { offender, icmp_type: 3, code: 3, info: 0, to: peer, echo_seq: 1 };
    let mut buffer = || w.host_buffer(b"late bytes").expect("a buffer");
    vec![
        HostEvent::Received(buffer()),
        HostEvent::Datagrams { from: peer, data: buffer(), segment: Some(3), tos: 0 },
        HostEvent::EchoReply { from: peer.ip(), seq: 1, data: buffer(), ttl: 9 },
        HostEvent::DatagramsFailed { to: peer, error: HostError::Refused },
        HostEvent::Icmp(icmp),
        HostEvent::Connected,
        HostEvent::ConnectFailed(HostError::Refused),
        HostEvent::ReceiveFailed(HostError::Reset),
        HostEvent::SendFailed(HostError::Reset),
        HostEvent::Sent(10),
        HostEvent::Eof,
    ]
}

/// CVE-2017-13711 (a socket was freed and used from the queue of pending packets), CVE-2014-3640 (a datagram for a socket
/// that was not there), and the busy loop of slirp4netns #227: whatever a dead socket still says reaches nobody, also when
/// another flow has its place.
#[test]
fn i_what_a_dead_socket_says_reaches_nobody() {
    for again in [false, true] {
        let mut w = heard();
        let dead = open(&mut w, 1000);
        for id in &dead {
            w.event(*id, HostEvent::ConnectFailed(HostError::Exhausted));
        }
        w.end_batch();
        w.pass(Duration::from_secs(300));
        assert_eq!(w.stack.flows().count(), 0);
        let alive = if again { open(&mut w, 2000) } else { Vec::new() };
        if again {
            let places = |flows: &[FlowId]| flows.iter().map(|id| id.index()).collect::<Vec<_>>();
            assert_eq!(places(&dead), places(&alive), "they have the places of the dead");
        }
        w.frames.clear();
        let held = w.live;
        for id in &dead {
            for event in events(&mut w) {
                w.event(*id, event);
                w.end_batch();
            }
        }
        assert_eq!((w.live, w.frames.len(), w.socks.len()), (held, 0, alive.len()));
        for id in alive {
            assert!(w.stack.flow(id).is_some_and(|f| f.counters.bytes_down == 0), "{id:?}");
        }
        w.finish();
    }
}

/// An empty datagram is a datagram, and is consumed (slirp4netns #227).
#[test]
fn i_empty_datagrams_are_delivered_and_are_over() {
    let mut w = heard();
    let flow = open(&mut w, 1000)[1];
    let data = w.host_buffer(b"").expect("a buffer");
    w.event(flow, HostEvent::Datagrams { from: at("198.51.100.2:9"), data, segment: None, tos: 0 });
    w.end_batch();
    assert_eq!(w.frames.len(), 1);
    assert_eq!(w.live[1], 0);
    w.finish();
}

/// EMFILE for whichever socket: what needed it is refused and counted, and nothing of it stays.
#[test]
fn j_flows_without_a_descriptor_are_refused_and_forgotten() {
    let mut w = heard();
    for port in 1000..1100 {
        let flows = open(&mut w, port);
        w.frames.clear();
        w.event(flows[0], HostEvent::ConnectFailed(HostError::Exhausted));
        w.end_batch();
        assert_eq!(w.frames.len(), 1, "the guest is told at once");
        assert_eq!(w.frames[0][47] & 4, 4, "by a reset");
        for id in &flows[1..] {
            w.event(*id, HostEvent::ConnectFailed(HostError::Exhausted));
        }
        assert!(flows.iter().all(|id| !w.socks.contains_key(id)));
        w.pass(Duration::from_secs(60));
    }
    assert_eq!(w.stack.counters().limited(Limit::Descriptors), 100);
    still_works(&mut w);
    w.finish();
}

/// The program itself under a limit of descriptors that a guest runs into: no connection hangs, and when the guest lets go of
/// some, it has them again.
#[test]
fn j_a_guest_that_uses_up_all_descriptors_gets_them_back() {
    let world = Lab::new();
    let mut command = world.lab.host().command_as_user("sh").unwrap();
    command.args(["-c", "ulimit -n 300; exec \"$R\" run -- sh -c 'echo ready; exec sleep infinity'"]);
    command.env("R", world.lab.bin("ringtap")).stdout(Stdio::piped());
    let mut running = world.lab.host().spawn(&mut command).unwrap();
    let mut line = [0; 6];
    std::io::Read::read_exact(running.child().stdout.as_mut().unwrap(), &mut line).unwrap();
    let guest = world.lab.guest_below(running, "sleep", Duration::from_secs(30)).unwrap();
    let dial = || guest.place().tcp_connect_within((crate::common::SERVER[0], 7), Duration::from_secs(20));
    // More often than would do with descriptors that do not come back.
    for _ in 0..6 {
        let (open, refused): (Vec<_>, Vec<_>) = (0..200).map(|_| dial()).partition(Result::is_ok);
        assert!(open.len() >= 50 && refused.len() >= 50, "{} open, {} refused", open.len(), refused.len());
        for error in refused {
            let kind = error.unwrap_err().kind();
            assert_ne!(kind, std::io::ErrorKind::TimedOut, "refused, not hung");
        }
        drop(open);
        let mut tries = 0;
        while dial().is_err() {
            tries += 1;
            assert!(tries < 100, "no descriptor came back");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}
