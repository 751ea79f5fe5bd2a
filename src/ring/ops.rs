//! What the ring can be asked to do. Every operation returns its [`OpId`] and ends with one completion (see the
//! module's text for ends, descriptors and memory).
//!
//! Spans passed in are lent: the operation takes a reference on each buffer and drops it with its final completion. A
//! span that is out of range, or whose buffer is not owned, makes the operation complete with `EFAULT`; one operation
//! more than the configured bound completes with `ENOMEM`.

use super::complete::TEMPLATE;
use super::message::{Control, Local, encode_name};
use super::provided::group;
use super::slots::{Kind, Lent};
use super::{Completion, Data, FrameReads, OpId, PendingShutdown, Ring};
use crate::buf::{Class, Span, TAP_SLOT};
use io_uring::types::{CancelBuilder, Fd};
use io_uring::{opcode, squeue};
use nix::errno::Errno;
use nix::poll::PollFlags;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr::{self, NonNull};

/// Single frame reads kept in flight where there is no multishot read. More cost more: each is polled by itself.
const SINGLE_READS: u16 = 4;
/// Largest number of vectors in one call (`UIO_MAXIOV`).
const MAX_VECTORS: usize = 1024;

/// One datagram, or several of equal size, to send.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Destination; `None` for a connected socket.
    pub to: Option<SocketAddr>,
    /// Source address; `None`: the socket's own, or the routing table's choice.
    pub from: Option<Local>,
    /// Bytes that go first; copied.
    pub head: &'a [u8],
    /// Payload, in order.
    pub spans: &'a [Span],
    /// Cut into datagrams of this many bytes (`UDP_SEGMENT`), at most 64 of them on older kernels, 128 on newer.
    pub segment: Option<u16>,
    /// Time to live or hop limit, 1 to 255. Needs `to`, whose family decides which of the two.
    pub ttl: Option<u8>,
    /// Type of service or traffic class. Needs `to`.
    pub tos: Option<u8>,
}

impl<T: Copy> Ring<T> {
    /// Reads frames from a tap, one per completion, into slots of [`Class::Tap`], until it ends.
    pub fn read_frames(&mut self, fd: BorrowedFd<'_>, tag: T) -> OpId {
        let group = group(Class::Tap);
        if self.granted.frame_reads == FrameReads::Multishot {
            return self.start(fd, tag, None, Kind::Frames, |fd| {
                // The crate's builder forgets what kind of descriptor it was given (facts/io_uring.md, 1.4): never
                // pass a fixed one without setting the flag again.
                opcode::ReadMulti::new(fd, 0, group).build()
            });
        }
        let op = self.start(fd, tag, None, Kind::FrameRead, |fd| frame_read(fd.0, group));
        // What cannot be armed now is armed by the first completion.
        let _ = self.arm_frame_reads(op);
        op
    }

    /// Brings the single reads of `op` to their number. Fails if one could not be queued.
    pub(super) fn arm_frame_reads(&mut self, op: OpId) -> Result<(), Errno> {
        let group = group(Class::Tap);
        while let Some(entry) = self.slots.get(op)
            && entry.live > 0
            && entry.live < SINGLE_READS
        {
            let sqe = frame_read(entry.fd, group).user_data(op.user_data(Kind::FrameRead));
            self.again(op, &sqe)?;
        }
        Ok(())
    }

    /// Queues one single read of `op`, or a poll that goes before it.
    pub(super) fn arm_frame_read(&mut self, op: OpId, kind: Kind) -> Result<(), Errno> {
        let group = group(Class::Tap);
        let Some(entry) = self.slots.get(op) else { return Ok(()) };
        let sqe = match kind {
            Kind::FramePoll => opcode::PollAdd::new(Fd(entry.fd), libc::POLLIN as u32).build(),
            _ => frame_read(entry.fd, group),
        };
        self.again(op, &sqe.user_data(op.user_data(kind)))
    }

    /// Queues one more entry of an operation.
    fn again(&mut self, op: OpId, sqe: &squeue::Entry) -> Result<(), Errno> {
        self.push(sqe)?;
        if let Some(entry) = self.slots.get(op) {
            entry.live += 1;
        }
        Ok(())
    }

