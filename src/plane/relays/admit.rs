//! Clients of relayed ports: accepted, given a backend, or turned away.
//!
//! Theory of operation. A listener is armed with a multishot accept. A client is given a backend by the
//! [`Attempts`](super::dial::Attempts) of its port, one after the other, on sockets of a [`Backends`]; a backend that
//! refuses to the last becomes a reset of the client, at once. Accepted sockets inherit their options (`TCP_NODELAY`,
//! keep-alive, congestion control) from the listener.
//!
//! *Descriptors.* At most `most` connections are held; one more is reset as soon as it is accepted, and its listener is no
//! longer armed: clients are then accepted by calls, only to be reset, until there are none or there is room again. When the
//! kernel itself has no descriptor left, the reserved one is given up for that. Either way [`SHED`] clients every [`REST`],
//! all listeners together, and the kernel's queue keeps the rest: to turn clients away must not be all that the plane does.
//! No error of an accept ends a listener.

use super::dial::{self, Attempt};
use super::tcp::{Backends, Link, REST, SHED, Take, TcpRelays, TcpTag, reserve};
use crate::flow::{FlowId, Time};
use crate::relay::Pair;
use crate::ring::{Completion, Data, Ring};
use nix::errno::Errno;
use socket2::{SockAddr, SockRef};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

impl<T: Copy> TcpRelays<T> {
    pub(super) fn arm(&mut self, ring: &mut Ring<T>, number: u32) {
        if let Some(listener) = self.listeners.get_mut(number as usize)
            && listener.op.is_none()
            && !listener.closing
        {
            listener.turning_away = false;
            listener.op = Some(ring.accept(listener.fd.as_fd(), (self.tag)(TcpTag::Accept(number))));
        }
    }

    pub(super) fn on_accepted<B: Backends>(
        &mut self,
        ring: &mut Ring<T>,
        backends: &mut B,
        now: Time,
        number: u32,
        c: Completion<T>,
    ) {
        let Some(listener) = self.listeners.get_mut(number as usize) else { return };
        if !c.more {
            listener.op = None;
            if listener.closing {
                self.listeners.remove(number as usize);
                return;
            }
            match c.result {
                _ if listener.turning_away => self.shedding.push_back((now + REST, number)),
                // The client gave up before it was accepted, or the queue ran full of completions.
                Ok(_) | Err(Errno::ECONNABORTED | Errno::EINTR | Errno::EAGAIN) => self.arm(ring, number),
                Err(_) => self.shed(ring, now, number, false),
            }
        }
        if let (Ok(_), Data::Fd(fd)) = (c.result, c.data) {
            self.admit(ring, backends, now, number, fd);
        }
    }

    /// Out of descriptors, memory or (`full`) room: resets the newest clients, and tries again in a moment.
    fn shed(&mut self, ring: &mut Ring<T>, now: Time, number: u32, full: bool) {
        let Some(listener) = self.listeners.get(number as usize) else { return };
        let (port, mut shed) = (listener.port, 0);
        self.reserve = None;
        let mut empty = false;
        if now >= self.shed_since + REST {
            (self.shed_since, self.shed_since_then) = (now, 0);
        }
        while self.shed_since_then < SHED {
            match SockRef::from(&listener.fd).accept() {
                Ok((client, _)) => {
                    let _ = client.set_linger(Some(Duration::ZERO));
                    shed += 1;
                    self.shed_since_then += 1;
                }
                Err(e) => {
                    empty = e.kind() == io::ErrorKind::WouldBlock;
                    break;
                }
            }
        }
        self.reserve = reserve();
        self.count(port, |c| c.shed += shed);
        // Without a descriptor an accept fails at once, so there has to be a sign that one was to be had.
        if empty && self.reserve.is_some() && (shed > 0 || full) {
            self.arm(ring, number);
        } else {
            self.shedding.push_back((now + REST, number));
        }
    }

