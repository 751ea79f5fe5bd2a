//! One connection: a guest's TCP on one side, a host socket on the other.
//!
//! Theory of operation. [`State`] is RFC 9293's for the guest's side, with two additions: `Connecting` (the guest's
//! SYN is here, the host socket does not stand yet, nothing has been answered) and `Closed` (the guest's side is over,
//! the host still takes what the guest has sent). [`Host`] is the socket's side. The two meet in three places only:
//! the guest's FIN, once everything before it has gone to the host, becomes `ShutdownWrite`; the host's end of stream
//! becomes our FIN behind the last byte; a reset on either side ends both.
//!
//! The host socket is closed as soon as both directions are over on its side, whatever the guest still has to
//! acknowledge: an orphan holds no descriptor.

use super::ack::AckState;
use super::key::Key;
use super::pool::Pool;
use super::receive::Receiver;
use super::send::Sender;
use super::seq::Seq;
use super::spans::Footprint;
use super::tuning::TcpLimits;
use crate::buf::Span;
use crate::flow::wheel::Token;
use crate::flow::{FlowCounters, FlowId, Time};
use crate::stack::{Action, Close, Cx, HostError, HostEvent, Intake};
use crate::wire::tcp::Options;
use std::net::SocketAddr;

/// Where the guest's side of a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The guest dialled; the host socket is being connected.
    Connecting,
    /// We dialled the guest.
    SynSent,
    /// SYN-ACK sent.
    SynReceived,
    /// Both ways open.
    Established,
    /// Our FIN sent.
    FinWait1,
    /// Our FIN acknowledged; the guest may still send.
    FinWait2,
    /// The guest's FIN received; we may still send.
    CloseWait,
    /// Both FINs sent, ours not acknowledged.
    Closing,
    /// Our FIN sent after the guest's.
    LastAck,
    /// Over; the host still takes data, or the tuple rests.
    TimeWait,
    /// The guest's side is over and its tuple is free.
    Closed,
}

/// The host socket of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Socket {
    /// `Open` sent, not answered.
    Connecting,
    /// Connected.
    Open,
    /// `Close` sent, or never had.
    Closed,
}

/// The host's side of a connection.
#[derive(Debug)]
pub struct Host {
    /// Where it leads. `None` for a connection that came from the host's side.
    pub remote: Option<SocketAddr>,
    /// The socket.
    pub socket: Socket,
    /// It sends no more.
    pub eof: bool,
    /// We have shut our side down.
    pub shutdown: bool,
    /// How we receive from it.
    pub intake: Intake,
    /// The piece that was asked for has come, or there was no buffer: nothing is received before we ask again.
    pub spent: bool,
    /// It was without a buffer the last time.
    pub short: bool,
    /// For a DNS connection: the resolver to try when this one fails.
    pub next_resolver: Option<u8>,
    /// The guest reset the connection after its last byte.
    pub guest_gone: bool,
    /// Counted among the orphans.
    pub orphan: bool,
}

/// One connection.
pub struct Conn {
    /// Its name.
    pub id: FlowId,
    /// Its four-tuple.
    pub key: Key,
    /// The guest's side.
    pub state: State,
    /// The host's side.
    pub host: Host,
    /// Towards the guest.
    pub snd: Sender,
    /// From the guest.
    pub rcv: Receiver,
    /// Acknowledgements owed.
    pub ack: AckState,
    /// The guest's initial sequence number.
    pub irs: Seq,
    /// Ours.
    pub iss: Seq,
    /// Reachable by its four-tuple.
    pub keyed: bool,
    /// Counted among those that do not stand yet.
    pub counted_half_open: bool,
    /// The buffers for the guest as last counted into the [`Pool`].
    pub counted_sending: Footprint,
    /// The guest's SYN offered window scaling.
    pub scaled: bool,
    /// When it began.
    pub opened: Time,
    /// Last sign of life, of the guest or of progress towards the host.
    pub heard: Time,
    /// Probes since then.
    pub unanswered: u8,
    /// The armed entry of the wheel.
    pub token: Option<Token>,
    /// On the list of connections to flush.
    pub dirty: bool,
    /// What it has carried.
    pub counters: FlowCounters,
}

