//! TCP sockets of the flows: connect, receive, send, and the ways they end.

use super::errno::host_error;
use super::shard::Shard;
use super::sockets::HostSocket;
use super::tag::Tag;
use crate::buf::{Class, SMALL_MAX, Span};
use crate::flow::{FlowId, Kind};
use crate::msg::PortCounters;
use crate::ring::{Completion, Data};
use crate::stack::{Close, HostEvent, Open};
use nix::errno::Errno;
use nix::poll::PollFlags;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::time::Duration;

/// How long a send that could not wait for room rests: the buffers of a socket hold several milliseconds of bulk.
const SEND_AGAIN: Duration = Duration::from_millis(1);

impl Shard {
    pub(super) fn open(&mut self, flow: FlowId, open: &Open) {
        let socket = self.sockets.insert(HostSocket::open(flow, open, self.now));
        match (socket.fd(), *open) {
            (Ok(fd), Open::Tcp { remote, .. }) => {
                self.ring.connect(fd, remote, Tag::Connect(flow));
            }
            // A datagram socket is ready as it is.
            (Ok(_), _) => {}
            (Err(e), _) => {
                self.stack.handle_host(self.now, flow, HostEvent::ConnectFailed(host_error(e)));
            }
        }
    }

    pub(super) fn on_connected(&mut self, flow: FlowId, c: &Completion<Tag>) {
        let Some(socket) = self.sockets.get_mut(flow) else { return };
        let Ok(fd) = socket.fd() else { return };
        let event = match c.result {
            // An ICMP error that arrives while connect(2) still holds the socket is a "soft" one, of which the operation
            // reports success (seen on 6.18): the socket itself knows.
            Ok(_) if socket2::SockRef::from(&fd).peer_addr().is_err() => {
                match socket2::SockRef::from(&fd).take_error() {
                    Ok(Some(e)) => {
                        let errno = e.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
                        HostEvent::ConnectFailed(host_error(errno))
                    }
                    // Not decided yet.
                    _ => {
                        self.ring.poll(fd, PollFlags::POLLOUT, false, Tag::Connect(flow));
                        return;
                    }
                }
            }
            Ok(_) => {
                self.times.connect_host.record_time(self.now.since(socket.since));
                HostEvent::Connected
            }
            Err(e) => HostEvent::ConnectFailed(host_error(e)),
        };
        self.stack.handle_host(self.now, flow, event);
    }

    pub(super) fn receive(&mut self, flow: FlowId, on: bool) {
        let Some(socket) = self.sockets.get_mut(flow) else { return };
        socket.want_receive = on;
        if on && !std::mem::replace(&mut socket.stood, true) && socket.port.is_some() {
            self.times.connect_guest.record_time(self.now.since(socket.since));
        }
        match (on, socket.receiving) {
            (true, None) => self.arm_receive(flow),
            (false, Some(op)) => self.ring.cancel(op),
            _ => {}
        }
    }

    fn arm_receive(&mut self, flow: FlowId) {
        let Some(socket) = self.sockets.get_mut(flow) else { return };
        let Ok(fd) = socket.fd() else { return };
        let op = match flow.kind() {
            Kind::Tcp => self.ring.receive(fd, Tag::Receive(flow)),
            Kind::Udp | Kind::Ping | Kind::Dns | Kind::Inbound | Kind::Relay => {
                self.ring.receive_messages(fd, Tag::ReceiveMessages(flow))
            }
        };
        socket.receiving = Some(op);
    }

    /// The armed receive has ended: arm it again if it is still wanted, or remember that buffers were missing.
    pub(super) fn rearm(&mut self, flow: FlowId, starved: bool) {
        let Some(socket) = self.sockets.get_mut(flow) else { return };
        socket.receiving = None;
        if !socket.want_receive {
            return;
        }
        if starved {
            self.starved.push(flow);
        } else {
            self.arm_receive(flow);
        }
    }

    /// Half of a class's slots are free again: arming a receive into an empty ring would end at once (liburing#1275).
    fn recovered(&self, class: Class) -> bool {
        self.ring.buffers_available(class) * 2 >= self.ring.buffers_total(class)
    }

    pub(super) fn feed_the_starved(&mut self) {
        if (!self.starved.is_empty() || self.tap_ports_starve()) && self.recovered(Class::Host) {
            self.feed_tap_ports();
            for flow in std::mem::take(&mut self.starved) {
                if self.sockets.get_mut(flow).is_some_and(|s| s.want_receive && s.receiving.is_none()) {
                    self.arm_receive(flow);
                }
            }
        }
        if self.tap_starved && self.recovered(Class::Tap) {
            self.arm_tap();
        }
    }