    fn admit<B: Backends>(
        &mut self,
        ring: &mut Ring<T>,
        backends: &mut B,
        now: Time,
        number: u32,
        client: OwnedFd,
    ) {
        let listener = &self.listeners[number as usize];
        let port = listener.port;
        if self.links.len() >= self.most {
            let _ = SockRef::from(&client).set_linger(Some(Duration::ZERO));
            self.count(port, |c| c.shed += 1);
            return self.turn_away(ring, number);
        }
        let address = |a: io::Result<SockAddr>| a.ok().and_then(|a| a.as_socket());
        let mut peer = None;
        let mut ahead = None;
        if listener.service.wants_client() {
            peer = address(SockRef::from(&client).peer_addr());
            // It was reset before we looked.
            let Some(peer) = peer else { return };
            ahead = address(SockRef::from(&client).local_addr())
                .and_then(|local| listener.service.ahead(peer, local));
        }
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        let attempts = listener.service.attempts(peer.unwrap_or(unknown));
        if attempts.is_empty() {
            return;
        }
        let pair = Pair::new(listener.service.choice(), self.first);
        let id = self.links.insert(Link {
            pair,
            port,
            client,
            server: None,
            peer,
            opened: now,
            attempts,
            attempt: 0,
            refused: 0,
            ahead,
            ops: 0,
            receiving: [None; 2],
            waiting: [None; 2],
            marked: [false; 2],
            marks: [0; 2],
            open: false,
            answered: false,
            closing: false,
            ticking: false,
        });
        self.count(port, |c| c.accepted += 1);
        self.dial(ring, backends, now, id);
    }

    /// There is no room: the multishot accept, which knows no bound, ends. What it has accepted by then is reset, too.
    fn turn_away(&mut self, ring: &mut Ring<T>, number: u32) {
        if let Some(listener) = self.listeners.get_mut(number as usize)
            && let Some(op) = listener.op
            && !std::mem::replace(&mut listener.turning_away, true)
        {
            ring.cancel(op);
        }
    }

    /// Sockets may be had again: clients that wait for one try once more.
    pub fn sockets_arrived<B: Backends>(&mut self, ring: &mut Ring<T>, backends: &mut B, now: Time) {
        for id in std::mem::take(&mut self.waiting) {
            self.dial(ring, backends, now, id);
        }
    }

    fn dial<B: Backends>(&mut self, ring: &mut Ring<T>, backends: &mut B, now: Time, id: FlowId) {
        loop {
            let Some(link) = self.links.get_mut(id).filter(|l| !l.closing) else { return };
            let Some(&Attempt { kind, to, from, .. }) = link.attempts.get(link.attempt) else {
                let port = link.port;
                link.pair.abort(&mut self.actions);
                self.count(port, |c| c.refused += 1);
                self.perform(ring, now, id);
                return;
            };
            let server = match backends.take(kind) {
                Take::Now(fd) => fd,
                Take::Later => return self.waiting.push_back(id),
                Take::Refused(_) => {
                    link.attempt = dial::next(&link.attempts, link.attempt, link.refused);
                    continue;
                }
            };
            let link = self.links.get_mut(id).expect("looked up above");
            if let Some(from) = from
                && SockRef::from(&server).bind(&SockAddr::from(from)).is_err()
            {
                // The address is taken, or not to be had: the next try shows another.
                link.attempt = dial::next(&link.attempts, link.attempt, link.refused);
                continue;
            }
            link.ops += 1;
            ring.connect(server.as_fd(), to, (self.tag)(TcpTag::Connect(id)));
            link.server = Some(server);
            return;
        }
    }

    pub(super) fn on_connected<B: Backends>(
        &mut self,
        ring: &mut Ring<T>,
        backends: &mut B,
        now: Time,
        id: FlowId,
        result: Result<u32, Errno>,
    ) {
        let Some(link) = self.links.get_mut(id) else { return };
        link.ops -= 1;
        if link.closing {
            return self.bury(ring, now, id);
        }
        // A soft error is reported as success (see plane::streams): the socket itself knows. It also knows of a server that
        // has accepted and reset already, which is the connection's end and no refusal.
        let server = link.server.as_ref().map(SockRef::from);
        let connected = result.is_ok() && server.as_ref().is_some_and(|fd| fd.peer_addr().is_ok());
        let error = match result {
            Ok(_) if connected => None,
            Ok(_) => server.and_then(|fd| fd.take_error().ok().flatten()).and_then(|e| e.raw_os_error()),
            Err(errno) => Some(errno as i32),
        };
        // What is left where the connection stood when the reset came (`tcp_reset`, net/ipv4/tcp_input.c); before that it is
        // `ECONNREFUSED`.
        if matches!(error, Some(libc::ECONNRESET | libc::EPIPE)) {
            link.pair.abort(&mut self.actions);
            return self.perform(ring, now, id);
        }
        if !connected {
            link.server = None;
            if matches!(result, Err(Errno::ECONNREFUSED)) && link.attempt < 8 {
                link.refused |= 1 << link.attempt;
            }
            link.attempt = dial::next(&link.attempts, link.attempt, link.refused);
            return self.dial(ring, backends, now, id);
        }
        link.open = true;
        self.times.connect.record_time(now.since(link.opened));
        let port = link.port;
        if let Some(bytes) = link.ahead.take() {
            let arena = ring.arena_mut();
            match arena.alloc(crate::buf::Class::Small) {
                Some(buf) => {
                    let span = crate::buf::Span::new(buf, 0, bytes.len() as u32);
                    arena.bytes_mut(span).copy_from_slice(&bytes);
                    link.pair.ahead(now, span, &mut self.actions);
                }
                // A stream without its header would tell lies.
                None => link.pair.abort(&mut self.actions),
            }
        }
        link.pair.start(now, &mut self.actions);
        let hidden = link.attempts.get(link.attempt).is_some_and(|a| a.from.is_some() && !a.client_shown);
        self.count(port, |c| {
            c.connected += 1;
            c.hidden += u64::from(hidden);
        });
        self.perform(ring, now, id);
    }