impl Conn {
    /// A connection at its start.
    pub fn new(id: FlowId, key: Key, state: State, iss: Seq, now: Time) -> Self {
        Self {
            id,
            key,
            state,
            host: Host {
                remote: None,
                socket: Socket::Connecting,
                eof: false,
                shutdown: false,
                intake: Intake::Off,
                spent: false,
                short: false,
                next_resolver: None,
                guest_gone: false,
                orphan: false,
            },
            snd: Sender::new(iss),
            rcv: Receiver::new(Seq(0)),
            ack: AckState::default(),
            irs: Seq(0),
            iss,
            keyed: true,
            counted_half_open: true,
            counted_sending: Footprint::default(),
            scaled: false,
            opened: now,
            heard: now,
            unanswered: 0,
            token: None,
            dirty: false,
            counters: FlowCounters::default(),
        }
    }

    /// Payload of one segment of ours on this link: the MTU less IP and TCP header.
    pub fn own_mss(&self, mtu: u16) -> u16 {
        mtu.saturating_sub(self.key.ip_header() + 20).max(1)
    }

    /// Reads the guest's SYN: its first number, segment size, scale and willingness to report.
    pub fn read_syn(&mut self, cx: &Cx<'_>, limits: &TcpLimits, seq: Seq, window: u16, options: &Options) {
        self.irs = seq;
        self.rcv = Receiver::new(seq + 1);
        // RFC 9293 section 3.7.1: what a peer that says nothing can take.
        let default = if self.key.v6() { 1220 } else { 536 };
        let mss = options.mss.unwrap_or(default).max(MIN_MSS).min(self.own_mss(cx.net.mtu));
        self.set_mss(mss);
        self.scaled = options.window_scale.is_some();
        if let Some(shift) = options.window_scale {
            self.snd.shift = shift.min(14);
            self.rcv.shift = shift_for(limits.receive_bytes);
        }
        self.snd.sack = options.sack_permitted;
        self.snd.wnd = u32::from(window);
        self.snd.max_wnd = self.snd.wnd;
        self.snd.wl = (seq, self.snd.una);
    }

    /// Sets the size of segments to the guest.
    pub fn set_mss(&mut self, mss: u16) {
        self.snd.set_mss(u32::from(mss), u32::from(self.key.ip_header()) + 20);
    }

    /// The path to the guest takes packets of `mtu` bytes only. Never raises, and never below what IP demands of a
    /// path (RFC 1191, RFC 8201), so a forged report costs little.
    pub fn too_big(&mut self, mtu: u16) {
        let floor = if self.key.v6() { 1280 } else { 576 };
        let mss = mtu.max(floor) - self.key.ip_header() - 20;
        if u32::from(mss) < self.snd.mss {
            self.set_mss(mss);
            self.snd.resend();
        }
    }

    /// True once both sides have agreed on sequence numbers and the guest's side is not over.
    pub const fn synchronized(&self) -> bool {
        !matches!(self.state, State::Connecting | State::SynSent | State::SynReceived | State::Closed)
    }

    /// True while our SYN has not been sent, for the guest's MAC is not known.
    pub fn unsent(&self) -> bool {
        self.state == State::SynSent && self.snd.nxt == self.iss
    }

    /// True while the connection does not stand yet.
    pub const fn half_open(&self) -> bool {
        matches!(self.state, State::Connecting | State::SynSent | State::SynReceived)
    }

    /// Something happened on the host socket, other than the outcome of connecting.
    pub fn host_event(&mut self, cx: &mut Cx<'_>, pool: &mut Pool, event: HostEvent) {
        match event {
            HostEvent::Received(span) => {
                self.host.short = false;
                self.host.spent |= matches!(self.host.intake, Intake::Piece(_));
                self.received(cx, span);
            }
            HostEvent::NoBuffer => {
                self.host.short = true;
                self.host.spent = true;
            }
            HostEvent::Eof => {
                self.host.eof = true;
                self.snd.finish();
            }
            HostEvent::Sent(n) => {
                self.rcv.sent(cx, pool, n);
                if matches!(self.state, State::Closed | State::TimeWait) {
                    self.heard = cx.now;
                }
            }
            HostEvent::ReceiveFailed(error) | HostEvent::SendFailed(error) => {
                self.host_failed(cx, pool, error);
            }
            // The remaining events belong to other kinds of flow, or to connecting.
            other => crate::stack::release_of(cx, &other),
        }
    }

