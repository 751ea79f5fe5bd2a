//! The pool of the plane against a factory in the hands of the guest.

use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use ringtap::lab::{Lab, addr};
use ringtap::msg::{Channel, FromFactory, SocketKind, ToFactory};
use ringtap::netns::factory::make;
use ringtap::plane::factory::{DEPTH_MAX, DEPTH_MIN, Factory, FactoryError, News};
use ringtap::ring::sockopt::netns_cookie;
use socket2::{Domain, Protocol, Socket, Type};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const TCP: SocketKind = SocketKind { v6: false, datagram: false, transparent: true };
const UDP: SocketKind = SocketKind { v6: false, datagram: true, transparent: false };

/// A pool, and the other end of its channel. The guest's namespace is that of the lab's server.
struct Duel {
    lab: Lab,
    factory: Factory,
    inside: Channel,
}

impl Duel {
    fn new() -> Self {
        let lab = Lab::new().unwrap();
        let cookie = netns_cookie(lab.internet().tcp_socket((addr::SERVER_V4, 0)).unwrap().as_fd()).unwrap();
        let (ours, inside) = Channel::pair().unwrap();
        Self { lab, factory: Factory::new(ours, cookie).unwrap(), inside }
    }

    fn good(&self) -> OwnedFd {
        self.lab.internet().tcp_socket((addr::SERVER_V4, 0)).unwrap().into()
    }

    fn good_udp(&self) -> OwnedFd {
        self.lab.internet().unbound_udp_socket((addr::SERVER_V4, 0)).unwrap().into()
    }

    /// How many sockets of `kind` the pool asks for, if it does.
    fn asked(&self, kind: SocketKind) -> Option<u16> {
        self.inside.try_recv::<ToFactory>().unwrap().map(|(ToFactory::Make { kind: of, count }, _)| {
            assert_eq!(of, kind);
            count
        })
    }

    fn send(&self, message: FromFactory, fds: &[OwnedFd]) {
        let fds: Vec<BorrowedFd> = fds.iter().map(AsFd::as_fd).collect();
        self.inside.send(&message, &fds).unwrap();
    }

    /// Answers a request for TCP sockets with `fds`, which must be refused.
    fn refused(mut self, message: FromFactory, fds: &[OwnedFd]) -> FactoryError {
        assert!(self.factory.take(TCP).is_none());
        assert!(self.asked(TCP).is_some());
        self.send(message, fds);
        self.ended()
    }

    /// The failure, after which nothing is left.
    fn ended(mut self) -> FactoryError {
        let failure = self.factory.on_readable().unwrap_err();
        assert!(self.factory.is_closed() && self.factory.held() == 0);
        assert!(self.factory.take(TCP).is_none());
        assert!(matches!(self.factory.on_readable(), Err(FactoryError::Gone)));
        // Nobody is asked any more, and whatever else comes is refused by the kernel.
        assert!(self.inside.send(&FromFactory::Made(TCP), &[]).is_err());
        failure
    }
}

#[track_caller]
fn assert_no(failure: &FactoryError, what: &str) {
    assert!(failure.to_string().contains(what), "{failure}");
}

#[test]
fn what_is_asked_for_is_handed_out() {
    let mut duel = Duel::new();
    assert_eq!(duel.asked(TCP), None);
    assert!(duel.factory.take(TCP).is_none());
    let count = duel.asked(TCP).unwrap();
    assert_eq!(usize::from(count), DEPTH_MIN + 1);
    let made: Vec<_> = (0..count).map(|_| duel.good()).collect();
    duel.send(FromFactory::Made(TCP), &made);
    assert_eq!(duel.factory.on_readable().unwrap()[..], [News::Arrived(TCP)]);
    let socket = Socket::from(duel.factory.take(TCP).unwrap());
    assert!(socket.nonblocking().unwrap());
    assert!(duel.factory.on_readable().unwrap().is_empty());
}