    pub(super) fn on_received(&mut self, flow: FlowId, c: Completion<Tag>) {
        if self.sockets.get_mut(flow).is_none_or(|s| s.receiving != Some(c.op)) {
            return self.discard(c.data);
        }
        match c.result {
            Ok(0) => {
                self.discard(c.data);
                if let Some(socket) = self.sockets.get_mut(flow) {
                    // Nothing more will come; a later `Receive(true)` must not arm into an endless row of ends.
                    socket.receiving = Some(c.op);
                    socket.want_receive = false;
                }
                self.stack.handle_host(self.now, flow, HostEvent::Eof);
            }
            Ok(_) => {
                if let Data::Span(span) = c.data {
                    if let Some(counters) = self.port_counters(flow) {
                        counters.bytes_down += u64::from(span.len);
                    }
                    let span = self.shrink_payload(span);
                    self.stack.handle_host(self.now, flow, HostEvent::Received(span));
                }
                if !c.more {
                    self.rearm(flow, false);
                }
            }
            Err(Errno::ENOBUFS) => self.rearm(flow, true),
            Err(Errno::ECANCELED | Errno::EINTR | Errno::EAGAIN) => self.rearm(flow, false),
            Err(e) => {
                self.stack.handle_host(self.now, flow, HostEvent::ReceiveFailed(host_error(e)));
            }
        }
    }

    /// The counters of the published port that a flow came by, if it came by one.
    fn port_counters(&mut self, flow: FlowId) -> Option<&mut PortCounters> {
        let port = self.sockets.get(flow)?.port?;
        self.tap_ports.counters_of(port)
    }

    /// Short payload does not keep a large slot.
    pub(super) fn shrink_payload(&mut self, span: Span) -> Span {
        if span.len as usize <= SMALL_MAX { self.shrink(span) } else { span }
    }

    pub(super) fn send_stream(&mut self, flow: FlowId, spans: &[Span]) {
        let Some(socket) = self.sockets.get_mut(flow) else { return };
        socket.sending = true;
        match socket.fd() {
            Ok(fd) => {
                self.ring.send(fd, spans, Tag::Send(flow));
            }
            Err(e) => self.stack.handle_host(self.now, flow, HostEvent::SendFailed(host_error(e))),
        }
    }

    pub(super) fn on_sent(&mut self, flow: FlowId, c: &Completion<Tag>) {
        if c.result == Err(Errno::EAGAIN) {
            return self.stalled.push_back((self.now + SEND_AGAIN, flow));
        }
        self.finish_send(flow, c.result);
    }

    /// Sends again what the kernel would not wait for.
    ///
    /// io_uring wakes a waiting send whenever the peer has ended its direction (it polls for `EPOLLRDHUP` always,
    /// io_uring/poll.c), so that with a full socket buffer it gives up after its 128 attempts: time must do. The stack
    /// repeats what was not sent.
    pub(super) fn wake_the_stalled(&mut self) {
        while let Some(&(at, flow)) = self.stalled.front()
            && at <= self.now
        {
            self.stalled.pop_front();
            self.finish_send(flow, Ok(0));
        }
    }

    fn finish_send(&mut self, flow: FlowId, result: Result<u32, Errno>) {
        let Some(socket) = self.sockets.get_mut(flow) else { return };
        socket.sending = false;
        let shut_down = std::mem::take(&mut socket.shutdown_after_send);
        let first = socket.port.is_some() && matches!(result, Ok(n) if n > 0);
        if first && !std::mem::replace(&mut socket.answered, true) {
            self.times.first_byte.record_time(self.now.since(socket.since));
        }
        if let (Ok(n), Some(counters)) = (result, self.port_counters(flow)) {
            counters.bytes_up += u64::from(n);
        }
        let event = match result {
            Ok(n) => HostEvent::Sent(n as usize),
            Err(e) => HostEvent::SendFailed(host_error(e)),
        };
        if shut_down {
            self.shutdown_write(flow);
        }
        self.stack.handle_host(self.now, flow, event);
    }

    pub(super) fn shutdown_write(&mut self, flow: FlowId) {
        let Some(socket) = self.sockets.get_mut(flow) else { return };
        if socket.sending {
            socket.shutdown_after_send = true;
            return;
        }
        if let Ok(fd) = socket.fd() {
            self.ring.shutdown(fd, Shutdown::Write, Tag::Shutdown);
        }
    }

    pub(super) fn close(&mut self, flow: FlowId, how: Close) {
        let Some(socket) = self.sockets.remove(flow) else { return };
        if how == Close::Reset
            && !socket.stood
            && let Some(counters) = socket.port.and_then(|port| self.tap_ports.counters_of(port))
        {
            counters.refused += 1;
        }
        let Ok(fd) = socket.fd else { return };
        if how == Close::Reset {
            // Lingering for no time at all makes close(2) send a reset (socket(7)).
            let _ = socket2::SockRef::from(&fd).set_linger(Some(Duration::ZERO));
        }
        self.ring.cancel_fd(fd.as_fd());
        self.graveyard.push(fd);
    }
}
