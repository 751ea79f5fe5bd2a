//! Moving the bytes: actions of a [`Pair`](crate::relay::Pair) -> operations, completions -> events.

use super::by_hand;
use super::tcp::{TICK, TcpRelays, TcpTag};
use crate::buf::{Class, SMALL_MAX, Span};
use crate::flow::{FlowId, Time};
use crate::relay::{Action, Ended, Fault, PipeKey, Way, gather};
use crate::ring::{Completion, Link as Part, Ring, sockopt};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::SockRef;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// How long a destination without room rests where a poll does not wait: see `plane::shard`.
const REST: Duration = Duration::from_millis(1);

fn outcome(result: Result<u32, Errno>) -> Result<u32, Fault> {
    result.map_err(|errno| match errno {
        Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM => Fault::Again,
        _ => Fault::Broken,
    })
}

impl<T: Copy> TcpRelays<T> {
    /// Carries out what is queued, all of it for the connection `id`.
    pub(super) fn perform(&mut self, ring: &mut Ring<T>, now: Time, id: FlowId) {
        while let Some(action) = self.actions.pop_front() {
            self.carry_out(ring, now, id, action);
        }
        let Some(link) = self.links.get_mut(id) else { return };
        if !link.ticking && (link.pair.wants_tick() || link.pair.half_closed().is_some()) {
            link.ticking = true;
            self.ticking.push(id);
            self.tick_at.get_or_insert(now + TICK);
        }
        self.bury(ring, now, id);
    }

