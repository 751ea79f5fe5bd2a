//! What every engine of the stack is handed with each call: the time, the configuration, and where to put its actions.

use super::action::Action;
use super::link::Link;
use crate::config::Network;
use crate::flow::{DropReason, PlaneCounters, Time};
use crate::nat::Policy;
use std::collections::VecDeque;

/// The context of one call. Engines keep nothing of it.
pub struct Cx<'a> {
    /// Now, as the caller says.
    pub now: Time,
    /// The guest's network.
    pub net: &'a Network,
    /// Translation and policy.
    pub nat: &'a Policy,
    /// Neighbours and Ethernet headers.
    pub link: &'a Link,
    /// Where actions are queued.
    pub out: &'a mut VecDeque<Action>,
    /// Counters of the plane.
    pub counters: &'a mut PlaneCounters,
}

impl Cx<'_> {
    /// Queues an action.
    pub fn act(&mut self, action: Action) {
        self.out.push_back(action);
    }

    /// Counts a drop.
    pub fn drop(&mut self, why: DropReason) {
        self.counters.drop(why);
    }
}
