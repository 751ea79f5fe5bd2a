//! A pump between a source and a destination that do what sockets may do: rules by name, and any course of events.
//!
//! The [`World`] carries the pump's actions out on numbers instead of bytes: the source is a row of offsets, buffers and
//! pipes hold ranges of them, and the destination knows which offset comes next. What a driver must be able to rely on is
//! checked with every action.

use super::*;
use crate::buf::{BufId, Class};
use crate::relay::Moved;
use crate::relay::gather::MARK;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

/// In flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Send(u64),
    Fill(PipeKey),
    /// After the fill of the same chain.
    Drain(PipeKey),
    PollIn,
    PollOut,
    Rest,
}

struct World {
    pump: Pump,
    now: Time,
    random: u64,
    /// The source ends here.
    total: u64,
    /// What the source has given, what the destination has got.
    given: u64,
    got: u64,
    receiving: bool,
    stopping: bool,
    in_flight: Vec<Op>,
    /// What a buffer still in use began with.
    bufs: BTreeMap<u32, u64>,
    next_buf: u32,
    pipes: BTreeMap<u16, Range<u64>>,
    next_pipe: u16,
    /// Pipes that may be out at once.
    budget: usize,
    shut: bool,
    /// Largest part of a splice, and whether splices and sends may fall short.
    part: u64,
    rough: bool,
    most_held: u64,
    /// What the sender has said so far. A `slow` one says more only when all of that has arrived.
    said: u64,
    slow: bool,
    /// The source is readable only when much has come.
    mark: bool,
    /// One receive in so many finds no buffer; 0: none does.
    want: u64,
    wanting: bool,
    by_hand: u32,
}

impl World {
    fn new(choice: Choice, total: u64, seed: u64) -> Self {
        let mut world = Self {
            pump: Pump::new(Way::ToServer, choice, Gear::SpliceCall),
            now: Time::ZERO,
            random: seed | 1,
            total,
            given: 0,
            got: 0,
            receiving: false,
            stopping: false,
            in_flight: Vec::new(),
            bufs: BTreeMap::new(),
            next_buf: 0,
            pipes: BTreeMap::new(),
            next_pipe: 0,
            budget: 2,
            shut: false,
            part: 256 << 10,
            rough: false,
            most_held: 0,
            said: total,
            slow: false,
            mark: false,
            want: 0,
            wanting: false,
            by_hand: 0,
        };
        world.tell(Pump::start);
        world
    }

    /// Below `limit`.
    fn dice(&mut self, limit: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % limit.max(1)
    }

    fn tell(&mut self, event: impl FnOnce(&mut Pump, Time, &mut Actions)) {
        let mut out = Actions::new();
        event(&mut self.pump, self.now, &mut out);
        while let Some(action) = out.pop_front() {
            self.carry_out(action, &mut out);
        }
    }

    fn fills(&self) -> usize {
        self.in_flight.iter().filter(|op| matches!(op, Op::Fill(_))).count()
    }

    fn drains(&self) -> usize {
        self.in_flight.iter().filter(|op| matches!(op, Op::Drain(_))).count()
    }

    fn slow_down(&mut self) {
        self.slow = true;
        self.said = self.given;
        self.say_more();
    }

    /// Called wherever something may have arrived.
    fn say_more(&mut self) {
        if self.slow && self.got == self.said {
            self.said = self.total.min(self.said + 1 + self.dice(300 << 10));
        }
    }

    fn is_readable(&self) -> bool {
        let least = if self.mark { u64::from(MARK) } else { 1 };
        self.said == self.total || self.said - self.given >= least
    }

    fn waits_for_source(&self) -> bool {
        self.in_flight.iter().any(|op| matches!(op, Op::PollIn | Op::Fill(_)))
    }

    fn start_fill(&mut self, key: PipeKey) {
        assert_eq!(self.fills(), 0, "one fill at a time");
        assert!(!self.receiving, "splicing and receiving never overlap");
        assert!(self.bufs.is_empty(), "what was copied is sent before anything is spliced");
        assert!(self.pipes[&key.0].is_empty(), "a pipe is drained before it is filled again");
        self.in_flight.push(Op::Fill(key));
    }

