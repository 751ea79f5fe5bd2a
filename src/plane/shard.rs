//! One shard: one thread, one ring, one stack. The only place where actions become submission queue entries and
//! completions become events.
//!
//! Theory of operation. The loop is: wait for completions (at most until the stack's next deadline), turn each into a
//! call of the stack, tell the stack that the batch is over, carry out every action it queued, and wait again. All
//! entries that a batch produced are submitted by the wait of the next round: one system call for each batch, however
//! many frames and sockets it touched. Time is read once per batch.
//!
//! ```text
//! tap ---- frames --->  frames.rs  --handle_frame-->  stack  --Emit------------> frames.rs ----> tap
//! sockets  bytes  --->  streams.rs --handle_host--->         --SendStream------> streams.rs ---> socket
//!          datagrams->  messages.rs                          --SendDatagrams---> messages.rs
//! ```
//!
//! Limits: a batch handles at most [`BATCH`] completions before actions are carried out, so that one busy source does
//! not keep the others waiting.

use super::capture::Captures;
use super::crowd::Crowd;
use super::datagrams::Outbox;
use super::pcap::Pcap;
use super::relay_ports::RelayPorts;
use super::sockets::Sockets;
use super::tag::Tag;
use super::tally::Times;
use super::tap_ports::TapPorts;
use super::watch::Watch;
use crate::flow::{FlowId, Time};
use crate::msg::Channel;
use crate::ring::{Completion, Data, Ring};
use crate::stack::{Action, Stack};
use crate::tap::Tap;
use crate::wire::segment::{Caps, Scratch};
use nix::poll::PollFlags;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};
use tracing::{debug, warn};

/// Completions handled before the actions they caused are carried out.
const BATCH: usize = 64;
/// After this long without traffic the memory of free buffers goes back to the kernel. One wake-up after each busy
/// spell, none while idle.
const TRIM_AFTER: Duration = Duration::from_secs(10);

/// A shard at work.
pub struct Shard {
    pub(super) ring: Ring<Tag>,
    pub(super) tap: Tap,
    pub(super) caps: Caps,
    pub(super) stack: Stack,
    pub(super) sockets: Sockets,
    pub(super) outbox: Outbox,
    pub(super) pcap: Option<Pcap>,
    pub(super) captures: Captures,
    pub(super) channel: Channel,
    pub(super) now: Time,
    /// Descriptors whose flow is closed: closed after the next submission.
    pub(super) graveyard: Vec<OwnedFd>,
    /// Streams whose receive ended for want of buffers.
    pub(super) starved: Vec<FlowId>,
    /// The same of datagrams.
    pub(super) starved_messages: Vec<FlowId>,
    /// Flows whose send will be tried again, and when; in order of time, for all rest equally long.
    pub(super) stalled: VecDeque<(Time, FlowId)>,
    /// The tap read ended for want of buffers.
    pub(super) tap_starved: bool,
    /// The tap is not read before.
    pub(super) tap_rests: Option<Time>,
    /// Published ports that lead through the tap.
    pub(super) tap_ports: TapPorts,
    /// Published ports that lead to sockets inside.
    pub(super) relay_ports: RelayPorts,
    /// Work space of the software segmenter.
    pub(super) scratch: Scratch,
    pub(super) gathered: Vec<u8>,
    /// How long things took, and how much came at once.
    pub(super) times: Times,
    /// When to give memory back; `None` once that is done.
    trim_at: Option<Time>,
    crowd: Crowd,
    /// What those who watch the flows know.
    pub(super) watch: Watch,
    origin: Instant,
}

/// What a shard is made of.
pub struct Parts {
    /// The ring, with its memory.
    pub ring: Ring<Tag>,
    /// The guest's device.
    pub tap: Tap,
    /// The stack.
    pub stack: Stack,
    /// A capture of the tap, if one was asked for.
    pub pcap: Option<Pcap>,
    /// Identification of the first IPv6 packet that is fragmented here; random (RFC 7739).
    pub fragment_id: u32,
    /// Descriptors that relayed connections may take, and listeners.
    pub relayed: usize,
}

/// Why the loop ended.
#[derive(Debug)]
pub enum End {
    /// Control asked for it, or is gone.
    Asked,
    /// The tap's device is gone: the namespace was taken down.
    TapGone,
    /// The channel to control failed otherwise than by control's end.
    ChannelBroken(String),
    /// The ring failed.
    Ring(io::Error),
}

impl Shard {
    /// Puts the parts together. Nothing is armed before [`Shard::run`].
    pub fn new(parts: Parts, channel: Channel) -> Self {
        let Parts { ring, tap, stack, pcap, fragment_id, relayed } = parts;
        // With a virtio-net header the kernel takes partial checksums and TCP super-frames from us whatever was
        // negotiated, which is about what it hands over; UDP ones only where it knows them (6.2).
        let caps = Caps {
            vnet: tap.vnet,
            csum: tap.vnet,
            tso4: tap.vnet,
            tso6: tap.vnet,
            uso: tap.vnet && tap.offloads.uso,
            mtu: stack.network().mtu,
        };
        Self {
            ring,
            tap,
            caps,
            stack,
            sockets: Sockets::default(),
            outbox: Outbox::default(),
            pcap,
            captures: Captures::default(),
            channel,
            now: Time::ZERO,
            graveyard: Vec::new(),
            starved: Vec::new(),
            starved_messages: Vec::new(),
            stalled: VecDeque::new(),
            tap_starved: false,
            tap_rests: None,
            tap_ports: TapPorts::default(),
            relay_ports: RelayPorts::new(relayed),
            scratch: Scratch::new(fragment_id),
            gathered: Vec::new(),
            times: Times::default(),
            trim_at: None,
            crowd: Crowd::default(),
            watch: Watch::default(),
            origin: Instant::now(),
        }
    }

