//! From completion queue entries to [`Completion`]s: whose they are, what they carry, and whether the operation is over.
//!
//! What an entry carries is taken first, by its kind alone: a buffer becomes owned, a descriptor gets an owner. Only
//! then is the operation looked up. If it is gone (which would be a bug, and is counted) nothing leaks.

use super::message::{CONTROL_LEN, Local, decode_control, decode_name};
use super::slots::Kind;
use super::{OpId, Ring};
use crate::buf::{Class, HOST_SLOT, Span};
use io_uring::cqueue;
use io_uring::types::RecvMsgOut;
use nix::errno::Errno;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd};

/// Room for the sender in a received message: a sockaddr_in6, rounded so that payload starts on a multiple of 64.
const NAME_ROOM: usize = 32;
/// `struct io_uring_recvmsg_out`.
const OUT_HEADER: usize = 16;
/// First byte of payload in a slot that a multishot `recvmsg` filled.
pub(super) const PAYLOAD_AT: usize = OUT_HEADER + NAME_ROOM + CONTROL_LEN;
const _: () = assert!(PAYLOAD_AT.is_multiple_of(64) && PAYLOAD_AT + 65_535 <= HOST_SLOT);

/// Says how much room a received message leaves for sender and control messages.
pub(super) struct Template(pub(super) libc::msghdr);

// SAFETY: it holds two lengths and null pointers, and nobody writes to it: a multishot recvmsg reads the lengths and puts
// everything else into the selected slot (io_uring/net.c, io_recvmsg_multishot).
unsafe impl Sync for Template {}

/// The one template of all receives.
pub(super) static TEMPLATE: Template = {
    // SAFETY: msghdr is plain data of pointers and integers, for which zero is valid.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_namelen = NAME_ROOM as _;
    header.msg_controllen = CONTROL_LEN as _;
    Template(header)
};

/// What a completion hands over.
#[derive(Debug)]
pub enum Data {
    /// Nothing.
    None,
    /// Bytes in a buffer that the receiver of the completion now owns, with one reference.
    Span(Span),
    /// One datagram, or several of one sender.
    Message {
        /// The sender; `None` when the family is not IP.
        from: Option<SocketAddr>,
        /// Where it was sent to, if the socket reports it (`IP_PKTINFO`, `IPV6_RECVPKTINFO`).
        to: Option<Local>,
        /// The payload, in a buffer that the receiver of the completion now owns, with one reference.
        data: Span,
        /// Each datagram has this many bytes, the last may have fewer (`UDP_GRO`); `None`: one datagram.
        segment: Option<u16>,
        /// Type of service or traffic class; 0 if the socket does not report it (`IP_RECVTOS`, `IPV6_RECVTCLASS`).
        tos: u8,
        /// Time to live or hop limit, if the socket reports it (`IP_RECVTTL`, `IPV6_RECVHOPLIMIT`).
        ttl: Option<u8>,
        /// The datagram was longer than the buffer (`MSG_TRUNC`).
        truncated: bool,
    },
    /// An accepted connection.
    Fd(OwnedFd),
}

impl Data {
    /// The buffer handed over, if there is one.
    pub fn span(&self) -> Option<Span> {
        match self {
            Self::Span(span) | Self::Message { data: span, .. } => Some(*span),
            Self::None | Self::Fd(_) => None,
        }
    }
}

/// Something an operation has done.
#[derive(Debug)]
pub struct Completion<T> {
    /// What the operation was tagged with.
    pub tag: T,
    /// The operation. Dead when `more` is false.
    pub op: OpId,
    /// The system call's result: bytes for reads, writes, receives and sends; events for polls.
    pub result: Result<u32, Errno>,
    /// The operation goes on; more completions come.
    pub more: bool,
    /// What comes with it.
    pub data: Data,
}

impl<T: Copy> Ring<T> {
    /// The next completion, if there is one. Does not enter the kernel.
    pub fn completion(&mut self) -> Option<Completion<T>> {
        loop {
            if let Some(done) = self.local.pop_front() {
                return Some(done);
            }
            let entry = self.uring.completion().next()?;
            self.counters.completed += 1;
            let done = self.complete(entry.user_data(), entry.result(), entry.flags());
            if done.is_some() {
                return done;
            }
        }
    }

    /// Works off one entry of the completion queue; `None` when there is nothing to tell.
    pub(super) fn complete(&mut self, user_data: u64, result: i32, flags: u32) -> Option<Completion<T>> {
        let (kind, op) = OpId::split(user_data);
        let data = self.carried(kind, result, flags);
        if kind == Kind::Ignore {
            return None;
        }
        let more = cqueue::more(flags);
        let Some(entry) = self.slots.get(op) else {
            self.counters.stale += 1;
            self.discard(&data);
            return None;
        };
        if !more {
            entry.live = entry.live.saturating_sub(1);
        }
        let tag = entry.tag;
        let result = outcome(result);
        if result == Err(Errno::ENOBUFS)
            && matches!(kind, Kind::Frames | Kind::Receive | Kind::Messages | Kind::Relayed)
        {
            self.counters.starved += 1;
        }
        match kind {
            Kind::FrameRead | Kind::FramePoll => self.single_frame(op, kind, result, data),
            _ if more => Some(Completion { tag, op, result, more, data }),
            _ => self.finish(op, result, data),
        }
    }