    /// Receives from a stream socket (or connected datagrams, one per completion) into slots of
    /// [`Class::Host`], until it ends. `Ok(0)` is the end of the stream.
    pub fn receive(&mut self, fd: BorrowedFd<'_>, tag: T) -> OpId {
        let group = group(Class::Host);
        self.start(fd, tag, None, Kind::Receive, |fd| opcode::RecvMulti::new(fd, group).build())
    }

    /// As [`Self::receive`], for a relayed stream: into slots of [`Class::Relay`].
    pub fn receive_relayed(&mut self, fd: BorrowedFd<'_>, tag: T) -> OpId {
        let group = group(Class::Relay);
        self.start(fd, tag, None, Kind::Relayed, |fd| opcode::RecvMulti::new(fd, group).build())
    }

    /// Receives datagrams with their sender and control messages ([`Data::Message`]) into slots of
    /// [`Class::Message`], until it ends. An empty datagram ends it (io_uring/net.c, io_recvmsg_multishot): it
    /// comes with `more == false` and is no reason not to arm again.
    pub fn receive_messages(&mut self, fd: BorrowedFd<'_>, tag: T) -> OpId {
        let group = group(Class::Message);
        self.start(fd, tag, None, Kind::Messages, |fd| {
            opcode::RecvMsgMulti::new(fd, &raw const TEMPLATE.0, group).build()
        })
    }

    /// Writes one frame: `vnet` and `head` (copied; together up to 144 bytes without an allocation), then the spans.
    /// A tap takes it, or refuses it, while it is being submitted.
    pub fn write_frame(
        &mut self,
        fd: BorrowedFd<'_>,
        vnet: &[u8],
        head: &[u8],
        spans: &[Span],
        tag: T,
    ) -> OpId {
        match self.gather(&[vnet, head], spans) {
            Ok(mut lent) => {
                // SAFETY: the block is ours alone until the entry built from it is submitted.
                let (at, n) = vectors(unsafe { lent.as_mut() });
                self.start(fd, tag, Some(lent), Kind::Plain, |fd| {
                    opcode::Writev::new(fd, at, n as u32).build()
                })
            }
            Err(errno) => self.refuse(tag, errno),
        }
    }

    /// Writes bytes, which the operation keeps until it ends. For frames and messages built whole.
    pub fn write_bytes(&mut self, fd: BorrowedFd<'_>, bytes: Vec<u8>, tag: T) -> OpId {
        let mut lent = self.slots.lend();
        // SAFETY: as in `write_frame`.
        let block = unsafe { lent.as_mut() };
        block.bytes = bytes;
        let (at, len) = (block.bytes.as_ptr(), block.bytes.len() as u32);
        // An offset of -1 is the current position, for what has one.
        self.start(fd, tag, Some(lent), Kind::Plain, |fd| {
            opcode::Write::new(fd, at, len).offset(u64::MAX).build()
        })
    }

    /// Sends stream bytes. The result may be less than the spans hold. Keep one send in flight per socket: two may
    /// change places.
    pub fn send(&mut self, fd: BorrowedFd<'_>, spans: &[Span], tag: T) -> OpId {
        let lent = match self.gather(&[], spans) {
            Ok(lent) => lent,
            Err(errno) => return self.refuse(tag, errno),
        };
        // SAFETY: as in `write_frame`.
        let [only] = unsafe { lent.as_ref() }.vectors[..] else { return self.send_block(fd, lent, tag) };
        // Most are one piece, and need no message header for the kernel to read and check.
        self.start(fd, tag, Some(lent), Kind::Plain, |fd| {
            opcode::Send::new(fd, only.iov_base.cast(), only.iov_len as u32).flags(libc::MSG_NOSIGNAL).build()
        })
    }

