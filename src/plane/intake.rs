//! What the flows' sockets receive: what is armed, what is armed next, and what becomes of those who find no buffer.
//!
//! Theory of operation. The stack says how each socket is to receive ([`Intake`]); one operation is armed for it at a time
//! ([`Armed`]), and when that ends, or has been cancelled for another, what is wanted by then is armed. A stream that receives
//! *in pieces* has a poll armed, which holds no buffer; when there is something, one call takes no more than the stack has
//! room for into a small buffer. Pieces are for when buffers are short, so one call each is no matter.
//!
//! Receives that found the lent slots used up wait for the end of the batch: mostly it has given back what it took, and they
//! are armed again. Where it has not, somebody keeps them, and the stack is told: it goes on in pieces.

use super::errno::host_error;
use super::shard::Shard;
use super::sockets::Armed;
use super::tag::Tag;
use crate::buf::{Class, SMALL_MAX, Span};
use crate::flow::{FlowId, Kind};
use crate::ring::{Completion, Data};
use crate::stack::{HostEvent, Intake};
use nix::errno::Errno;
use nix::poll::PollFlags;
use rustix::net::{RecvFlags, recv};

impl Shard {
    pub(super) fn receive(&mut self, flow: FlowId, intake: Intake) {
        let Some(socket) = self.sockets.get_mut(flow) else { return };
        socket.intake = intake;
        if intake != Intake::Off && !std::mem::replace(&mut socket.stood, true) && socket.port.is_some() {
            self.times.connect_guest.record_time(self.now.since(socket.since));
        }
        match socket.armed {
            Armed::Nothing => self.arm_receive(flow),
            Armed::Bulk(op) if intake != Intake::On => {
                socket.armed = Armed::Ending(op);
                self.ring.cancel(op);
            }
            Armed::Piece(op) if !matches!(intake, Intake::Piece(_)) => {
                socket.armed = Armed::Ending(op);
                self.ring.cancel(op);
            }
            // As it is, or what is wanted now is armed when this has ended.
            _ => {}
        }
    }

    /// Arms what is wanted. Nothing is armed yet.
    fn arm_receive(&mut self, flow: FlowId) {
        let Some(socket) = self.sockets.get_mut(flow) else { return };
        let Ok(fd) = socket.fd() else { return };
        let armed = match (flow.kind(), socket.intake) {
            (_, Intake::Off) => Armed::Nothing,
            (Kind::Tcp, Intake::On) => Armed::Bulk(self.ring.receive(fd, Tag::Receive(flow))),
            (Kind::Tcp, Intake::Piece(_)) => {
                Armed::Piece(self.ring.poll(fd, PollFlags::POLLIN, false, Tag::Piece(flow)))
            }
            (Kind::Udp | Kind::Ping | Kind::Dns | Kind::Inbound | Kind::Relay, _) => {
                Armed::Bulk(self.ring.receive_messages(fd, Tag::ReceiveMessages(flow)))
            }
        };
        socket.armed = armed;
    }

    /// What was armed has ended: arm what is wanted, or remember that buffers were missing.
    pub(super) fn rearm(&mut self, flow: FlowId, starved: bool) {
        let Some(socket) = self.sockets.get_mut(flow) else { return };
        socket.armed = Armed::Nothing;
        if starved && socket.intake != Intake::Off {
            let list = if flow.kind() == Kind::Tcp { &mut self.starved } else { &mut self.starved_messages };
            list.push(flow);
        } else {
            self.arm_receive(flow);
        }
    }

    /// Half of a class's slots are free again: arming a receive into an empty ring would end at once (liburing#1275).
    fn recovered(&self, class: Class) -> bool {
        self.ring.buffers_available(class) * 2 >= self.ring.buffers_total(class)
    }