    /// Takes what an entry carries: exactly one owner for each buffer and descriptor.
    fn carried(&mut self, kind: Kind, result: i32, flags: u32) -> Data {
        let class = match kind {
            Kind::Frames | Kind::FrameRead => Class::Tap,
            Kind::Receive => Class::Host,
            Kind::Messages => Class::Message,
            Kind::Relayed => Class::Relay,
            Kind::Accept if result >= 0 => {
                // SAFETY: a successful accept makes a new descriptor, which this completion is the only word of.
                return Data::Fd(unsafe { OwnedFd::from_raw_fd(result) });
            }
            _ => return Data::None,
        };
        let Some(index) = cqueue::buffer_select(flags) else { return Data::None };
        let Some(id) = self.arena.adopt(class, u32::from(index)) else { return Data::None };
        let len = usize::try_from(result).unwrap_or(0);
        self.lending.taken(class, len);
        let span = Span::new(id, 0, u32::try_from(result).unwrap_or(0));
        let data = match kind {
            Kind::Messages => self.message(span),
            _ if span.is_empty() => None,
            _ => Some(Data::Span(span)),
        };
        // End of file and errors may come with a buffer that holds nothing.
        data.unwrap_or_else(|| {
            self.arena.release(id);
            Data::None
        })
    }

    /// Reads what a multishot `recvmsg` put before the payload.
    fn message(&self, span: Span) -> Option<Data> {
        let out = RecvMsgOut::parse(self.arena.bytes(span), &TEMPLATE.0).ok()?;
        let control = decode_control(out.control_data());
        Some(Data::Message {
            from: decode_name(out.name_data()),
            to: control.local,
            data: Span::new(span.buf, PAYLOAD_AT as u32, out.payload_data().len() as u32),
            segment: control.segment,
            tos: control.tos,
            ttl: control.ttl,
            truncated: out.is_payload_truncated(),
        })
    }

    /// Drops what nobody wants. A descriptor closes by itself.
    fn discard(&mut self, data: &Data) {
        if let Some(span) = data.span() {
            self.arena.release(span.buf);
        }
    }

    /// One of the single reads of `read_frames` has ended, or a poll before one: keeps the reads going.
    fn single_frame(
        &mut self,
        op: OpId,
        kind: Kind,
        result: Result<u32, Errno>,
        data: Data,
    ) -> Option<Completion<T>> {
        let closing = self.closing;
        let entry = self.slots.get(op)?;
        let (tag, going) = (entry.tag, !entry.cancelled && !closing);
        let armed = match (kind, result) {
            (Kind::FramePoll, Ok(_)) if going => self.arm_frame_read(op, Kind::FrameRead),
            (Kind::FrameRead, Err(Errno::EAGAIN)) if going => self.arm_frame_read(op, Kind::FramePoll),
            (Kind::FrameRead, Ok(n)) if n > 0 => {
                let first = if going { self.arm_frame_read(op, Kind::FrameRead) } else { Ok(()) };
                if first.is_ok() && going {
                    // Fewer reads than wanted in flight is no failure.
                    let _ = self.arm_frame_reads(op);
                }
                let more = self.slots.get(op).is_some_and(|entry| entry.live > 0);
                if more {
                    return Some(Completion { tag, op, result, more, data });
                }
                return self.finish(op, result, data);
            }
            // End of file or an error. Want of a slot ends this read only; anything else ends all of them.
            (_, result) => Err(result.err().unwrap_or(Errno::UnknownErrno)),
        };
        let entry = self.slots.get(op)?;
        if let Err(errno) = armed
            && errno != Errno::ENOBUFS
        {
            entry.cancelled = true;
        }
        if entry.live > 0 { None } else { self.finish(op, result, data) }
    }

    /// Ends an operation: frees its slot and everything it had lent.
    pub(super) fn finish(
        &mut self,
        op: OpId,
        result: Result<u32, Errno>,
        data: Data,
    ) -> Option<Completion<T>> {
        let entry = self.slots.remove(op)?;
        if let Some(lent) = entry.lent {
            self.take_back(lent);
        }
        Some(Completion { tag: entry.tag, op, result, more: false, data })
    }
}

/// The result as the system call would have given it. A cancelled worker lets the kernel's private ERESTARTSYS (512) or
/// EINTR out (facts/io_uring.md, 2.4): both mean cancelled here.
fn outcome(result: i32) -> Result<u32, Errno> {
    match u32::try_from(result) {
        Ok(n) => Ok(n),
        Err(_) => Err(match result.saturating_neg() {
            512 | libc::EINTR => Errno::ECANCELED,
            errno => Errno::from_raw(errno),
        }),
    }
}