    fn start_drain(&mut self, key: PipeKey, behind_its_fill: bool) {
        assert_eq!(self.drains(), 0, "one drain at a time");
        assert!(behind_its_fill || !self.in_flight.contains(&Op::Fill(key)), "never both on one pipe");
        assert!(!self.in_flight.iter().any(|op| matches!(op, Op::Send(_))), "a send is under way");
        self.in_flight.push(Op::Drain(key));
    }

    fn fill(&mut self, key: PipeKey) -> Result<u32, Fault> {
        let left = self.said - self.given;
        if left == 0 && self.said < self.total {
            return Err(Fault::Again);
        }
        let most = if self.rough { self.dice(self.part) } else { self.part };
        if left > 0 && most == 0 {
            return Err(Fault::Again);
        }
        let n = left.min(most);
        let pipe = self.pipes.get_mut(&key.0).unwrap();
        *pipe = self.given..self.given + n;
        self.given += n;
        Ok(n as u32)
    }

    fn drain(&mut self, key: PipeKey) -> Result<u32, Fault> {
        let most = if self.rough { self.dice(self.part) } else { u64::MAX };
        let pipe = self.pipes.get_mut(&key.0).unwrap();
        let n = (pipe.end - pipe.start).min(most);
        if n == 0 {
            return Err(Fault::Again);
        }
        assert_eq!(pipe.start, self.got, "bytes arrive in order");
        pipe.start += n;
        self.got += n;
        Ok(n as u32)
    }

    fn carry_out(&mut self, action: Action, out: &mut Actions) {
        assert!(!self.shut || matches!(action, Action::Release(_) | Action::ReturnPipe(..)), "{action:?}");
        match action {
            Action::Receive(_) => {
                assert!(!self.receiving && self.fills() == 0);
                assert!(!self.mark, "a receive waits for the first byte");
                self.receiving = true;
            }
            Action::StopReceive(_) => self.stopping = true,
            Action::Send(_, spans) => {
                assert!(!self.in_flight.iter().any(|op| matches!(op, Op::Send(_) | Op::Drain(_))));
                let mut at = self.got;
                for span in &spans {
                    assert_eq!(
                        self.bufs[&span.buf.index()] + u64::from(span.off),
                        at,
                        "bytes arrive in order"
                    );
                    at += u64::from(span.len);
                }
                self.in_flight.push(Op::Send(at - self.got));
            }
            Action::Release(buf) => {
                assert!(self.bufs.remove(&buf.index()).is_some(), "a buffer is released once");
            }
            Action::TakePipe(_) => {
                let key = (self.pipes.len() < self.budget).then(|| {
                    self.next_pipe += 1;
                    self.pipes.insert(self.next_pipe, 0..0);
                    PipeKey(self.next_pipe)
                });
                self.pump.lent(self.now, key, out);
            }
            Action::ReturnPipe(key, empty) => {
                let held = self.pipes.remove(&key.0).expect("a pipe is returned once");
                assert!(held.is_empty() && empty, "an empty pipe");
                assert!(!self.in_flight.iter().any(|op| [Op::Fill(key), Op::Drain(key)].contains(op)));
            }
            Action::Through(_, key) => {
                self.start_fill(key);
                self.start_drain(key, true);
            }
            Action::Fill(_, key) => self.start_fill(key),
            Action::Drain { pipe, .. } => self.start_drain(pipe, false),
            Action::CallFill(_, key) => {
                self.start_fill(key);
                self.in_flight.retain(|op| *op != Op::Fill(key));
                let result = self.fill(key);
                self.pump.filled(self.now, key, result, out);
            }
            Action::CallDrain(_, key) => {
                self.start_drain(key, false);
                self.in_flight.retain(|op| *op != Op::Drain(key));
                let result = self.drain(key);
                self.pump.drained(self.now, key, result, out);
            }
            Action::RaiseMark(_) => {
                assert!(!self.receiving && !self.waits_for_source(), "a mark is for the wait that follows");
                self.mark = true;
            }
            Action::LowerMark(_) => self.mark = false,
            Action::PollIn(_) => self.in_flight.push(Op::PollIn),
            Action::PollOut(_) => self.in_flight.push(Op::PollOut),
            Action::Move(_) => {
                assert!(
                    !self.receiving && self.bufs.is_empty() && self.given == self.got,
                    "nothing is on hand"
                );
                let left = self.said - self.given;
                let most = if self.rough { self.dice(self.part) } else { self.part };
                let what = match left.min(most) {
                    0 if left == 0 && self.said < self.total => Moved::Empty,
                    0 if left == 0 => Moved::Eof,
                    0 => Moved::Full,
                    n => {
                        (self.given, self.got) = (self.given + n, self.got + n);
                        self.by_hand += 1;
                        self.say_more();
                        Moved::Bytes(n as u32)
                    }
                };
                self.pump.moved_by_hand(self.now, what, out);
            }
            Action::Rest(_) => self.in_flight.push(Op::Rest),
            Action::Shutdown(_) => {
                assert_eq!(self.got, self.total, "the end comes after the last byte");
                self.shut = true;
            }
            // What a chain waits for is always there in this world.
            Action::Hurry(_) => {}
            Action::Close { .. } => unreachable!("a pair's"),
        }
    }

