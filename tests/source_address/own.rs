//! What the guest does itself from a published port goes its usual way, by the tap.

use crate::world::{CLIENT, LOOPBACK, PATIENCE, TAP, WILDCARD, World, serve_tcp};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Instant;

/// Somebody who is no client.
const PEER: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(198, 51, 100, 9)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 9))];

/// The next packet that leaves by the tap from `port`: whether TCP, and where to.
fn leaves_by_the_tap(world: &World, port: u16) -> (bool, SocketAddr) {
    let start = Instant::now();
    let mut frame = [0; 2048];
    loop {
        let Ok(length) = nix::unistd::read(&world.tap, &mut frame) else {
            assert!(start.elapsed() < PATIENCE, "nothing from port {port} has left by the tap");
            let mut fds = [nix::poll::PollFd::new(world.tap.as_fd(), nix::poll::PollFlags::POLLIN)];
            nix::poll::poll(&mut fds, nix::poll::PollTimeout::from(1000u16)).unwrap();
            continue;
        };
        let Ok(packet) = SlicedPacket::from_ethernet(&frame[..length]) else { continue };
        let to: IpAddr = match packet.net {
            Some(NetSlice::Ipv4(ip)) => ip.header().destination_addr().into(),
            Some(NetSlice::Ipv6(ip)) => ip.header().destination_addr().into(),
            _ => continue,
        };
        match packet.transport {
            Some(TransportSlice::Udp(udp)) if udp.source_port() == port => {
                return (false, (to, udp.destination_port()).into());
            }
            Some(TransportSlice::Tcp(tcp)) if tcp.source_port() == port => {
                return (true, (to, tcp.destination_port()).into());
            }
            _ => {}
        }
    }
}

#[test]
fn a_published_datagram_port_may_be_used_for_the_guests_own() {
    let mut world = World::steered(true);
    for n in 0..2 {
        // As WireGuard does: one socket serves clients and speaks first to peers.
        let server = world.guest.place().udp_socket((WILDCARD[n], 51_820)).unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let client = world.talk((CLIENT[n], 51_820), (TAP[n], 51_820));
        client.send(b"hello").unwrap();
        let (_, from) = server.recv_from(&mut [0; 10]).unwrap();
        assert_eq!(from, SocketAddr::from((CLIENT[n], 51_820)));
        for to in [(PEER[n], 51_820), (CLIENT[n], 51_821)] {
            server.send_to(b"hello", SocketAddr::from(to)).unwrap();
            assert_eq!(leaves_by_the_tap(&world, 51_820), (false, to.into()));
        }
        server.send_to(b"answer", from).unwrap();
        assert_eq!(client.recv(&mut [0; 10]).unwrap(), 6);
    }
}

#[test]
fn a_published_range_of_stream_ports_may_be_used_for_the_guests_own() {
    let mut world = World::steered(true);
    for n in 0..2 {
        serve_tcp(world.guest.place().tcp_listener((LOOPBACK[n], 30_000)).unwrap());
        let _stream = world.assert_tcp_seen((CLIENT[n], 39_999), (LOOPBACK[n], 30_000));
        // From published ports, of a server or not; to strangers and to the client.
        for (from, to) in [((TAP[n], 30_000), (PEER[n], 443)), ((TAP[n], 39_999), (CLIENT[n], 39_999))] {
            let own = world.guest.place().tcp_socket(from).unwrap();
            own.set_reuse_address(true).unwrap();
            own.bind(&SocketAddr::from(from).into()).unwrap();
            own.set_nonblocking(true).unwrap();
            own.connect(&SocketAddr::from(to).into()).unwrap_err();
            assert_eq!(leaves_by_the_tap(&world, from.1), (true, to.into()));
        }
    }
}