    pub(super) fn feed_the_starved(&mut self) {
        let messages = !self.starved_messages.is_empty() || self.tap_ports_starve();
        if messages && self.recovered(Class::Message) {
            self.feed_tap_ports();
            for flow in std::mem::take(&mut self.starved_messages) {
                if self.sockets.get(flow).is_some_and(|s| s.armed == Armed::Nothing) {
                    self.arm_receive(flow);
                }
            }
        }
        if !self.starved.is_empty() {
            self.feed_streams();
        }
        if self.tap_starved && self.tap_rests.is_none() && self.recovered(Class::Tap) {
            self.arm_tap();
        }
    }

    fn feed_streams(&mut self) {
        let large = self.recovered(Class::Host);
        let mut told = false;
        for flow in std::mem::take(&mut self.starved) {
            let Some(socket) = self.sockets.get(flow).filter(|s| s.armed == Armed::Nothing) else { continue };
            match socket.intake {
                Intake::On if !large => {
                    self.stack.handle_host(self.now, flow, HostEvent::NoBuffer);
                    told = true;
                }
                Intake::Piece(_) if self.ring.buffers_available(Class::Small) == 0 => self.starved.push(flow),
                _ => self.arm_receive(flow),
            }
        }
        if told {
            self.stack.end_batch(self.now);
            self.carry_out();
        }
    }

    pub(super) fn on_received(&mut self, flow: FlowId, c: Completion<Tag>) {
        if self.sockets.get(flow).is_none_or(|s| !s.armed.is(c.op)) {
            return self.discard(c.data);
        }
        match c.result {
            Ok(0) => {
                self.discard(c.data);
                self.end_of_stream(flow);
            }
            Ok(_) => {
                if let Data::Span(span) = c.data {
                    self.deliver(flow, span);
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

    /// There is something to take a piece of, or the poll for it was cancelled.
    pub(super) fn on_piece(&mut self, flow: FlowId, c: &Completion<Tag>) {
        let Some(socket) = self.sockets.get_mut(flow).filter(|s| s.armed.is(c.op)) else { return };
        let (Ok(_), Intake::Piece(most), Ok(fd)) = (c.result, socket.intake, socket.fd()) else {
            return self.rearm(flow, false);
        };
        let arena = self.ring.arena_mut();
        let Some(small) = arena.alloc(Class::Small) else { return self.rearm(flow, true) };
        let room = Span::new(small, 0, most.min(SMALL_MAX as u32));
        let came = recv(fd, arena.bytes_mut(room), RecvFlags::DONTWAIT).map(|(n, _)| n);
        socket.armed = Armed::Nothing;
        match came {
            Ok(n) if n > 0 => {
                // The stack asks for the next one.
                socket.intake = Intake::Off;
                self.deliver(flow, room.take(n as u32));
            }
            Ok(_) => {
                self.ring.release(small);
                self.end_of_stream(flow);
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {
                self.ring.release(small);
                self.arm_receive(flow);
            }
            Err(e) => {
                self.ring.release(small);
                let error = host_error(Errno::from_raw(e.raw_os_error()));
                self.stack.handle_host(self.now, flow, HostEvent::ReceiveFailed(error));
            }
        }
    }

    fn deliver(&mut self, flow: FlowId, span: Span) {
        if let Some(counters) = self.port_counters(flow) {
            counters.bytes_down += u64::from(span.len);
        }
        let span = self.shrink_payload(span);
        self.stack.handle_host(self.now, flow, HostEvent::Received(span));
    }

    fn end_of_stream(&mut self, flow: FlowId) {
        if let Some(socket) = self.sockets.get_mut(flow) {
            // Nothing more will come; whatever is wanted later must not arm into an endless row of ends.
            (socket.armed, socket.intake) = (Armed::Over, Intake::Off);
        }
        self.stack.handle_host(self.now, flow, HostEvent::Eof);
    }

    /// Short payload does not keep a large slot.
    pub(super) fn shrink_payload(&mut self, span: Span) -> Span {
        let large = span.buf.class() != Class::Small;
        if large && span.len as usize <= SMALL_MAX { self.shrink(span) } else { span }
    }
}