    /// A piece of `len` bytes is received, or the end.
    fn receive(&mut self, len: u64) {
        let len = len.min(self.said - self.given);
        if len == 0 && self.said < self.total {
            return;
        }
        if len == 0 {
            self.receiving = false;
            self.stopping = false;
            return self.tell(|pump, now, out| pump.receive_ended(now, Ended::Eof, out));
        }
        if self.want > 0 && self.dice(self.want) == 0 {
            (self.receiving, self.stopping, self.wanting) = (false, false, true);
            return self.tell(|pump, now, out| pump.receive_ended(now, Ended::Starved, out));
        }
        let id = self.next_buf;
        self.next_buf += 1;
        self.bufs.insert(id, self.given);
        self.given += len;
        let span = Span::new(BufId::new(Class::Host, id), 0, len as u32);
        let free = if self.rough { self.dice(512) as usize } else { 512 };
        self.tell(|pump, now, out| pump.received(now, span, free, out));
        self.most_held = self.most_held.max(self.given - self.got);
    }

    fn stopped(&mut self) {
        (self.receiving, self.stopping) = (false, false);
        self.tell(|pump, now, out| pump.receive_ended(now, Ended::Stopped, out));
    }

    fn complete(&mut self, at: usize) {
        if matches!(self.in_flight[at], Op::PollIn | Op::Fill(_)) && !self.is_readable() {
            return;
        }
        let op = self.in_flight.remove(at);
        match op {
            Op::Send(len) => {
                let n = if self.rough { self.dice(len + 1) } else { len };
                self.got += n;
                self.tell(|pump, now, out| pump.sent(now, n as u32, out));
            }
            Op::Fill(key) => {
                let result = self.fill(key);
                self.tell(|pump, now, out| pump.filled(now, key, result, out));
            }
            Op::Drain(key) => {
                let result = self.drain(key);
                self.tell(|pump, now, out| pump.drained(now, key, result, out));
            }
            Op::PollIn => self.tell(Pump::readable),
            Op::PollOut => self.tell(Pump::writable),
            Op::Rest => self.tell(Pump::rested),
        }
        self.say_more();
    }