    /// Sends one datagram, or several of equal size at once.
    pub fn send_message(&mut self, fd: BorrowedFd<'_>, message: &Message<'_>, tag: T) -> OpId {
        let mut lent = match self.gather(&[message.head], message.spans) {
            Ok(lent) => lent,
            Err(errno) => return self.refuse(tag, errno),
        };
        // SAFETY: as in `write_frame`.
        let block = unsafe { lent.as_mut() };
        if let Some(to) = &message.to {
            block.header.msg_namelen = encode_name(to, &mut block.name);
        }
        let family = message.to.map(|to| to.ip());
        block.control = Control::outgoing(family, message.from, message.segment, message.ttl, message.tos);
        self.send_block(fd, lent, tag)
    }

    /// Sends what a block holds.
    fn send_block(&mut self, fd: BorrowedFd<'_>, mut lent: NonNull<Lent>, tag: T) -> OpId {
        // SAFETY: as in `write_frame`.
        let block = unsafe { lent.as_mut() };
        let (at, n) = vectors(block);
        let flags = libc::MSG_NOSIGNAL as u32;
        block.header.msg_iov = at.cast_mut();
        block.header.msg_iovlen = n as _;
        if block.header.msg_namelen > 0 {
            block.header.msg_name = block.name.as_mut_ptr().cast();
        }
        let control = block.control.as_slice();
        if !control.is_empty() {
            block.header.msg_control = control.as_ptr().cast_mut().cast();
            block.header.msg_controllen = control.len() as _;
        }
        let header = &raw const block.header;
        self.start(fd, tag, Some(lent), Kind::Plain, |fd| {
            opcode::SendMsg::new(fd, header).flags(flags).build()
        })
    }

    /// Connects a socket.
    pub fn connect(&mut self, fd: BorrowedFd<'_>, to: SocketAddr, tag: T) -> OpId {
        let mut lent = self.slots.lend();
        // SAFETY: as in `write_frame`.
        let block = unsafe { lent.as_mut() };
        let len = encode_name(&to, &mut block.name);
        let name = block.name.as_ptr().cast();
        self.start(fd, tag, Some(lent), Kind::Plain, |fd| opcode::Connect::new(fd, name, len).build())
    }

    /// Accepts connections, one per completion ([`Data::Fd`], non-blocking and close-on-exec), until it ends.
    pub fn accept(&mut self, fd: BorrowedFd<'_>, tag: T) -> OpId {
        self.start(fd, tag, None, Kind::Accept, |fd| {
            opcode::AcceptMulti::new(fd).flags(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC).build()
        })
    }

    /// Waits for events, once or, with `multishot`, each time they come up. The result is the events' bits.
    pub fn poll(&mut self, fd: BorrowedFd<'_>, events: PollFlags, multishot: bool, tag: T) -> OpId {
        let bits = u32::from(events.bits() as u16);
        self.start(fd, tag, None, Kind::Plain, |fd| opcode::PollAdd::new(fd, bits).multi(multishot).build())
    }

    /// Shuts a socket down, right after the sends queued before have been submitted. A direct system call in truth: the
    /// operation of this name always goes to a kernel thread (`REQ_F_FORCE_ASYNC`, io_uring/net.c).
    pub fn shutdown(&mut self, fd: BorrowedFd<'_>, how: Shutdown, tag: T) -> OpId {
        match self.slots.insert(fd.as_raw_fd(), Kind::Ignore, tag, None) {
            Some(op) => {
                self.shutdowns.push(PendingShutdown { fd: fd.as_raw_fd(), how, op });
                op
            }
            None => self.refuse(tag, Errno::ENOMEM),
        }
    }

    /// Cancels an operation. Its final completion still comes: `ECANCELED`, or what it had achieved by then. Cancelling
    /// one that has ended does nothing.
    pub fn cancel(&mut self, op: OpId) {
        let Some(entry) = self.slots.get(op) else { return };
        entry.cancelled = true;
        let kind = entry.kind;
        // A shutdown is no submission.
        if kind == Kind::Ignore {
            return;
        }
        self.push_cancel(CancelBuilder::user_data(op.user_data(kind)).all());
        if kind == Kind::FrameRead {
            self.push_cancel(CancelBuilder::user_data(op.user_data(Kind::FramePoll)).all());
        }
    }