    /// Carries traffic until told to stop or until it cannot go on.
    pub fn run(&mut self) -> End {
        self.arm_tap();
        self.arm_control();
        loop {
            self.read_clock();
            let stalled = self.stalled.front().map(|(at, _)| *at);
            let rested = self.tap_ports.next_deadline();
            let deadlines = self.stack.poll_timeout().into_iter().chain(self.trim_at).chain(stalled);
            let deadlines = deadlines.chain(self.tap_rests);
            let deadline = deadlines.chain(rested).chain(self.relay_ports.poll_timeout()).min();
            if let Err(e) = self.ring.wait(deadline.map(|at| at.since(self.now))) {
                return End::Ring(e);
            }
            self.graveyard.clear();
            self.read_clock();
            self.times.woken(self.ring.counters().submitted);
            let mut handled = 0;
            for _ in 0..BATCH {
                let Some(completion) = self.ring.completion() else { break };
                handled += 1;
                if let Some(end) = self.dispatch(completion) {
                    return end;
                }
                self.trim_at = Some(self.now + TRIM_AFTER);
            }
            self.times.completed_per_wakeup.record(handled);
            if self.stack.poll_timeout().is_some_and(|at| at <= self.now) {
                self.stack.handle_timeout(self.now);
            }
            self.wake_the_stalled();
            self.wake_tap_ports();
            self.relay_end_batch();
            self.stack.end_batch(self.now);
            if let Some((count, what)) = self.crowd.news(&self.stack, self.now) {
                warn!("{count} {what}");
            }
            self.carry_out();
            self.rest_tap();
            self.feed_the_starved();
            self.flush_pcap();
            self.flush_captures();
            if self.trim_at.is_some_and(|at| at <= self.now) {
                self.trim_at = None;
                self.ring.trim();
                self.relay_ports.trim();
                self.watch.forget();
            }
        }
    }

    /// What was carried and dropped, for whoever asked for that level.
    pub fn log_counters(&self) {
        debug!(stack = ?self.stack.counters(), ring = ?self.ring.counters(), arena = ?self.ring.arena().counters());
    }

    fn read_clock(&mut self) {
        let nanos = u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.now = Time::from_nanos(nanos);
    }

    fn dispatch(&mut self, c: Completion<Tag>) -> Option<End> {
        match c.tag {
            Tag::TapRead => return self.on_tap_read(c),
            Tag::TapWrite => self.on_tap_written(&c),
            Tag::Control => return self.on_control(&c),
            Tag::Connect(flow) => self.on_connected(flow, &c),
            Tag::Receive(flow) => self.on_received(flow, c),
            Tag::Piece(flow) => self.on_piece(flow, &c),
            Tag::Send(flow) => self.on_sent(flow, &c),
            Tag::ReceiveMessages(flow) => self.on_messages(flow, c),
            Tag::SendMessage(key) => self.on_message_sent(key, &c),
            Tag::Shutdown => {}
            Tag::TapPortAccept(key) => self.on_tap_port_accept(key, c),
            Tag::TapPortDatagrams(key) => self.on_tap_port_datagrams(key, c),
            Tag::TapPortSent(key) => self.on_tap_port_sent(key, &c),
            Tag::RelayedTcp(tag) => self.on_relayed_tcp(tag, c),
            Tag::RelayedUdp(tag) => self.on_relayed_udp(tag, c),
            Tag::CaptureRoom(number) => self.on_capture_room(number),
            Tag::CaptureEnd(number) => self.on_capture_end(number, &c),
            Tag::Factory(channel) => self.on_factory(channel, &c),
        }
        None
    }

    /// Does what the stack wants done by now.
    pub(super) fn carry_out(&mut self) {
        while let Some(action) = self.stack.poll_action() {
            self.perform(action);
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Emit(emit) => self.emit(&emit),
            Action::EmitBytes(bytes) => self.emit_bytes(bytes),
            Action::Open(flow, open) => self.open(flow, &open),
            Action::SendStream(flow, spans) => self.send_stream(flow, &spans),
            Action::SendDatagrams(flow, data) => self.send_datagrams(flow, data),
            Action::SendPublished { flow: _, door, from, data } => self.send_published(door, from, data),
            Action::Receive(flow, intake) => self.receive(flow, intake),
            Action::ShutdownWrite(flow) => self.shutdown_write(flow),
            Action::Close(flow, how) => self.close(flow, how),
            Action::Copy { from, to } => {
                self.ring.arena_mut().copy(from, to);
            }
            Action::Inject { head, spans } => self.inject(&head, &spans),
            Action::Release(buf) => self.ring.release(buf),
        }
    }

    /// Gives a buffer back that a completion brought for a flow which is no more.
    pub(super) fn discard(&mut self, data: Data) {
        match data {
            Data::Span(span) | Data::Message { data: span, .. } => self.ring.release(span.buf),
            Data::None | Data::Fd(_) => {}
        }
    }

    fn arm_control(&mut self) {
        self.ring.poll(self.channel.as_fd(), PollFlags::POLLIN, false, Tag::Control);
    }

    fn on_control(&mut self, c: &Completion<Tag>) -> Option<End> {
        if let Err(e) = c.result {
            return Some(End::ChannelBroken(e.to_string()));
        }
        let end = self.serve_control();
        if end.is_none() {
            self.arm_control();
        }
        end
    }
}