    /// Arms listeners that have rested.
    pub(super) fn rearm(&mut self, ring: &mut Ring<T>, now: Time) {
        while let Some(&(at, number)) = self.shedding.front()
            && at <= now
        {
            self.shedding.pop_front();
            match self.listeners.get(number as usize) {
                Some(listener) if listener.op.is_some() => {}
                Some(_) if self.links.len() >= self.most => self.shed(ring, now, number, true),
                _ => self.arm(ring, number),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buf::ArenaConfig;
    use crate::config::PortId;
    use crate::msg::SocketKind;
    use crate::plane::relays::{Attempts, Service};
    use crate::ring::RingConfig;
    use socket2::{Domain, Socket, Type};
    use std::net::TcpStream;

    struct Nowhere;

    impl Service for Nowhere {
        fn attempts(&self, _: SocketAddr) -> Attempts {
            Attempts::from_iter([Attempt::plain(SocketAddr::from(([127, 0, 0, 1], 9)))])
        }
    }

    impl Backends for Nowhere {
        fn take(&mut self, _: SocketKind) -> Take {
            Take::Later
        }
    }

    struct World {
        ring: Ring<TcpTag>,
        relays: TcpRelays<TcpTag>,
        now: Time,
    }

    impl World {
        /// Turns of the loop until nothing happens any more while time stands still; how many were shed.
        fn settle(&mut self) -> u64 {
            let before = self.relays.counters(PortId(1)).shed;
            let mut quiet = 0;
            while quiet < 3 {
                self.ring.wait(Some(Duration::from_millis(10))).unwrap();
                quiet += 1;
                while let Some(c) = self.ring.completion() {
                    quiet = 0;
                    self.relays.handle(&mut self.ring, &mut Nowhere, self.now, c.tag, c);
                }
                self.relays.handle_timeout(&mut self.ring, self.now);
            }
            self.relays.counters(PortId(1)).shed - before
        }
    }

    #[test]
    fn whoever_is_too_many_is_reset_at_a_bounded_rate_and_who_waits_is_served_when_there_is_room() {
        const CLIENTS: u64 = 500;
        const CQ: u64 = 32;
        let arena = ArenaConfig { tap: 1, host: 1, small: 1, relay: 1, message: 1 };
        let config =
            RingConfig { entries: 8, cq_entries: CQ as u32, arena, ops: 64, ..RingConfig::default() };
        let ring = Ring::new(config).unwrap();
        let mut world = World { ring, relays: TcpRelays::new(1, |tag| tag), now: Time::ZERO };
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(1024).unwrap();
        let at = listener.local_addr().unwrap().as_socket().unwrap();
        world.relays.add(&mut world.ring, listener.into(), PortId(1), Box::new(Nowhere)).unwrap();
        let clients: Vec<_> = (0..CLIENTS).map(|_| TcpStream::connect(at).unwrap()).collect();
        // What one multishot accept brings until its end, which the queue of completions bounds.
        let first = world.settle();
        assert!(first > 0 && first <= 2 * CQ, "{first} at once");
        let mut shed = first;
        for _ in 0..3 {
            world.now += REST;
            let more = world.settle();
            assert!(more > 0 && more <= SHED as u64 + 2 * CQ, "{more} in one rest");
            shed += more;
        }
        assert!(shed < CLIENTS - 1);
        // With room the rest is served.
        world.relays.set_most(usize::MAX);
        world.now += REST;
        world.settle();
        assert_eq!(world.relays.counters(PortId(1)).accepted + shed, CLIENTS);
        drop(clients);
    }
}