    /// Anything that may happen next.
    fn step(&mut self) {
        let wait = Duration::from_micros(self.dice(3000));
        self.now += wait;
        let choices = self.in_flight.len() as u64 + u64::from(self.receiving) + 1;
        let at = self.dice(choices) as usize;
        if at < self.in_flight.len() {
            // A chain's drain waits for its fill.
            let op = self.in_flight[at];
            let first = match op {
                Op::Drain(key) => self.in_flight.iter().position(|op| *op == Op::Fill(key)),
                _ => None,
            };
            self.complete(first.unwrap_or(at));
        } else if self.receiving && (!self.stopping || self.dice(2) == 0) {
            let len = 1 + self.dice(64 << 10);
            self.receive(len);
        } else if self.receiving {
            self.stopped();
        } else if self.pump.is_gathering() && self.dice(4) == 0 {
            self.tell(|pump, _, out| pump.overdue(out));
        } else if self.wanting && self.dice(8) == 0 {
            self.wanting = false;
            self.tell(Pump::plenty);
            self.say_more();
        } else if self.dice(8) == 0 {
            self.tell(Pump::tick);
        }
    }

    /// Pieces of `len` bytes until the receive is stopped, every send taken whole at once, a millisecond between.
    fn run(&mut self, steps: usize, len: u64) {
        for _ in 0..steps {
            self.now += Duration::from_millis(1);
            if !self.in_flight.is_empty() {
                self.complete(0);
            } else if self.stopping {
                self.stopped();
            } else if self.receiving {
                self.receive(len);
            }
        }
    }
}

const MUCH: u64 = 1 << 40;

#[test]
fn messages_are_copied_and_bulk_is_promoted_until_it_ends() {
    let mut world = World::new(Choice::Auto, MUCH, 7);
    world.run(400, 1000);
    assert_eq!((world.pump.gear(), world.pump.promotions()), (Gear::Copy, 0));
    world.run(200, 64 << 10);
    assert!(world.pump.promotions() > 0);
    // Whatever gear it is in: messages end bulk, and the pipes go.
    world.part = 100;
    world.run(400, 100);
    assert_eq!(world.pump.gear(), Gear::Copy);
    assert!(world.pipes.is_empty() && !world.pump.bulk.is_proven());
}

#[test]
fn bulk_goes_in_the_gear_that_moves_most() {
    // What a splice moves in a step, while a copied piece has 64 KiB.
    for (part, copies) in [(20 << 10, true), (256 << 10, false)] {
        let mut world = World::new(Choice::Auto, MUCH, 7);
        world.part = part;
        world.run(1000, 64 << 10);
        let copied = (0..1000).filter(|_| {
            world.run(1, 64 << 10);
            world.pump.gear() == Gear::Copy
        });
        let copied = copied.count();
        assert!(world.pump.best().is_some());
        assert!(if copies { copied > 700 } else { copied < 300 }, "{copied} of 1000 with {part}");
    }
}

#[test]
fn receiving_stops_at_the_high_mark_and_goes_on_at_the_low_one() {
    let mut world = World::new(Choice::Only(Gear::Copy), MUCH, 7);
    while !world.stopping {
        world.receive(32 << 10);
    }
    assert_eq!(world.given, HIGH);
    world.stopped();
    assert!(!world.receiving);
    while !world.receiving {
        let before = world.given - world.got;
        assert!(before > LOW);
        let at = world.in_flight.iter().position(|op| matches!(op, Op::Send(_))).unwrap();
        // A quarter of what it wanted to send is taken.
        world.in_flight[at] = Op::Send(16 << 10);
        world.complete(at);
    }
    assert_eq!(world.given - world.got, LOW);
}

#[test]
fn a_stalled_direction_holds_its_share_and_the_share_shrinks() {
    for (free, most) in [(usize::MAX, PIECES), (256, PIECES), (64, 4), (15, 1), (0, 1)] {
        let mut world = World::new(Choice::Auto, MUCH, 7);
        let mut held = 0;
        while !world.stopping {
            let span = Span::new(BufId::new(Class::Relay, held), 0, 5000);
            held += 1;
            world.bufs.insert(span.buf.index(), world.given);
            world.given += 5000;
            world.tell(|pump, now, out| pump.received(now, span, free, out));
        }
        assert_eq!(held as usize, most, "with {free} free");
    }
}