    fn carry_out(&mut self, ring: &mut Ring<T>, now: Time, id: FlowId, action: Action) {
        let tag = self.tag;
        let Some(link) = self.links.get_mut(id) else { return };
        let (client, server) = (link.client.as_fd(), link.server.as_ref().map(AsFd::as_fd));
        // Before there is a backend, buffers and the end are all that there can be.
        let server = server.unwrap_or(client);
        let ends = |way| if way == Way::ToServer { (client, server) } else { (server, client) };
        match action {
            Action::Receive(way) => {
                link.ops += 1;
                let op = ring.receive_relayed(ends(way).0, tag(TcpTag::Receive(id, way)));
                link.receiving[way as usize] = Some(op);
            }
            Action::StopReceive(way) => {
                if let Some(op) = link.receiving[way as usize] {
                    ring.cancel(op);
                }
            }
            Action::Send(way, spans) => {
                link.ops += 1;
                ring.send(ends(way).1, &spans, tag(TcpTag::Send(id, way)));
            }
            Action::Release(buf) => ring.release(buf),
            Action::TakePipe(way) => {
                let key = self.pipes.take().map(|pipe| PipeKey(self.lent.insert(pipe) as u16));
                link.pair.lent(now, way, key, &mut self.actions);
            }
            Action::ReturnPipe(key, empty) => {
                if let Some(pipe) = self.lent.try_remove(key.0.into()) {
                    self.pipes.put_back(pipe, empty);
                }
            }
            Action::Through(way, key) => {
                let Some(pipe) = self.lent.get(key.0.into()) else { return };
                let (from, to) = ends(way);
                let len = pipe.size();
                let parts = [
                    (Part::Poll(from, PollFlags::POLLIN), tag(TcpTag::Wait(id, way))),
                    (Part::Splice { from, to: pipe.write_end(), len }, tag(TcpTag::Fill(id, way, key))),
                    (Part::Splice { from: pipe.read_end(), to, len }, tag(TcpTag::Drain(id, way, key))),
                ];
                link.ops += 3;
                link.waiting[way as usize] = ring.chain(&parts).first().copied();
            }
            Action::Fill(way, key) => {
                let Some(pipe) = self.lent.get(key.0.into()) else { return };
                let from = ends(way).0;
                let parts = [
                    (Part::Poll(from, PollFlags::POLLIN), tag(TcpTag::Wait(id, way))),
                    (
                        Part::Splice { from, to: pipe.write_end(), len: pipe.size() },
                        tag(TcpTag::Fill(id, way, key)),
                    ),
                ];
                link.ops += 2;
                link.waiting[way as usize] = ring.chain(&parts).first().copied();
            }
            Action::Drain { way, pipe: key, wait } => {
                let Some(pipe) = self.lent.get(key.0.into()) else { return };
                let to = ends(way).1;
                let parts = [
                    (Part::Poll(to, PollFlags::POLLOUT), tag(TcpTag::Wait(id, way))),
                    (
                        Part::Splice { from: pipe.read_end(), to, len: pipe.size() },
                        tag(TcpTag::Drain(id, way, key)),
                    ),
                ];
                let parts = if wait { &parts[..] } else { &parts[1..] };
                link.ops += parts.len() as u32;
                ring.chain(parts);
            }
            Action::Hurry(way) => {
                if let Some(op) = link.waiting[way as usize] {
                    ring.cancel(op);
                }
            }
            Action::RaiseMark(way) => {
                let at = way as usize;
                if !std::mem::replace(&mut link.marked[at], true) {
                    raise_mark(ends(way).0);
                }
                link.marks[at] = link.marks[at].wrapping_add(1);
                self.gathering.push_back((now + gather::WAIT, id, way, link.marks[at]));
            }
            Action::LowerMark(way) => {
                link.marked[way as usize] = false;
                // A socket that refuses is broken, and says so by itself.
                let _ = sockopt::set_receive_low_water(ends(way).0, 1);
            }
            Action::PollIn(way) => {
                link.ops += 1;
                ring.poll(ends(way).0, PollFlags::POLLIN, false, tag(TcpTag::PollIn(id, way)));
            }
            Action::PollOut(way) => {
                link.ops += 1;
                ring.poll(ends(way).1, PollFlags::POLLOUT, false, tag(TcpTag::PollOut(id, way)));
            }
            Action::CallFill(way, key) => {
                let Some(pipe) = self.lent.get(key.0.into()) else { return };
                let result = outcome(pipe.fill(ends(way).0, pipe.size()));
                link.pair.filled(now, way, key, result, &mut self.actions);
            }
            Action::CallDrain(way, key) => {
                let Some(pipe) = self.lent.get(key.0.into()) else { return };
                let result = outcome(pipe.drain(ends(way).1, pipe.size()));
                link.pair.drained(now, way, key, result, &mut self.actions);
            }
            Action::Move(way) => {
                let (from, to) = ends(way);
                let what = by_hand::pass_on(from, to, &mut self.scratch);
                link.pair.moved(now, way, what, &mut self.actions);
            }
            Action::Rest(way) => self.resting.push_back((now + REST, id, way)),
            Action::Shutdown(way) => {
                // A peer that has gone meanwhile shows elsewhere.
                let _ = SockRef::from(&ends(way).1).shutdown(Shutdown::Write);
            }
            Action::Close { reset } => {
                if reset {
                    for fd in [client, server] {
                        let _ = SockRef::from(&fd).set_linger(Some(Duration::ZERO));
                    }
                }
                link.closing = true;
                if link.ops > 0 {
                    ring.cancel_fd(client);
                    ring.cancel_fd(server);
                }
                let (port, pair) = (link.port, &link.pair);
                let moved = Way::BOTH.map(|way| pair.pump(way).moved());
                self.count(port, |c| {
                    c.resets += u64::from(reset);
                    c.bytes = [c.bytes[0] + moved[0], c.bytes[1] + moved[1]];
                });
            }
        }
    }

    /// Closes what has ended, once nothing is in flight on it.
    pub(super) fn bury(&mut self, ring: &mut Ring<T>, now: Time, id: FlowId) {
        if !self.links.get_mut(id).is_some_and(|l| l.closing && l.ops == 0) {
            return;
        }
        if let Some(link) = self.links.get_mut(id) {
            link.pair.dispose(&mut self.actions);
        }
        while let Some(action) = self.actions.pop_front() {
            self.carry_out(ring, now, id, action);
        }
        self.links.remove(id);
    }

