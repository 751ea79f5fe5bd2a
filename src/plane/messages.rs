//! Datagram and ping sockets of the flows: what comes in, what goes out, and errors that belong to somebody else.

use super::datagrams::{Pending, singles};
use super::errno::host_error;
use super::errqueue;
use super::shard::Shard;
use super::tag::Tag;
use crate::buf::Span;
use crate::flow::{DropReason, FlowId, Kind};
use crate::ring::{Completion, Data, Message};
use crate::stack::{Datagrams, HostEvent, IcmpError};
use nix::errno::Errno;
use std::net::SocketAddr;

/// ICMP echo reply (RFC 792) and ICMPv6 echo reply (RFC 4443).
const ECHO_REPLY: [u8; 2] = [0, 129];
/// Bytes of an echo message before its data.
const ECHO_HEADER: u32 = 8;

impl Shard {
    pub(super) fn on_messages(&mut self, flow: FlowId, c: Completion<Tag>) {
        if self.sockets.get(flow).is_none_or(|s| !s.armed.is(c.op)) {
            return self.discard(c.data);
        }
        match c.result {
            Ok(_) => {
                if let Data::Message { from: Some(from), data, segment, tos, ttl, truncated: false, .. } =
                    c.data
                {
                    let data = self.shrink_payload(data);
                    if flow.kind() == Kind::Ping {
                        self.on_echo_reply(flow, from, data, ttl.unwrap_or(64));
                    } else {
                        self.stack.handle_host(
                            self.now,
                            flow,
                            HostEvent::Datagrams { from, data, segment, tos },
                        );
                    }
                } else {
                    self.stack.count_drop(DropReason::Malformed);
                    self.discard(c.data);
                }
                if !c.more {
                    self.rearm(flow, false);
                }
            }
            Err(Errno::ENOBUFS) => self.rearm(flow, true),
            Err(_) => {
                // Somebody's ICMP error, or a cancellation. Either way the socket lives on.
                self.drain_errors(flow);
                if !c.more {
                    self.rearm(flow, false);
                }
            }
        }
    }

    fn on_echo_reply(&mut self, flow: FlowId, from: SocketAddr, data: Span, ttl: u8) {
        let head = self.ring.arena().bytes(data.take(ECHO_HEADER));
        match *head {
            [kind, 0, _, _, _, _, hi, lo] if ECHO_REPLY.contains(&kind) => {
                let seq = u16::from_be_bytes([hi, lo]);
                let data = data.skip(ECHO_HEADER);
                self.stack.handle_host(
                    self.now,
                    flow,
                    HostEvent::EchoReply { from: from.ip(), seq, data, ttl },
                );
            }
            _ => {
                self.stack.count_drop(DropReason::Unsupported);
                self.ring.release(data.buf);
            }
        }
    }

    pub(super) fn send_datagrams(&mut self, flow: FlowId, data: Datagrams) {
        for span in &data.spans {
            self.ring.arena_mut().retain(span.buf);
        }
        self.submit(Pending { flow, data, retried: false });
    }

    fn submit(&mut self, pending: Pending) {
        let flow = pending.flow;
        let data = &pending.data;
        let v6 = data.to.is_ipv6();
        // The option holds for all that is sent later, so what was queued before it goes out first.
        if self.sockets.get_mut(flow).is_some_and(|s| s.dont_fragment != data.dont_fragment) {
            let _ = self.ring.submit();
        }
        let refused = match self.sockets.get_mut(flow) {
            None => Some(None),
            Some(socket) => {
                socket.set_dont_fragment(v6, data.dont_fragment);
                socket.fd().err().map(Some)
            }
        };
        if let Some(why) = refused {
            let to = data.to;
            self.drop_pending(&pending);
            if let Some(e) = why {
                let error = host_error(e);
                self.stack.handle_host(self.now, flow, HostEvent::DatagramsFailed { to, error });
            }
            return;
        }
        let key = self.outbox.insert(pending);
        let (Some(pending), Some(socket)) = (self.outbox.get(key), self.sockets.get_mut(flow)) else {
            return;
        };
        let Ok(fd) = socket.fd() else { return };
        let data = &pending.data;
        let message = Message {
            to: Some(data.to),
            from: None,
            head: &data.head,
            spans: &data.spans,
            segment: data.segment,
            ttl: Some(data.ttl),
            tos: (data.tos != 0).then_some(data.tos),
        };
        self.ring.send_message(fd, &message, Tag::SendMessage(key));
    }

    fn drop_pending(&mut self, pending: &Pending) {
        for span in &pending.data.spans {
            self.ring.release(span.buf);
        }
    }

    pub(super) fn on_message_sent(&mut self, key: u32, c: &Completion<Tag>) {
        let Some(pending) = self.outbox.take(key) else { return };
        let error = match c.result {
            Ok(_) => return self.drop_pending(&pending),
            Err(Errno::ECANCELED) => return self.drop_pending(&pending),
            Err(e) => e,
        };
        let flow = pending.flow;
        let drained = self.drain_errors(flow);
        let mine = drained.is_some_and(|e| e.to == pending.data.to && error == Errno::EMSGSIZE);
        if pending.data.segment.is_some() && matches!(error, Errno::EMSGSIZE | Errno::EIO | Errno::EINVAL) {
            for single in singles(&pending.data) {
                self.send_datagrams(flow, single);
            }
            return self.drop_pending(&pending);
        }
        if !pending.retried && error != Errno::EMSGSIZE {
            // Most likely an ICMP error of an earlier datagram, to whatever destination: this one is still unsent.
            return self.submit(Pending { retried: true, ..pending });
        }
        let to = pending.data.to;
        self.drop_pending(&pending);
        if !mine {
            let error = host_error(error);
            self.stack.handle_host(self.now, flow, HostEvent::DatagramsFailed { to, error });
        }
    }

    /// Reads a socket's error queue and tells the stack. Returns the last error read.
    fn drain_errors(&mut self, flow: FlowId) -> Option<IcmpError> {
        let socket = self.sockets.get_mut(flow)?;
        let fd = socket.fd().ok()?;
        let (stack, now) = (&mut self.stack, self.now);
        let mut last = None;
        errqueue::drain(fd, flow.kind() == Kind::Ping, |error| {
            last = Some(error);
            stack.handle_host(now, flow, HostEvent::Icmp(error));
        });
        last
    }
}
