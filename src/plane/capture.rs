//! Captures at run time: frames of the tap, with what flow they are of, written to whoever asked.
//!
//! Theory of operation. Control hands over a stream socket; the plane opens nothing. Each frame becomes a pcapng block
//! ([`super::pcapng`]) in a buffer of the capture, whose comment names the flow and the host's socket that carries it. The
//! buffer goes out at the end of a batch, as far as the socket takes it, and goes on when the ring says that it takes more.
//!
//! The network never waits for a reader: what does not fit in [`ROOM`] is dropped and counted, and the next packet that
//! fits says how many were (`epb_dropcount`). When the reader shuts its side down, what is in the buffer goes out, then the
//! totals, then the end. At most [`MOST`] captures run at once.
//!
//! Frames are as the stack sees them: up to 64 KiB long, checksums possibly still to be set by the kernel. While nobody
//! captures, this costs a look at an empty list.

use super::pcapng::{self, Packet, Way};
use super::shard::Shard;
use super::sockets::Sockets;
use super::tag::Tag;
use crate::flow::FlowId;
use crate::ring::Completion;
use crate::stack::{Ends, Stack};
use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{MsgFlags, send};
use socket2::SockRef;
use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

/// Captures at once.
pub const MOST: usize = 4;
/// Bytes that wait for one reader.
const ROOM: usize = 4 << 20;
/// What a block takes besides the frame and its comment, at most.
const OVERHEAD: usize = 96;
/// Names kept of ends that have been seen.
const NAMES: usize = 4096;
/// Written bytes that are worth moving the rest for.
const COMPACT: usize = 256 * 1024;

/// One reader.
#[derive(Debug)]
struct Capture {
    number: u32,
    stream: OwnedFd,
    flow: Option<String>,
    snaplen: u32,
    /// Blocks, of which those before `sent` are gone.
    pending: Vec<u8>,
    sent: usize,
    /// The ring will say when the stream has room.
    blocked: bool,
    /// The reader wants no more; what is pending still goes out.
    ending: bool,
    received: u64,
    dropped: u64,
    dropped_lately: u64,
}

/// What became of an attempt to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    All,
    Blocked,
    Gone,
}

impl Capture {
    fn new(number: u32, stream: OwnedFd, flow: Option<String>, snaplen: u32, interface: &str) -> Self {
        let mut pending = Vec::new();
        pcapng::begin(&mut pending, interface, snaplen);
        Self {
            number,
            stream,
            flow,
            snaplen,
            pending,
            sent: 0,
            blocked: false,
            ending: false,
            received: 0,
            dropped: 0,
            dropped_lately: 0,
        }
    }

    fn record<'a>(&mut self, about: &Packet<'_>, parts: impl Iterator<Item = &'a [u8]>) {
        self.received += 1;
        let kept = about.length.min(self.snaplen) as usize;
        if self.pending.len() - self.sent + kept + about.comment.len() + OVERHEAD > ROOM {
            self.dropped += 1;
            self.dropped_lately += 1;
            return;
        }
        let about = Packet { dropped: std::mem::take(&mut self.dropped_lately), ..*about };
        pcapng::packet(&mut self.pending, &about, self.snaplen, parts);
    }

    /// Writes what the stream takes.
    fn write(&mut self) -> Written {
        while self.sent < self.pending.len() {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            match send(self.stream.as_raw_fd(), &self.pending[self.sent..], flags) {
                Ok(n) => self.sent += n,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    if self.sent > COMPACT {
                        self.pending.drain(..self.sent);
                        self.sent = 0;
                    }
                    return Written::Blocked;
                }
                Err(_) => return Written::Gone,
            }
        }
        self.pending.clear();
        self.sent = 0;
        Written::All
    }

    fn end(&mut self) {
        if !std::mem::replace(&mut self.ending, true) {
            pcapng::statistics(&mut self.pending, now(), self.received, self.dropped);
        }
    }
}

/// A flow as comments name it.
#[derive(Debug)]
struct Name {
    flow: FlowId,
    id: String,
    comment: String,
    /// The host's socket is known, so it is not looked at again.
    whole: bool,
}

/// All readers.
#[derive(Debug, Default)]
pub struct Captures {
    list: Vec<Capture>,
    names: HashMap<Ends, Name, ahash::RandomState>,
    next: u32,
}

impl Captures {
    /// Nobody captures.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Takes a frame down for everyone whom it concerns.
    pub fn record<'a>(
        &mut self,
        stack: &Stack,
        sockets: &Sockets,
        way: Way,
        parts: impl Iterator<Item = &'a [u8]> + Clone,
    ) {
        if self.list.is_empty() {
            return;
        }
        let head = parts.clone().next().unwrap_or_default();
        let name = Ends::of(head, way == Way::FromGuest)
            .and_then(|ends| name(&mut self.names, stack, sockets, ends));
        let length: usize = parts.clone().map(<[u8]>::len).sum();
        let about = Packet {
            at: now(),
            way,
            length: u32::try_from(length).unwrap_or(u32::MAX),
            comment: name.map_or("", |name| &name.comment),
            dropped: 0,
        };
        for capture in self.list.iter_mut().filter(|capture| !capture.ending) {
            let wanted = capture.flow.as_deref();
            if wanted.is_none_or(|wanted| name.is_some_and(|name| name.id == wanted)) {
                capture.record(&about, parts.clone());
            }
        }
    }

    fn get(&mut self, number: u32) -> Option<&mut Capture> {
        self.list.iter_mut().find(|capture| capture.number == number)
    }
}

