//! What every engine of the stack is handed with each call: the time, the configuration, and where to put its actions.

use super::action::Action;
use super::gate::{Gate, Shut};
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

    /// Whether the guest may open another flow: there is `room`, and it has opened neither too many lately nor too many that
    /// nobody has answered. Counts why not. Who opens one says when it is answered ([`Gate::answered`]).
    pub fn may_open(&mut self, room: bool) -> bool {
        if !room {
            self.refuse_flow(Limit::Flows);
            return false;
        }
        let passed = self.gate.pass(self.now);
        self.count_shut(passed)
    }

    /// Whether a flow of datagrams that nobody has answered may try one more destination. Counts if not.
    pub fn may_try(&mut self) -> bool {
        let passed = self.gate.attempt(self.now);
        self.count_shut(passed)
    }

    fn count_shut(&mut self, passed: Result<(), Shut>) -> bool {
        let Err(shut) = passed else { return true };
        self.counters.limit(match shut {
            Shut::TooFast => Limit::NewFlows,
            Shut::Unanswered => Limit::Unanswered,
        });
        self.drop(DropReason::NoRoom);
        false
    }

    /// Counts a drop.
    pub fn drop(&mut self, why: DropReason) {
        self.counters.drop(why);
    }
}
