//! Segments from the guest: RFC 9293 section 3.10.7, hardened by RFC 5961.
//!
//! The order is the RFC's: sequence number, RST, SYN, ACK, urgent pointer (ignored: urgent data is data in line, and
//! the pointer never addresses anything), payload, FIN. Whatever may be forged blindly is answered by a challenge
//! acknowledgement within a budget.

use super::conn::{Conn, Socket, State};
use super::output;
use super::pool::Pool;
use super::receive::Accepted;
use super::seq::Seq;
use super::tuning::OUT_OF_WINDOW_INTERVAL;
use crate::buf::Span;
use crate::flow::{DropReason, Limit};
use crate::stack::{Action, Cx};
use crate::wire::Tcp;
use crate::wire::tcp::Flags;

impl Conn {
    /// One segment. The payload's buffer is kept or released.
    pub fn segment(&mut self, cx: &mut Cx<'_>, pool: &mut Pool, tcp: &Tcp, payload: Span) {
        self.counters.packets_up += 1;
        match self.state {
            State::Connecting => {
                cx.act(Action::Release(payload.buf));
                self.while_connecting(cx, pool, tcp);
            }
            State::SynSent => {
                cx.act(Action::Release(payload.buf));
                self.while_syn_sent(cx, pool, tcp);
            }
            _ => self.while_synchronized(cx, pool, tcp, payload),
        }
    }

    /// Nothing has been answered yet: a SYN again is absorbed, a different one replaces the first.
    fn while_connecting(&mut self, cx: &mut Cx<'_>, pool: &mut Pool, tcp: &Tcp) {
        if tcp.flags.has(Flags::RST) {
            if Seq(tcp.seq) == self.rcv.nxt || Seq(tcp.seq) == self.irs {
                self.abort(cx, pool);
            }
        } else if tcp.flags.has(Flags::SYN) && !tcp.flags.has(Flags::ACK) {
            if Seq(tcp.seq) != self.irs {
                self.read_syn(cx, &pool.limits, Seq(tcp.seq), tcp.window, &tcp.options);
            }
        } else {
            cx.drop(DropReason::TcpUnacceptable);
        }
    }

    fn while_syn_sent(&mut self, cx: &mut Cx<'_>, pool: &mut Pool, tcp: &Tcp) {
        let acked = tcp.flags.has(Flags::ACK);
        let good = acked && Seq(tcp.ack) == self.snd.nxt;
        if acked && !good {
            output::refuse(cx, &self.key, tcp, 0);
            return;
        }
        if tcp.flags.has(Flags::RST) {
            if good {
                self.abort(cx, pool);
            }
            return;
        }
        if !tcp.flags.has(Flags::SYN) {
            cx.drop(DropReason::TcpUnacceptable);
            return;
        }
        self.read_syn(cx, &pool.limits, Seq(tcp.seq), tcp.window, &tcp.options);
        if good {
            self.snd.acknowledged(cx, Seq(tcp.ack), &[], false);
            self.establish(cx);
            self.ack.now = true;
        } else {
            // Simultaneous open.
            self.state = State::SynReceived;
            self.send_syn(cx, pool);
        }
    }

    fn establish(&mut self, cx: &Cx<'_>) {
        self.state = State::Established;
        self.heard = cx.now;
        self.unanswered = 0;
    }

    fn while_synchronized(&mut self, cx: &mut Cx<'_>, pool: &mut Pool, tcp: &Tcp, payload: Span) {
        let flags = tcp.flags;
        let seq = Seq(tcp.seq);
        if self.state == State::SynReceived && flags.has(Flags::SYN) && seq == self.irs {
            cx.act(Action::Release(payload.buf));
            if flags.has(Flags::ACK) && Seq(tcp.ack) == self.snd.nxt {
                // The other half of a simultaneous open.
                self.snd.acknowledged(cx, Seq(tcp.ack), &[], false);
                self.establish(cx);
                self.ack.now = true;
            } else if self.snd.retries == 0 {
                self.snd.retries = 1;
                self.send_syn(cx, pool);
            }
            return;
        }
        if !self.in_window(seq, payload.len, flags) {
            self.out_of_window(cx, pool, tcp, payload);
            return;
        }
        if flags.has(Flags::RST) {
            cx.act(Action::Release(payload.buf));
            if self.state == State::TimeWait {
                // RFC 1337: both streams are complete, a reset changes nothing. The guest sends one when our last
                // acknowledgement finds nobody any more.
                cx.drop(DropReason::TcpUnacceptable);
            } else if seq == self.rcv.nxt {
                self.guest_reset(cx, pool);
            } else {
                self.challenge(cx, pool);
            }
            return;
        }
        if flags.has(Flags::SYN) || !flags.has(Flags::ACK) {
            cx.act(Action::Release(payload.buf));
            if flags.has(Flags::SYN) {
                self.challenge(cx, pool);
            } else {
                cx.drop(DropReason::TcpUnacceptable);
            }
            return;
        }
        let una = self.snd.una;
        if !self.acknowledgement(cx, pool, tcp, payload) {
            cx.act(Action::Release(payload.buf));
            return;
        }
        self.answered(cx, self.snd.una != una);
        self.payload(cx, pool, seq, payload, flags.has(Flags::FIN));
    }

    /// The guest is there. Once the host side is over only progress keeps the connection: a program that has stopped
    /// reading has a kernel that answers for ever.
    fn answered(&mut self, cx: &Cx<'_>, progress: bool) {
        if progress || self.host.socket != Socket::Closed {
            self.heard = cx.now;
        }
        self.unanswered = 0;
    }