#[test]
fn the_pool_deepens_with_use_up_to_its_limit_and_asks_ahead() {
    let mut duel = Duel::new();
    let mut most = 0;
    for _ in 0..12 {
        while duel.factory.take(UDP).is_some() {}
        // A second miss asks for nothing more.
        assert!(duel.factory.take(UDP).is_none());
        let count = duel.asked(UDP).unwrap();
        assert_eq!(duel.asked(UDP), None);
        let made: Vec<_> = (0..count).map(|_| duel.good_udp()).collect();
        duel.send(FromFactory::Made(UDP), &made);
        duel.factory.on_readable().unwrap();
        most = most.max(duel.factory.held());
        // The request made on the way down, if any, is answered: none.
        while duel.factory.take(UDP).is_some() {}
        if duel.asked(UDP).is_some() {
            duel.send(FromFactory::Refused { kind: UDP, errno: 24 }, &[]);
            assert_eq!(duel.factory.on_readable().unwrap()[..], [News::Refused { kind: UDP, errno: 24 }]);
        }
    }
    assert!((DEPTH_MAX / 2..=DEPTH_MAX + 2).contains(&most), "{most}");
    // Full, it asks again when half is gone, and not before.
    assert!(duel.factory.take(UDP).is_none());
    let count = duel.asked(UDP).unwrap();
    let made: Vec<_> = (0..count).map(|_| duel.good_udp()).collect();
    duel.send(FromFactory::Made(UDP), &made);
    duel.factory.on_readable().unwrap();
    while duel.factory.held() > DEPTH_MAX / 2 + 1 {
        duel.factory.take(UDP).unwrap();
        assert_eq!(duel.asked(UDP), None);
    }
    duel.factory.take(UDP).unwrap();
    assert_eq!(duel.asked(UDP).map(usize::from), Some(DEPTH_MAX / 2));
    // A pause gives most of it back; a longer one all.
    duel.factory.trim();
    assert_eq!(duel.factory.held(), DEPTH_MIN);
    duel.factory.trim();
    assert_eq!(duel.factory.held(), 0);
}

#[test]
fn sockets_of_another_kind_are_refused() {
    let duel = Duel::new();
    let v6 = duel.lab.internet().tcp_socket((addr::SERVER_V6, 0)).unwrap();
    assert_no(&duel.refused(FromFactory::Made(TCP), &[v6.into()]), "family");
    let duel = Duel::new();
    let udp = duel.good_udp();
    assert_no(&duel.refused(FromFactory::Made(TCP), &[udp]), "type");
    let (pipe, _) = std::io::pipe().unwrap();
    assert_no(&Duel::new().refused(FromFactory::Made(TCP), &[pipe.into()]), "family");
}

#[test]
fn sockets_of_our_own_namespace_or_a_third_are_refused() {
    let ours = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
    assert_no(&Duel::new().refused(FromFactory::Made(TCP), &[ours.into()]), "namespace");
    let duel = Duel::new();
    let third = duel.lab.far().tcp_socket((addr::FAR_V4, 0)).unwrap();
    assert_no(&duel.refused(FromFactory::Made(TCP), &[third.into()]), "namespace");
}

#[test]
fn sockets_in_use_are_refused() {
    let duel = Duel::new();
    let bound = duel.lab.internet().tcp_socket((addr::SERVER_V4, 0)).unwrap();
    bound.bind(&SocketAddr::from((addr::SERVER_V4, 4000)).into()).unwrap();
    assert_no(&duel.refused(FromFactory::Made(TCP), &[bound.into()]), "unbound");
    let duel = Duel::new();
    let _server = duel.lab.internet().tcp_listener((addr::SERVER_V4, 4000)).unwrap();
    let connected = duel.lab.internet().tcp_connect((addr::SERVER_V4, 4000)).unwrap();
    assert_no(&duel.refused(FromFactory::Made(TCP), &[connected.into()]), "unconnected");
    // One bad socket among good ones takes them along.
    let duel = Duel::new();
    let bound = duel.lab.internet().tcp_listener((addr::SERVER_V4, 4001)).unwrap();
    let sockets = [duel.good(), bound.into(), duel.good()];
    assert_no(&duel.refused(FromFactory::Made(TCP), &sockets), "unbound");
}

