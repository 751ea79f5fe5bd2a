//! Frames to the guest: data, acknowledgements, SYNs, resets.

use super::conn::{Conn, State};
use super::key::Key;
use super::pool::Pool;
use super::seq::Seq;
use super::tuning::ASK_NEIGHBOUR;
use crate::buf::SpanVec;
use crate::stack::{Action, Cx, Emit};
use crate::wire::ip::IpOut;
use crate::wire::tcp::{Flags, Options};
use crate::wire::{Gso, Tcp, proto, tcp};

/// Time to live of our segments, as slirp4netns.
const TTL: u8 = 64;

/// Builds a frame and queues it. Without a neighbour entry for the guest it is dropped: what matters is sent again.
fn emit(cx: &mut Cx<'_>, key: &Key, header: &Tcp, spans: SpanVec, len: usize, mss: u32) {
    let Some(mac) = cx.neighbour(key.guest.ip()) else { return };
    let ip = IpOut {
        src: key.remote.ip(),
        dst: key.guest.ip(),
        protocol: proto::TCP,
        ttl: TTL,
        tos: 0,
        id: 0,
        dont_fragment: true,
    };
    let (head, csum) = tcp::head(cx.link.router_mac(key.v6()), mac, &ip, header, len);
    let gso = if len > mss as usize { Gso::Tcp { mss: mss as u16 } } else { Gso::None };
    cx.act(Action::Emit(Emit { head, spans, csum: Some(csum), gso }));
}

fn header(key: &Key, seq: Seq, flags: Flags) -> Tcp {
    Tcp {
        src_port: key.remote.port(),
        dst_port: key.guest.port(),
        seq: seq.0,
        ack: 0,
        flags,
        window: 0,
        urgent: 0,
        options: Options::default(),
    }
}

/// Answers a segment that belongs to no connection (RFC 9293 section 3.10.7.1). A reset is never answered.
pub fn refuse(cx: &mut Cx<'_>, key: &Key, segment: &Tcp, payload_len: u32) {
    if segment.flags.has(Flags::RST) {
        return;
    }
    let mut reply;
    if segment.flags.has(Flags::ACK) {
        reply = header(key, Seq(segment.ack), Flags::RST);
    } else {
        let len =
            payload_len + u32::from(segment.flags.has(Flags::SYN)) + u32::from(segment.flags.has(Flags::FIN));
        reply = header(key, Seq(0), Flags::RST.with(Flags::ACK));
        reply.ack = (Seq(segment.seq) + len).0;
    }
    emit(cx, key, &reply, SpanVec::new(), 0, u32::MAX);
}

/// A bare acknowledgement for a tuple at rest.
pub fn bare_ack(cx: &mut Cx<'_>, key: &Key, seq: Seq, ack: Seq) {
    let mut reply = header(key, seq, Flags::ACK);
    reply.ack = ack.0;
    emit(cx, key, &reply, SpanVec::new(), 0, u32::MAX);
}

impl Conn {
    fn send(&mut self, cx: &mut Cx<'_>, pool: &Pool, mut segment: Tcp, spans: SpanVec, len: usize) {
        if segment.flags.has(Flags::ACK) {
            self.ack_sent(len > 0);
            segment.ack = self.rcv.nxt.0;
            segment.window = self.rcv.advertise(pool, !segment.flags.has(Flags::SYN));
        }
        self.counters.packets_down += 1;
        emit(cx, &self.key, &segment, spans, len, self.snd.mss);
    }

    /// SYN, or SYN-ACK.
    pub fn send_syn(&mut self, cx: &mut Cx<'_>, pool: &Pool) {
        if self.unsent() && cx.neighbour(self.key.guest.ip()).is_none() {
            // Nobody could have answered: neither an attempt nor a round trip.
            self.snd.retransmit_at = Some(cx.now + ASK_NEIGHBOUR);
            return;
        }
        let reply = self.state != State::SynSent;
        let flags = if reply { Flags::SYN.with(Flags::ACK) } else { Flags::SYN };
        let mut segment = header(&self.key, self.iss, flags);
        segment.options.mss = Some(self.own_mss(cx.net.mtu));
        if reply {
            segment.options.window_scale = self.scaled.then_some(self.rcv.shift);
            segment.options.sack_permitted = self.snd.sack;
        } else {
            segment.options.window_scale = Some(super::conn::shift_for(pool.limits.receive_bytes));
            segment.options.sack_permitted = true;
            segment.window = pool.limits.receive_bytes.min(u32::from(u16::MAX)) as u16;
        }
        if self.snd.nxt == self.iss {
            self.snd.nxt = self.iss + 1;
            self.snd.rtt.sent(self.snd.nxt, cx.now);
        } else {
            self.snd.rtt.ambiguous();
            self.counters.retransmits += 1;
        }
        self.send(cx, pool, segment, SpanVec::new(), 0);
        self.snd.retransmit_at = Some(cx.now + self.snd.rtt.rto());
    }

    /// An acknowledgement, with what is known of gaps.
    pub fn send_ack(&mut self, cx: &mut Cx<'_>, pool: &Pool) {
        let mut segment = header(&self.key, self.snd.nxt, Flags::ACK);
        if self.snd.sack {
            segment.options.sack = self.rcv.sack_blocks();
        }
        self.send(cx, pool, segment, SpanVec::new(), 0);
    }

    /// A segment that is old on purpose: whoever still knows the connection answers it with an acknowledgement, and so
    /// with its window (as Linux probes).
    pub fn send_probe(&mut self, cx: &mut Cx<'_>, pool: &Pool) {
        let segment = header(&self.key, self.snd.una - 1, Flags::ACK);
        self.send(cx, pool, segment, SpanVec::new(), 0);
    }

    /// A reset at the place where the guest expects the next byte.
    pub fn send_reset(&mut self, cx: &mut Cx<'_>, pool: &Pool) {
        match self.state {
            // Nothing has been answered: refuse the SYN itself.
            State::Connecting => {
                let mut segment = header(&self.key, Seq(0), Flags::RST.with(Flags::ACK));
                segment.ack = (self.irs + 1).0;
                emit(cx, &self.key, &segment, SpanVec::new(), 0, u32::MAX);
            }
            State::Closed | State::TimeWait => {}
            State::SynSent => {
                let segment = header(&self.key, self.snd.nxt, Flags::RST);
                emit(cx, &self.key, &segment, SpanVec::new(), 0, u32::MAX);
            }
            _ => {
                let segment = header(&self.key, self.snd.nxt, Flags::RST.with(Flags::ACK));
                self.send(cx, pool, segment, SpanVec::new(), 0);
            }
        }
    }

    /// Sends everything that may go to the guest now: what was lost, then what is new, then our FIN.
    pub fn send_data(&mut self, cx: &mut Cx<'_>, pool: &Pool) {
        if !self.synchronized() || self.state == State::TimeWait {
            return;
        }
        while let Some(frame) = self.snd.next_frame(cx.now) {
            let mut flags = Flags::ACK;
            if frame.push {
                flags = flags.with(Flags::PSH);
            }
            if frame.fin {
                flags = flags.with(Flags::FIN);
                self.state = match self.state {
                    State::Established => State::FinWait1,
                    State::CloseWait => State::LastAck,
                    other => other,
                };
            }
            if frame.again {
                self.counters.retransmits += 1;
            }
            let segment = header(&self.key, frame.seq, flags);
            self.send(cx, pool, segment, frame.spans, frame.len as usize);
        }
        self.snd.arm(cx.now);
    }
}