    /// Something of a connection has completed.
    pub(super) fn on_moved(&mut self, ring: &mut Ring<T>, now: Time, tag: TcpTag, c: Completion<T>) {
        let (TcpTag::Receive(id, _)
        | TcpTag::Send(id, _)
        | TcpTag::Wait(id, _)
        | TcpTag::Fill(id, ..)
        | TcpTag::Drain(id, ..)
        | TcpTag::PollIn(id, _)
        | TcpTag::PollOut(id, _)) = tag
        else {
            return;
        };
        let span = c.data.span().map(|span| self.shrink(ring, span));
        let free = ring.buffers_unheld(Class::Relay);
        let Some(link) = self.links.get_mut(id) else {
            if let Some(span) = span {
                ring.release(span.buf);
            }
            return;
        };
        link.ops -= u32::from(!c.more);
        let out = &mut self.actions;
        match tag {
            TcpTag::Receive(_, way) => {
                if !c.more {
                    link.receiving[way as usize] = None;
                }
                let more = c.more;
                match (c.result, span) {
                    (Ok(_), Some(span)) => link.pair.received(now, way, span, free, out),
                    _ if more || link.closing => {}
                    (Ok(_), None) => link.pair.receive_ended(now, way, Ended::Eof, out),
                    (Err(Errno::ENOBUFS), _) => {
                        self.starved.push_back((id, way));
                        link.pair.receive_ended(now, way, Ended::Starved, out);
                    }
                    (Err(Errno::ECANCELED | Errno::EINTR | Errno::EAGAIN), _) => {
                        link.pair.receive_ended(now, way, Ended::Stopped, out);
                    }
                    (Err(_), _) => link.pair.receive_ended(now, way, Ended::Broken, out),
                }
                if span.is_some() && !more && !link.closing {
                    link.pair.receive_ended(now, way, Ended::Stopped, out);
                }
            }
            TcpTag::Wait(_, way) => {
                if link.waiting[way as usize] == Some(c.op) {
                    link.waiting[way as usize] = None;
                }
            }
            _ if link.closing => {}
            TcpTag::Send(_, way) => link.pair.sent(now, way, outcome(c.result), out),
            TcpTag::Fill(_, way, key) => link.pair.filled(now, way, key, outcome(c.result), out),
            TcpTag::Drain(_, way, key) => link.pair.drained(now, way, key, outcome(c.result), out),
            TcpTag::PollIn(_, way) => link.pair.readable(now, way, out),
            TcpTag::PollOut(_, way) => link.pair.writable(now, way, out),
            TcpTag::Accept(_) | TcpTag::Connect(_) => {}
        }
        for way in Way::BOTH {
            if let Some(gear) = link.pair.pump(way).best() {
                self.first = gear;
            }
        }
        if !link.answered && link.pair.pump(Way::ToClient).moved() > 0 {
            link.answered = true;
            self.times.first_byte.record_time(now.since(link.opened));
        }
        self.perform(ring, now, id);
    }

    /// A short piece does not keep a large slot, unless small ones are short, too: half of them are left to others.
    fn shrink(&self, ring: &mut Ring<T>, span: Span) -> Span {
        if span.len as usize > SMALL_MAX {
            return span;
        }
        let arena = ring.arena_mut();
        if arena.free_count(Class::Small) * 2 < arena.slot_count(Class::Small) {
            return span;
        }
        let Some(small) = arena.alloc(Class::Small) else { return span };
        let to = Span::new(small, 0, span.len);
        arena.copy(span, to);
        arena.release(span.buf);
        to
    }

