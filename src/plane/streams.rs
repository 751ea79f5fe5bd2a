//! TCP sockets of the flows: connect, send, and the ways they end. What they receive is in `intake`.

use super::errno::host_error;
use super::shard::Shard;
use super::sockets::HostSocket;
use super::tag::Tag;
use crate::buf::Span;
use crate::flow::FlowId;
use crate::msg::PortCounters;
use crate::ring::Completion;
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

    /// The counters of the published port that a flow came by, if it came by one.
    pub(super) fn port_counters(&mut self, flow: FlowId) -> Option<&mut PortCounters> {
        let port = self.sockets.get(flow)?.port?;
        self.tap_ports.counters_of(port)
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
