//! What every engine of the stack is handed with each call: the time, the configuration, and where to put its actions.

use super::action::Action;
use super::gate::Gate;
use super::link::Link;
use crate::config::Network;
use crate::flow::{DropReason, Limit, PlaneCounters, Time};
use crate::nat::Policy;
use crate::wire::Mac;
use std::collections::VecDeque;
use std::net::IpAddr;

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
    /// How fast flows may be opened.
    pub gate: &'a mut Gate,
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

    /// The MAC of a guest address. When nobody has been heard there, asks (ARP or NDP, at a bounded rate), counts the
    /// packet that cannot be sent, and says `None`: whoever lost it sends it again.
    pub fn neighbour(&mut self, addr: IpAddr) -> Option<Mac> {
        let known = self.lookup(addr);
        if known.is_none() {
            self.drop(DropReason::NoNeighbour);
            self.ask_neighbour(addr);
        }
        known
    }

    /// Whether a packet to a guest address could be sent now.
    pub fn knows_neighbour(&self, addr: IpAddr) -> bool {
        self.lookup(addr).is_some()
    }

    fn lookup(&self, addr: IpAddr) -> Option<Mac> {
        self.link.lookup(addr).or_else(|| self.link.lookup(self.hop(addr)))
    }

    /// Asks for the MAC of a guest address, unless it is known or has just been asked for.
    pub fn ask_neighbour(&mut self, addr: IpAddr) {
        let addr = if self.link.lookup(addr).is_some() { addr } else { self.hop(addr) };
        if self.link.lookup(addr).is_none() && self.link.may_ask(self.now, addr) {
            let question = match addr {
                IpAddr::V4(a) => super::arp::request(self.net, a),
                IpAddr::V6(a) => super::ndp::solicitation(a),
            };
            self.act(Action::EmitBytes(question));
        }
    }

    /// Who is asked about an address: itself if it is on the link; about one behind the guest, a container's, the guest.
    fn hop(&self, addr: IpAddr) -> IpAddr {
        let on_link = self.net.contains(addr) || matches!(addr, IpAddr::V6(v6) if v6.is_unicast_link_local());
        let guest = match addr {
            IpAddr::V4(_) => Some(self.net.guest_v4().into()),
            IpAddr::V6(_) => self.net.guest_v6().map(IpAddr::V6),
        };
        guest.filter(|_| !on_link).unwrap_or(addr)
    }

    /// Counts a new flow that is refused because no more may be open, for one reason or another.
    pub fn refuse_flow(&mut self, which: Limit) {
        self.counters.flows_refused += 1;
        self.counters.limit(which);
        self.drop(DropReason::NoRoom);
    }

    /// Whether the guest may open another flow: there is `room`, and it has not opened too many lately. Counts why not.
    pub fn may_open(&mut self, room: bool) -> bool {
        if !room {
            self.refuse_flow(Limit::Flows);
        } else if !self.gate.pass(self.now) {
            self.counters.limit(Limit::NewFlows);
            self.drop(DropReason::NoRoom);
        } else {
            return true;
        }
        false
    }

    /// Counts a drop.
    pub fn drop(&mut self, why: DropReason) {
        self.counters.drop(why);
    }
}
