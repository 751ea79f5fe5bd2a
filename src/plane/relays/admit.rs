//! Clients of relayed ports: accepted, given a backend, or turned away.
//!
//! Theory of operation. A listener is armed with a multishot accept. A client is given a backend by the
//! [`Attempts`](super::dial::Attempts) of its port, one after the other, on sockets of a [`Backends`]; a backend that
//! refuses to the last becomes a reset of the client, at once. Accepted sockets inherit their options (`TCP_NODELAY`,
//! keep-alive, congestion control) from the listener.
//!
//! *Descriptors.* At most `most` connections are held; one more is reset as soon as it is accepted. When the kernel itself
//! has none left, the reserved one is given up to accept the newest and reset it, [`SHED`] clients every
//! [`REST`]; then the listener is armed again. No error of an accept ends a listener.

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
                // The client gave up before it was accepted, or the queue ran full of completions.
                Ok(_) | Err(Errno::ECONNABORTED | Errno::EINTR | Errno::EAGAIN) => self.arm(ring, number),
                Err(_) => self.shed(ring, now, number),
            }
        }
        if let (Ok(_), Data::Fd(fd)) = (c.result, c.data) {
            self.admit(ring, backends, now, number, fd);
        }
    }

    /// Out of descriptors or memory: resets the newest clients, and tries again in a moment.
    fn shed(&mut self, ring: &mut Ring<T>, now: Time, number: u32) {
        let Some(listener) = self.listeners.get(number as usize) else { return };
        let (port, mut shed) = (listener.port, 0);
        self.reserve = None;
        let mut empty = false;
        for _ in 0..SHED {
            match SockRef::from(&listener.fd).accept() {
                Ok((client, _)) => {
                    let _ = client.set_linger(Some(Duration::ZERO));
                    shed += 1;
                }
                Err(e) => {
                    empty = e.kind() == io::ErrorKind::WouldBlock;
                    break;
                }
            }
        }
        self.reserve = reserve();
        self.count(port, |c| c.shed += shed);
        if empty && self.reserve.is_some() && shed > 0 {
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
            return;
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
            self.arm(ring, number);
        }
    }
}
