//! Clients' datagrams that came before the guest has said where it is.
//!
//! A published port may be used before the guest has sent a single frame, and the question for its MAC may have been lost
//! while its interface was on its way up. A datagram that is dropped then is one that no network has lost. So it is kept, as a
//! kernel keeps what waits for a neighbour (arp(7), `unres_qlen`), until the answer comes; meanwhile the question is asked again
//! now and then.
//!
//! Limits: [`MOST`] of them, beyond which the oldest goes, and [`PATIENCE`].

use super::Cx;
use super::action::Action;
use super::inbound::{Arrival, Door};
use crate::flow::{DropReason, Time};
use std::collections::VecDeque;
use std::time::Duration;

/// Kept at once: a buffer each.
pub const MOST: usize = 16;
/// For how long.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// Between two questions.
const AGAIN: Duration = Duration::from_millis(150);

/// What waits, oldest first.
#[derive(Debug, Default)]
pub struct Waiting {
    kept: VecDeque<(Time, Arrival)>,
    ask_at: Time,
}

impl Waiting {
    /// Keeps a datagram, and asks. Its buffer belongs to us.
    pub fn keep(&mut self, cx: &mut Cx<'_>, arrival: Arrival) {
        if self.kept.len() >= MOST
            && let Some((_, oldest)) = self.kept.pop_front()
        {
            lose(cx, &oldest);
        }
        if self.kept.is_empty() {
            self.ask_at = cx.now + AGAIN;
        }
        cx.ask_neighbour(arrival.guest.ip());
        self.kept.push_back((cx.now, arrival));
    }

    /// One whose guest has been heard of meanwhile.
    pub fn found(&mut self, cx: &Cx<'_>) -> Option<Arrival> {
        let at = self.kept.iter().position(|(_, a)| cx.knows_neighbour(a.guest.ip()))?;
        self.kept.remove(at).map(|(_, arrival)| arrival)
    }

    /// The door is closed: what waits at it is lost.
    pub fn close_door(&mut self, cx: &mut Cx<'_>, door: Door) {
        self.kept.retain(|(_, a)| {
            if a.door == door {
                lose(cx, a);
            }
            a.door != door
        });
    }

    /// Time has passed: asks again, and gives up.
    pub fn timeout(&mut self, cx: &mut Cx<'_>) {
        while let Some((since, arrival)) = self.kept.front()
            && *since + PATIENCE <= cx.now
        {
            lose(cx, arrival);
            self.kept.pop_front();
        }
        if !self.kept.is_empty() && self.ask_at <= cx.now {
            self.ask_at = cx.now + AGAIN;
            for (_, arrival) in &self.kept {
                // Once for each guest; the link remembers.
                cx.ask_neighbour(arrival.guest.ip());
            }
        }
    }

    /// When [`Waiting::timeout`] is due.
    pub fn next_deadline(&self) -> Option<Time> {
        self.kept.front().map(|(since, _)| (*since + PATIENCE).min(self.ask_at))
    }
}

fn lose(cx: &mut Cx<'_>, arrival: &Arrival) {
    cx.drop(DropReason::NoNeighbour);
    cx.act(Action::Release(arrival.data.buf));
}