    /// Does what is due. Call it after every batch.
    pub fn handle_timeout(&mut self, ring: &mut Ring<T>, now: Time) {
        self.rearm(ring, now);
        while let Some(&(at, id, way)) = self.resting.front()
            && at <= now
        {
            self.resting.pop_front();
            if let Some(link) = self.links.get_mut(id) {
                link.pair.rested(now, way, &mut self.actions);
                self.perform(ring, now, id);
            }
        }
        self.lower_marks(ring, now);
        // No more than there are buffers for: the rest would only find out that there are none.
        let free = ring.buffers_available(Class::Relay);
        if free * 2 >= ring.buffers_total(Class::Relay) {
            for _ in 0..free.min(self.starved.len()) {
                let Some((id, way)) = self.starved.pop_front() else { break };
                if let Some(link) = self.links.get_mut(id).filter(|l| !l.closing) {
                    link.pair.plenty(now, way, &mut self.actions);
                    self.perform(ring, now, id);
                }
            }
        }
        if self.tick_at.is_some_and(|at| at <= now) {
            self.tick_at = None;
            for id in std::mem::take(&mut self.ticking) {
                self.tick(ring, now, id);
            }
        }
    }

    /// Ends the waits for a mark whose deadline has come, and forgets those that have ended by themselves: they are in order, so
    /// the first that is left is the next.
    fn lower_marks(&mut self, ring: &mut Ring<T>, now: Time) {
        while let Some(&(at, id, way, mark)) = self.gathering.front() {
            let stands = self.links.get_mut(id).filter(|link| {
                link.marks[way as usize] == mark && !link.closing && link.pair.pump(way).is_gathering()
            });
            let Some(link) = stands else {
                self.gathering.pop_front();
                continue;
            };
            if at > now {
                break;
            }
            link.pair.overdue(way, &mut self.actions);
            self.gathering.pop_front();
            self.perform(ring, now, id);
        }
    }

    fn tick(&mut self, ring: &mut Ring<T>, now: Time, id: FlowId) {
        let Some(link) = self.links.get_mut(id) else { return };
        link.ticking = false;
        let ended = link.pair.half_closed();
        let side = match ended {
            Some(Way::ToServer) => Some(link.client.as_fd()),
            Some(Way::ToClient) => link.server.as_ref().map(AsFd::as_fd),
            None => None,
        };
        if side.is_some_and(is_reset) {
            link.pair.abort(&mut self.actions);
        } else {
            link.pair.tick(now, &mut self.actions);
        }
        self.perform(ring, now, id);
    }
}

/// Makes a source readable only when [`gather::MARK`] bytes are there; a quarter of its buffer if that is less, for a mark
/// that the window cannot reach is only ever missed.
fn raise_mark(fd: BorrowedFd<'_>) {
    let room = SockRef::from(&fd).recv_buffer_size().unwrap_or(0);
    let mark = i32::try_from(room / 4).unwrap_or(i32::MAX).min(gather::MARK as i32);
    let _ = sockopt::set_receive_low_water(fd, mark.max(1));
}

/// Whether the peer has reset the connection after its end.
fn is_reset(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::empty())];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1))
        && fds[0].revents().is_some_and(|e| e.contains(PollFlags::POLLERR))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_mark_is_a_quarter_of_the_buffer_at_most() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        for (asked, small) in [(16 << 10, true), (200 << 10, true), (usize::MAX, false)] {
            let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let socket = SockRef::from(&near);
            if small {
                socket.set_recv_buffer_size(asked).unwrap();
            } else {
                // As large as the machine lets it be.
                let _ = socket.set_recv_buffer_size(8 << 20);
            }
            raise_mark(near.as_fd());
            let room = socket.recv_buffer_size().unwrap();
            let mark = usize::try_from(sockopt::receive_low_water(near.as_fd()).unwrap()).unwrap();
            assert_eq!(mark, (room / 4).min(gather::MARK as usize), "of {room}");
        }
    }
}