    /// RFC 9293 section 3.4, the acceptability test; a segment at the left edge always passes, for its
    /// acknowledgement counts even when the window is closed.
    fn in_window(&self, seq: Seq, len: u32, flags: Flags) -> bool {
        let len = len + u32::from(flags.has(Flags::SYN)) + u32::from(flags.has(Flags::FIN));
        if seq == self.rcv.nxt {
            return true;
        }
        let edge = self.rcv.edge();
        if len == 0 {
            seq.after(self.rcv.nxt) && !seq.after(edge)
        } else {
            seq.before(edge) && (seq + len).after(self.rcv.nxt)
        }
    }

    fn out_of_window(&mut self, cx: &mut Cx<'_>, pool: &mut Pool, tcp: &Tcp, payload: Span) {
        let dataless = payload.is_empty() && !tcp.flags.has(Flags::FIN);
        if !tcp.flags.has(Flags::RST) {
            self.answered(cx, false);
        }
        if tcp.flags.has(Flags::RST) {
            cx.drop(DropReason::TcpUnacceptable);
        } else if tcp.flags.has(Flags::SYN) {
            self.challenge(cx, pool);
        } else if dataless {
            let last = self.ack.last_out_of_window;
            if last.is_none_or(|at| cx.now.since(at) >= OUT_OF_WINDOW_INTERVAL) {
                self.ack.last_out_of_window = Some(cx.now);
                self.ack.now = true;
            } else {
                cx.drop(DropReason::TcpUnacceptable);
            }
        } else {
            self.rcv.note_duplicate(Seq(tcp.seq), payload.len);
            self.send_ack(cx, pool);
        }
        cx.act(Action::Release(payload.buf));
    }

    fn challenge(&mut self, cx: &mut Cx<'_>, pool: &mut Pool) {
        cx.drop(DropReason::TcpUnacceptable);
        if pool.challenge(cx.now) {
            self.ack.now = true;
        }
    }

    /// The acknowledgement field and the window. False when the segment must not be read any further.
    fn acknowledgement(&mut self, cx: &mut Cx<'_>, pool: &mut Pool, tcp: &Tcp, payload: Span) -> bool {
        let (seq, ack) = (Seq(tcp.seq), Seq(tcp.ack));
        if self.state == State::SynReceived {
            if ack != self.snd.nxt {
                cx.drop(DropReason::TcpUnacceptable);
                output::refuse(cx, &self.key, tcp, 0);
                return false;
            }
            self.establish(cx);
        }
        // RFC 5961 section 5.2.
        let oldest = self.snd.una - self.snd.max_wnd.max(1);
        if ack.after(self.snd.nxt) || ack.before(oldest) {
            self.challenge(cx, pool);
            return false;
        }
        let window = u32::from(tcp.window) << self.snd.shift;
        let same = window == self.snd.wnd && payload.is_empty() && !tcp.flags.has(Flags::FIN);
        let (seq_of_last, ack_of_last) = self.snd.wl;
        // What acknowledges new bytes is new whatever its own number, as for Linux: a guest that sends again after a
        // timeout may number its acknowledgements by that.
        let newer = ack.after(self.snd.una)
            || seq_of_last.before(seq)
            || (seq_of_last == seq && !ack_of_last.after(ack));
        if !ack.before(self.snd.una) && newer {
            self.snd.wnd = window;
            self.snd.max_wnd = self.snd.max_wnd.max(window);
            self.snd.wl = (seq, ack);
            if window > 0 {
                self.snd.window_open();
            } else {
                self.snd.window_closed();
            }
        }
        self.snd.acknowledged(cx, ack, &tcp.options.sack, same);
        if self.snd.fin_acked() {
            match self.state {
                State::FinWait1 => self.state = State::FinWait2,
                State::Closing => self.state = State::TimeWait,
                State::LastAck => self.guest_closed(cx),
                _ => {}
            }
        }
        true
    }

    fn payload(&mut self, cx: &mut Cx<'_>, pool: &mut Pool, seq: Seq, payload: Span, fin: bool) {
        let open = matches!(self.state, State::Established | State::FinWait1 | State::FinWait2);
        if !open {
            cx.act(Action::Release(payload.buf));
            if self.state != State::Closed && (payload.len > 0 || fin) {
                self.ack.now = true;
            }
            return;
        }
        if payload.is_empty() {
            cx.act(Action::Release(payload.buf));
        } else {
            let before = self.rcv.nxt;
            let accepted = self.rcv.take(cx, pool, seq, payload);
            self.counters.bytes_up += u64::from(self.rcv.nxt.since(before));
            match accepted {
                Accepted::InOrder => {}
                Accepted::FilledGap | Accepted::OutOfOrder | Accepted::Duplicate => self.send_ack(cx, pool),
                Accepted::Dropped => {
                    cx.drop(DropReason::NoRoom);
                    cx.counters.limit(Limit::Buffered);
                    self.ack.now = true;
                }
            }
        }
        if fin {
            self.rcv.note_fin(seq + payload.len);
        }
        if self.rcv.reach_fin() {
            self.ack.now = true;
            self.state = match self.state {
                State::Established => State::CloseWait,
                State::FinWait1 => State::Closing,
                _ => State::TimeWait,
            };
        }
        debug_assert!(self.host.socket != Socket::Connecting);
    }
}