    /// Cancels every operation on a descriptor. Submit before closing it.
    pub fn cancel_fd(&mut self, fd: BorrowedFd<'_>) {
        let mut before = None;
        while let Some(op) = self.slots.next_of(fd.as_raw_fd(), before) {
            self.cancel(op);
            before = Some(op);
        }
    }

    /// Queues a cancellation. Its own result is of no interest: what was cancelled completes by itself.
    fn push_cancel(&mut self, what: CancelBuilder) {
        let entry = opcode::AsyncCancel2::new(what)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(OpId::NONE.user_data(Kind::Ignore));
        // It fails only when the kernel takes nothing at all, and then waiting fails too, which the caller sees.
        let _ = self.push(&entry);
    }

    /// A block with the head bytes copied and the spans referenced.
    fn gather(&mut self, head: &[&[u8]], spans: &[Span]) -> Result<NonNull<Lent>, Errno> {
        let mut lent = self.slots.lend();
        // SAFETY: a block from the pool is ours alone until an entry built from it is submitted.
        let block = unsafe { lent.as_mut() };
        for bytes in head {
            block.head.extend_from_slice(bytes);
        }
        if !block.head.is_empty() {
            let base = block.head.as_mut_ptr().cast();
            block.vectors.push(libc::iovec { iov_base: base, iov_len: block.head.len() });
        }
        let mut result = Ok(lent);
        for span in spans.iter().filter(|span| !span.is_empty()) {
            let Some((at, len)) = self.arena.locate(*span) else {
                result = Err(Errno::EFAULT);
                break;
            };
            self.arena.retain(span.buf);
            block.held.push(span.buf);
            block.vectors.push(libc::iovec { iov_base: at.cast_mut().cast(), iov_len: len });
        }
        if block.vectors.len() > MAX_VECTORS {
            result = Err(Errno::EMSGSIZE);
        }
        if result.is_err() {
            self.take_back(lent);
        }
        result
    }

    /// Drops the references of a block and puts it back.
    pub(super) fn take_back(&mut self, mut lent: NonNull<Lent>) {
        // SAFETY: the operation of this block has ended or was never submitted: the kernel no longer looks at it.
        let block = unsafe { lent.as_mut() };
        for id in block.held.drain(..) {
            self.arena.release(id);
        }
        block.clear();
        self.slots.put_back(lent);
    }

    /// Gives an operation its slot and queues its entry.
    fn start(
        &mut self,
        fd: BorrowedFd<'_>,
        tag: T,
        lent: Option<NonNull<Lent>>,
        kind: Kind,
        build: impl FnOnce(Fd) -> squeue::Entry,
    ) -> OpId {
        let raw = fd.as_raw_fd();
        let Some(op) = self.slots.insert(raw, kind, tag, lent) else {
            if let Some(lent) = lent {
                self.take_back(lent);
            }
            return self.refuse(tag, Errno::ENOMEM);
        };
        let sqe = build(Fd(raw)).user_data(op.user_data(kind));
        if let Err(errno) = self.again(op, &sqe)
            && let Some(done) = self.finish(op, Err(errno), Data::None)
        {
            self.local.push_back(done);
        }
        op
    }

    /// An operation that never starts: its completion says why.
    pub(super) fn refuse(&mut self, tag: T, errno: Errno) -> OpId {
        self.counters.refused += 1;
        let done = Completion { tag, op: OpId::NONE, result: Err(errno), more: false, data: Data::None };
        self.local.push_back(done);
        OpId::NONE
    }
}

/// A single read of one frame into whatever slot the kernel picks.
fn frame_read(fd: RawFd, group: u16) -> squeue::Entry {
    opcode::Read::new(Fd(fd), ptr::null_mut(), TAP_SLOT as u32)
        .buf_group(group)
        .offset(u64::MAX)
        .build()
        .flags(squeue::Flags::BUFFER_SELECT)
}

/// Address and number of a block's vectors.
fn vectors(block: &mut Lent) -> (*const libc::iovec, usize) {
    (block.vectors.as_ptr(), block.vectors.len())
}