#[test]
fn answers_that_nobody_asked_for_are_refused() {
    let duel = Duel::new();
    let socket = duel.good();
    duel.send(FromFactory::Made(TCP), &[socket]);
    assert!(matches!(duel.ended(), FactoryError::Unasked));
    let duel = Duel::new();
    let socket = duel.good_udp();
    assert!(matches!(duel.refused(FromFactory::Made(UDP), &[socket]), FactoryError::Unasked));
    // A second answer to one request.
    let mut duel = Duel::new();
    assert!(duel.factory.take(TCP).is_none());
    for _ in 0..2 {
        let socket = duel.good();
        duel.send(FromFactory::Made(TCP), &[socket]);
    }
    assert!(matches!(duel.ended(), FactoryError::Unasked));
}

#[test]
fn wrong_counts_and_nonsense_are_refused() {
    let refused = Duel::new().refused(FromFactory::Made(TCP), &[]);
    assert!(matches!(refused, FactoryError::Count { got: 0, .. }));
    let duel = Duel::new();
    let many: Vec<_> = (0..20).map(|_| duel.good()).collect();
    assert!(matches!(duel.refused(FromFactory::Made(TCP), &many), FactoryError::Count { got: 20, asked: 5 }));
    let duel = Duel::new();
    let socket = duel.good();
    let refusal = FromFactory::Refused { kind: TCP, errno: 1 };
    assert!(matches!(duel.refused(refusal, &[socket]), FactoryError::Count { got: 1, .. }));
    let duel = Duel::new();
    nix::unistd::write(&duel.inside, &[0xff; 100]).unwrap();
    assert!(matches!(duel.ended(), FactoryError::Channel(_)));
}

#[test]
fn a_factory_that_does_not_read_or_ends_is_noticed() {
    let mut duel = Duel::new();
    nix::sys::socket::shutdown(
        std::os::fd::AsRawFd::as_raw_fd(&duel.inside),
        nix::sys::socket::Shutdown::Both,
    )
    .unwrap();
    assert!(duel.factory.take(TCP).is_none());
    assert!(matches!(duel.factory.on_readable(), Err(FactoryError::Gone)));
    let Duel { lab: _lab, mut factory, inside } = Duel::new();
    drop(inside);
    assert!(matches!(factory.on_readable(), Err(FactoryError::Gone)));
    assert!(factory.take(TCP).is_none() && factory.is_closed());
}

#[test]
fn sockets_come_with_their_options() {
    let plain = |v6, datagram| make(SocketKind { v6, datagram, transparent: false }).unwrap();
    for v6 in [false, true] {
        let (tcp, udp) = (plain(v6, false), plain(v6, true));
        assert!(tcp.reuse_address().unwrap() && udp.reuse_address().unwrap());
        assert!(tcp.nonblocking().unwrap() && udp.nonblocking().unwrap());
        assert!(tcp.tcp_nodelay().unwrap() && tcp.keepalive().unwrap());
        assert_eq!(tcp.tcp_keepalive_time().unwrap().as_secs(), 15);
        assert!(getsockopt(&udp, sockopt::UdpGroSegment).unwrap());
        if v6 {
            assert!(tcp.only_v6().unwrap() && getsockopt(&udp, sockopt::Ipv6RecvErr).unwrap());
        } else {
            assert!(getsockopt(&udp, sockopt::Ipv4RecvErr).unwrap());
        }
        // As large as this machine lets us have it.
        let largest = plain(v6, true);
        setsockopt(&largest, sockopt::RcvBuf, &(1 << 20)).unwrap();
        assert_eq!(udp.recv_buffer_size().unwrap(), largest.recv_buffer_size().unwrap());
    }
}
