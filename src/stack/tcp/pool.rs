//! What all connections share: limits, how many buffers they hold together, and the budget of challenge
//! acknowledgements.

use super::spans::Footprint;
use super::tuning::{CHALLENGES_PER_SECOND, TcpLimits};
use crate::buf::{BufId, Class};
use crate::flow::{Bucket, Time};
use crate::stack::{Action, Cx};
use std::time::Duration;

/// Buffers that hold data from the guest, by class. Host buffers do not occur.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Tap slots.
    pub tap: u32,
    /// Small slots.
    pub small: u32,
}

impl Held {
    fn of(&mut self, class: Class) -> &mut u32 {
        if class == Class::Small { &mut self.small } else { &mut self.tap }
    }

    /// Counts a buffer in.
    pub fn add(&mut self, class: Class) {
        *self.of(class) += 1;
    }

    /// Counts a buffer out.
    pub fn remove(&mut self, class: Class) {
        let n = self.of(class);
        *n = n.saturating_sub(1);
    }
}

/// What a buffer is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// The host has nothing else of this connection to take.
    Next,
    /// Payload in order, behind other.
    Queued,
    /// Payload beyond a gap.
    Beyond,
}

/// The shared part of the engine.
pub struct Pool {
    /// The bounds in force.
    pub limits: TcpLimits,
    /// Buffers held by all connections' receive sides.
    pub held: Held,
    /// The buffers for the guest that all connections hold.
    pub sending: Footprint,
    /// Connections whose host side is over.
    pub orphans: usize,
    challenges: Bucket,
}

impl Pool {
    /// Nothing held yet.
    pub fn new(limits: TcpLimits) -> Self {
        Self {
            limits,
            held: Held::default(),
            sending: Footprint::default(),
            orphans: 0,
            challenges: Bucket::new(CHALLENGES_PER_SECOND, Duration::from_secs(1)),
        }
    }

    /// Counts a buffer as held by `own`'s connection.
    pub fn keep(&mut self, own: &mut Held, buf: BufId) {
        own.add(buf.class());
        self.held.add(buf.class());
    }

    /// Gives a held buffer back.
    pub fn release(&mut self, own: &mut Held, cx: &mut Cx<'_>, buf: BufId) {
        own.remove(buf.class());
        self.held.remove(buf.class());
        cx.act(Action::Release(buf));
    }

    /// Tap slots this connection may hold now.
    pub fn tap_share(&self, own: &Held) -> u32 {
        // What is free below the mark does not count the connection's own slots against it.
        let others = self.held.tap.saturating_sub(own.tap);
        let free = self.limits.tap_slots.saturating_sub(others);
        // Half of it: the next flow that comes along finds as much.
        (free * 3 / 4).min(self.limits.flow_tap_slots)
    }

    /// Memory of buffers for the guest that a connection may hold now, which holds `own` of it.
    pub fn send_share(&self, own: usize) -> usize {
        let others = self.sending.memory.saturating_sub(own);
        self.limits.send_memory.saturating_sub(others) / 2
    }

    /// Small slots that connections hold, either way.
    const fn small(&self) -> u32 {
        self.held.small + self.sending.small
    }

    /// True when connections hold as many small slots as they may: the rest is for frames, and for those who receive in pieces.
    pub const fn small_is_short(&self) -> bool {
        self.small() >= self.limits.small_slots
    }

    /// Small slots this connection may hold now.
    pub fn small_share(&self, own: &Held) -> u32 {
        let others = self.small().saturating_sub(own.small);
        let free = self.limits.small_slots.saturating_sub(others);
        (free / 4).min(self.limits.flow_small_slots)
    }

    /// True when another buffer of this class may be held by a connection that holds `own`, for payload of this use.
    pub fn admits(&self, own: &Held, class: Class, usage: Usage) -> bool {
        let l = &self.limits;
        let small = class == Class::Small;
        let (all, mine) = if small { (self.small(), own.small) } else { (self.held.tap, own.tap) };
        let (soft, hard, flow) = if small {
            (l.small_slots * 3 / 4, l.small_slots, l.flow_small_slots)
        } else {
            (l.tap_slots, l.tap_slots_hard, l.flow_tap_slots)
        };
        // What fills the gap must find room where what lies behind it did, or the connection would stand still for
        // good: so the latter stops earlier.
        match usage {
            Usage::Beyond => all < soft && mine < flow * 3 / 4,
            Usage::Queued => all < soft && mine < flow,
            Usage::Next => all < hard && mine < flow.max(1),
        }
    }

    /// True when a challenge acknowledgement may go out.
    pub fn challenge(&mut self, now: Time) -> bool {
        self.challenges.pass(now)
    }
}
