//! Flows as control asks for them: pages in the order of their places, so that nothing is held between two pages.
//!
//! A flow keeps its place (its kind and its slot) for as long as it lives, and [`Stack::flows`] lists them in that
//! order. A page costs a walk over all flows before it; it is for people, not for the hot path.

use super::relay_ports::RelayPorts;
use crate::config::PortId;
use crate::flow::{FlowId, FlowInfo, Kind, Time};
use crate::msg::query::{PAGE, Path, Protocol};
use crate::msg::{FlowPage, FlowRecord, PortPage};
use crate::stack::Stack;

/// The page that begins at place `from`; `port` knows which flows of the stack came by a published port.
pub fn flows(
    stack: &Stack,
    relays: &RelayPorts,
    now: Time,
    from: u64,
    port: impl Fn(FlowId) -> Option<PortId>,
) -> FlowPage {
    let stack =
        stack.flows().filter(|f| place(f.id) >= from).map(|f| (place(f.id), record(&f, now, port(f.id))));
    page(stack.chain(relays.flows(now, from)))
}

/// Both tables' ports as one page.
pub fn merge(a: PortPage, b: PortPage) -> PortPage {
    let mut more = a.next.is_some() || b.next.is_some();
    let mut ports = [a.ports, b.ports].concat();
    ports.sort_unstable_by_key(|p| p.port);
    more |= ports.len() > PAGE;
    ports.truncate(PAGE);
    let next = ports.last().map(|p| p.port).filter(|_| more);
    PortPage { ports, next }
}

/// Records with their places, in the order of these.
fn page(mut rest: impl Iterator<Item = (u64, FlowRecord)>) -> FlowPage {
    let flows = rest.by_ref().take(PAGE).map(|(_, record)| record).collect();
    FlowPage { flows, next: rest.next().map(|(place, _)| place) }
}

/// Kind, then slot: no more than 34 bits, which JSON's numbers keep.
fn place(id: FlowId) -> u64 {
    ((id.kind() as u64) << 32) | id.index() as u64
}

fn record(f: &FlowInfo, now: Time, port: Option<PortId>) -> FlowRecord {
    let c = &f.counters;
    FlowRecord {
        id: format!("{:?}", f.id).to_lowercase(),
        protocol: match f.id.kind() {
            Kind::Tcp | Kind::Relay => Protocol::Tcp,
            Kind::Udp | Kind::Inbound => Protocol::Udp,
            Kind::Ping => Protocol::Icmp,
            Kind::Dns => Protocol::Dns,
        },
        path: if port.is_some() { Path::Injected } else { Path::Tap },
        port,
        guest: f.guest,
        remote: f.remote,
        host: f.host,
        state: f.state.to_owned(),
        age_ms: millis(now.since(f.opened)),
        bytes_up: c.bytes_up,
        bytes_down: c.bytes_down,
        packets_up: c.packets_up,
        packets_down: c.packets_down,
        retransmits: c.retransmits,
        rtt_us: f.rtt.map(|t| u64::try_from(t.as_micros()).unwrap_or(u64::MAX)),
        buffered_up: f.queued_up as u64,
        buffered_down: f.queued_down as u64,
    }
}

pub(super) fn millis(t: std::time::Duration) -> u64 {
    u64::try_from(t.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{FlowCounters, Table};

    #[test]
    fn every_flow_is_on_one_page_even_if_others_end_meanwhile() {
        let mut tables = [Table::new(Kind::Tcp), Table::new(Kind::Udp)];
        let mut ids = Vec::new();
        for table in &mut tables {
            ids.extend((0..PAGE).map(|_| table.insert_with(|id| id)));
        }
        let info = |id| FlowInfo {
            id,
            guest: "10.0.2.100:1".parse().unwrap(),
            remote: None,
            host: None,
            state: "open",
            opened: Time::ZERO,
            counters: FlowCounters::default(),
            rtt: None,
            queued_up: 0,
            queued_down: 0,
            memory: 0,
        };
        let ask = |tables: &[Table<FlowId>; 2], from| {
            let ids = tables.iter().flat_map(|t| t.iter()).map(|(id, _)| id).filter(|id| place(*id) >= from);
            page(ids.map(|id| (place(id), record(&info(id), Time::ZERO, None))))
        };
        let first = ask(&tables, 0);
        assert_eq!(first.flows.len(), PAGE);
        // The flow at which the next page begins ends; so does one that was seen.
        tables[1].remove(ids[PAGE]);
        tables[0].remove(ids[3]);
        let second = ask(&tables, first.next.unwrap());
        assert_eq!((second.flows.len(), second.next), (PAGE - 1, None));
        let name = |id: FlowId| format!("{id:?}").to_lowercase();
        let seen: Vec<_> = first.flows.iter().chain(&second.flows).map(|f| f.id.clone()).collect();
        let expected: Vec<_> = ids.iter().filter(|id| **id != ids[PAGE]).map(|id| name(*id)).collect();
        assert_eq!(seen, expected);
    }
}