    fn received(&mut self, cx: &mut Cx<'_>, span: Span) {
        if span.is_empty() || self.host.eof || self.host.socket != Socket::Open || self.state == State::Closed
        {
            cx.act(Action::Release(span.buf));
            return;
        }
        self.counters.bytes_down += u64::from(span.len);
        self.snd.push(cx, span);
    }

    /// The host's side has died: what it sent before goes out as far as the window allows, then the reset.
    fn host_failed(&mut self, cx: &mut Cx<'_>, pool: &mut Pool, error: HostError) {
        tracing::debug!(flow = ?self.id, ?error, "host side failed");
        self.send_data(cx, pool);
        self.send_reset(cx, pool);
        self.abort(cx, pool);
    }

    /// Ends both sides at once. The guest has been told, or told us.
    pub fn abort(&mut self, cx: &mut Cx<'_>, pool: &mut Pool) {
        self.close_socket(cx, Close::Reset);
        self.snd.clear(cx);
        self.rcv.clear(cx, pool);
        self.state = State::Closed;
    }

    /// The guest reset the connection. What it had sent, if it had sent everything, still goes to the host.
    pub fn guest_reset(&mut self, cx: &mut Cx<'_>, pool: &mut Pool) {
        if self.rcv.finished() && self.rcv.queued() > 0 {
            self.host.guest_gone = true;
            self.guest_closed(cx);
        } else {
            self.abort(cx, pool);
        }
    }

    /// The guest's side ended in good order.
    pub fn guest_closed(&mut self, cx: &mut Cx<'_>) {
        self.snd.clear(cx);
        self.state = State::Closed;
        self.heard = cx.now;
    }

    /// Closes the host socket, if there is one.
    pub fn close_socket(&mut self, cx: &mut Cx<'_>, how: Close) {
        if self.host.socket != Socket::Closed {
            self.host.socket = Socket::Closed;
            self.host.intake = Intake::Off;
            cx.act(Action::Close(self.id, how));
        }
    }

    /// True when nothing is left to do on either side.
    pub fn is_over(&self) -> bool {
        self.state == State::Closed && self.host.socket == Socket::Closed
    }

    /// True when only the tuple's rest is left.
    pub fn is_resting(&self) -> bool {
        self.state == State::TimeWait && self.host.socket == Socket::Closed
    }

    /// Sends to the host what is queued, ends its side when that is due, and starts or stops reading from it.
    pub fn drive_host(&mut self, cx: &mut Cx<'_>, pool: &mut Pool) {
        if self.host.socket != Socket::Open || self.half_open() {
            return;
        }
        if let Some(spans) = self.rcv.next_send() {
            cx.act(Action::SendStream(self.id, spans));
        } else if self.rcv.finished() && self.rcv.queued() == 0 && !self.host.shutdown {
            self.host.shutdown = true;
            cx.act(Action::ShutdownWrite(self.id));
        }
        if self.host.shutdown && (self.host.eof || self.host.guest_gone) {
            self.close_socket(cx, if self.host.eof { Close::Orderly } else { Close::Reset });
            return;
        }
        self.take_in(cx, pool);
    }
}

/// Smallest segment size taken from a guest: below it a guest could make us send a header per byte. Linux's
/// `net.ipv4.route.min_adv_mss` is 256, its `tcp_min_snd_mss` 48.
pub const MIN_MSS: u16 = 48;

/// The scale that lets a window of `bytes` be advertised.
pub fn shift_for(bytes: u32) -> u8 {
    (0..14).find(|s| u32::from(u16::MAX) << s >= bytes).unwrap_or(14)
}