/// What the flow between `ends` is called. One that has just ended keeps its name for its last frames.
fn name<'n>(
    names: &'n mut HashMap<Ends, Name, ahash::RandomState>,
    stack: &Stack,
    sockets: &Sockets,
    ends: Ends,
) -> Option<&'n Name> {
    if let Some(flow) = stack.flow_between(&ends)
        && names.get(&ends).is_none_or(|name| name.flow != flow || !name.whole)
    {
        if names.len() >= NAMES {
            names.clear();
        }
        names.insert(ends, describe(stack, sockets, ends, flow));
    }
    names.get(&ends)
}

fn describe(stack: &Stack, sockets: &Sockets, ends: Ends, flow: FlowId) -> Name {
    let id = format!("{flow:?}").to_lowercase();
    let socket = sockets.get(flow).and_then(|socket| socket.fd().ok());
    let address = |of: fn(&SockRef<'_>) -> std::io::Result<socket2::SockAddr>| {
        let socket = socket.as_ref().map(SockRef::from)?;
        of(&socket).ok()?.as_socket().filter(|address| address.port() != 0)
    };
    let local = address(|socket| socket.local_addr());
    let host = address(|socket| socket.peer_addr()).or_else(|| stack.flow(flow).and_then(|info| info.host));
    let mut comment = format!("{id} guest {} - {}", ends.guest, ends.remote);
    match (local, host) {
        (Some(local), Some(host)) => comment += &format!(", host socket {local} - {host}"),
        (None, Some(host)) => comment += &format!(", host {host}"),
        (Some(local), None) => comment += &format!(", host socket {local}"),
        (None, None) => {}
    }
    // A connection has a local end as soon as it is begun.
    Name { flow, id, comment, whole: local.is_some() && host.is_some() }
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Until the year 2554.
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

impl Shard {
    /// Begins a capture to the stream that came with a message. One too many ends at once.
    pub(super) fn begin_capture(&mut self, flow: Option<String>, snaplen: u32, fds: Vec<OwnedFd>) {
        let Some(stream) = fds.into_iter().next().filter(|_| self.captures.list.len() < MOST) else { return };
        let number = self.captures.next;
        self.captures.next = self.captures.next.wrapping_add(1);
        self.ring.poll(stream.as_fd(), PollFlags::POLLIN, false, Tag::CaptureEnd(number));
        self.captures.list.push(Capture::new(number, stream, flow, snaplen, &self.tap.name));
    }

    /// Hands what was taken down to the readers. Costs nothing when nothing was.
    pub(super) fn flush_captures(&mut self) {
        for at in (0..self.captures.list.len()).rev() {
            let capture = &mut self.captures.list[at];
            if capture.blocked {
                continue;
            }
            match capture.write() {
                Written::All if !capture.ending => {}
                Written::All | Written::Gone => self.forget_capture(at),
                Written::Blocked => {
                    capture.blocked = true;
                    let tag = Tag::CaptureRoom(capture.number);
                    self.ring.poll(capture.stream.as_fd(), PollFlags::POLLOUT, false, tag);
                }
            }
        }
    }

    fn forget_capture(&mut self, at: usize) {
        let capture = self.captures.list.swap_remove(at);
        // The reader learns of the end now; the descriptor closes when something else wakes us.
        let _ = SockRef::from(&capture.stream).shutdown(std::net::Shutdown::Both);
        self.ring.cancel_fd(capture.stream.as_fd());
        self.graveyard.push(capture.stream);
        if self.captures.is_empty() {
            self.captures.names = HashMap::default();
        }
    }

    pub(super) fn on_capture_room(&mut self, number: u32) {
        // The end of the batch writes on.
        if let Some(capture) = self.captures.get(number) {
            capture.blocked = false;
        }
    }

    pub(super) fn on_capture_end(&mut self, number: u32, c: &Completion<Tag>) {
        if let Some(capture) = self.captures.get(number)
            && c.result != Err(Errno::ECANCELED)
        {
            capture.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pcapng::Blocks;
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    fn about(length: u32) -> Packet<'static> {
        Packet { at: 1, way: Way::ToGuest, length, comment: "tcp:0.0", dropped: 0 }
    }

    #[test]
    fn a_reader_that_does_not_read_loses_packets_and_is_told_how_many() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut capture = Capture::new(0, theirs.into(), None, u32::MAX, "tap0");
        let frame = vec![7u8; 60_000];
        for _ in 0..200 {
            capture.record(&about(60_000), [&frame[..]].into_iter());
            assert!(capture.pending.len() - capture.sent <= ROOM);
            capture.write();
        }
        let dropped = capture.dropped;
        assert!(dropped > 100, "{dropped}");
        // It reads now.
        let reader = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            ours.read_to_end(&mut bytes).unwrap();
            bytes
        });
        let write_all = |capture: &mut Capture| {
            while capture.write() == Written::Blocked {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        };
        write_all(&mut capture);
        // The next that fits says how many are missing before it, and the one after that misses none.
        for _ in 0..2 {
            capture.record(&about(60_000), [&frame[..]].into_iter());
        }
        capture.end();
        write_all(&mut capture);
        drop(capture);
        let mut blocks = Blocks::default();
        blocks.push(&reader.join().unwrap());
        let (mut lost_before, mut told) = (Vec::new(), None);
        while let Some(block) = blocks.next_block().unwrap() {
            lost_before.extend(block.packet().map(|packet| packet.dropped));
            told = told.or(block.dropped());
        }
        assert_eq!((lost_before.len() as u64 + dropped, told), (202, Some(dropped)));
        assert_eq!(lost_before.iter().rev().take(3).collect::<Vec<_>>(), [&0, &dropped, &0]);
    }

    #[test]
    fn a_reader_that_is_gone_is_noticed() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut capture = Capture::new(0, theirs.into(), None, 100, "tap0");
        drop(ours);
        assert_eq!(capture.write(), Written::Gone);
    }
}