#[test]
fn without_a_buffer_bytes_are_moved_by_hand_until_there_are_some() {
    let mut world = World::new(Choice::Auto, MUCH, 7);
    (world.want, world.part) = (1, 1000);
    world.run(200, 1000);
    assert!(world.by_hand > 50 && world.wanting && world.bufs.is_empty(), "{}", world.by_hand);
    world.want = 0;
    world.tell(Pump::plenty);
    let before = world.by_hand;
    world.run(200, 1000);
    assert!(world.by_hand <= before + 1 && world.receiving);
}

#[test]
fn bulk_without_buffers_goes_through_a_pipe() {
    let mut world = World::new(Choice::Auto, MUCH, 7);
    world.want = 1;
    world.run(200, 1000);
    assert!(world.by_hand > 0 && world.pump.promotions() > 0, "{:?}", world.pump);
}

#[test]
fn without_a_pipe_it_goes_on_copying_and_asks_again_after_a_while() {
    let mut world = World::new(Choice::Auto, MUCH, 7);
    world.budget = 0;
    world.run(200, 64 << 10);
    assert_eq!(world.pump.gear(), Gear::Copy);
    assert!(world.pump.no_pipe_until > world.now);
    world.budget = 2;
    world.now = world.pump.no_pipe_until;
    world.run(200, 64 << 10);
    assert!(!world.pipes.is_empty() || world.pump.promotions() > 1);
}

#[test]
fn a_chain_that_only_waits_gives_its_pipe_back() {
    let mut world = World::new(Choice::Auto, MUCH, 7);
    world.pump.first = Gear::SpliceSqe;
    while world.pump.gear() != Gear::SpliceSqe {
        world.run(1, 64 << 10);
    }
    let mut out = Actions::new();
    world.pump.tick(world.now, &mut out);
    assert!(out.is_empty(), "the first tick only looks");
    world.pump.tick(world.now, &mut out);
    assert_eq!(out.pop_front(), Some(Action::Hurry(Way::ToServer)));
    assert_eq!(world.pump.want, Gear::Copy);
}

#[test]
fn a_sender_that_pauses_below_the_mark_is_served_after_the_deadline() {
    for gear in [Gear::SpliceCall, Gear::SpliceSqe] {
        let mut world = World::new(Choice::Only(gear), MUCH, 7);
        world.run(50, 0);
        assert!(world.mark, "bulk is gathered");
        world.slow = true;
        world.said = world.given + u64::from(MARK) - 1;
        world.run(50, 0);
        assert!(world.got < world.said && world.pump.is_gathering(), "it waits for the mark");
        let last = world.said;
        world.tell(|pump, _, out| pump.overdue(out));
        assert!(!world.mark, "lowered");
        world.run(5, 0);
        assert!(world.got >= last && !world.mark);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn every_byte_arrives_once_and_in_order_whatever_happens(
        seed: u64,
        choice in prop_oneof![
            Just(Choice::Auto),
            Just(Choice::Only(Gear::Copy)),
            Just(Choice::Only(Gear::SpliceSqe)),
            Just(Choice::Only(Gear::SpliceCall)),
        ],
        total in 0u64..8 << 20,
        budget in 0usize..3,
        slow: bool,
        want in 0u64..20,
    ) {
        let mut world = World::new(choice, total, seed);
        (world.budget, world.rough, world.want) = (budget, true, want);
        if slow {
            world.slow_down();
        }
        for _ in 0..200_000 {
            if world.shut {
                break;
            }
            world.step();
        }
        prop_assert!(world.shut, "stuck in {:?} with {:?}", world.pump, world.in_flight);
        prop_assert_eq!(world.got, total);
        prop_assert!(world.bufs.is_empty() && world.pipes.is_empty());
        // The high mark, the piece that reached it, and what came before the receive had stopped.
        prop_assert!(choice != Choice::Only(Gear::Copy) || world.most_held <= HIGH + ((12 * 64) << 10));
    }
}
