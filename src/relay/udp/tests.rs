//! The UDP relay against a model of its driver: mappings, time, bounds, order, and that every buffer is released once.

use super::*;
use crate::buf::Class;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn at(ms: u64) -> Time {
    Time::from_millis(ms)
}

fn path(client: u16) -> Path {
    Path {
        listener: 0,
        client: SocketAddr::from(([192, 0, 2, 1], client)),
        local: Some(([198, 51, 100, 77].into(), 0)),
    }
}

fn span(index: u32, len: u32) -> Span {
    Span::new(BufId::new(Class::Host, index), 256, len)
}

fn actions(relay: &mut Relay) -> Vec<Action> {
    std::iter::from_fn(|| relay.poll_action()).collect()
}

fn opens(actions: &[Action]) -> Vec<FlowId> {
    actions.iter().filter_map(|a| if let Action::Open(id, _) = a { Some(*id) } else { None }).collect()
}

fn sends(actions: &[Action]) -> Vec<(Way, usize, Option<u16>)> {
    let send = |a: &Action| match a {
        Action::Send(s) => Some((s.way, s.spans.len(), s.segment)),
        _ => None,
    };
    actions.iter().filter_map(send).collect()
}

fn closes(actions: &[Action]) -> usize {
    actions.iter().filter(|a| matches!(a, Action::Close(_))).count()
}

/// A mapping whose backend is there and that has nothing to say.
fn ready(relay: &mut Relay, now: Time, client: u16) -> FlowId {
    relay.from_client(now, path(client), span(0, 0), None);
    relay.end_batch();
    let id = opens(&actions(relay))[0];
    relay.opened(id);
    assert_eq!(sends(&actions(relay)), [(Way::ToBackend, 1, None)], "what was held has left");
    id
}

#[test]
fn what_comes_before_the_backend_is_held_within_bounds() {
    let mut relay = Relay::new(Limits { held: 3, ..Limits::default() });
    for i in 0..5 {
        relay.from_client(at(0), path(1), span(i, 0), None);
    }
    relay.end_batch();
    let done = actions(&mut relay);
    assert_eq!((opens(&done).len(), sends(&done).len()), (1, 0));
    assert_eq!(done.iter().filter(|a| matches!(a, Action::Release(_))).count(), 2);
    assert_eq!(relay.counters(0).dropped_held, 2);
    relay.opened(opens(&done)[0]);
    assert_eq!(sends(&actions(&mut relay)).len(), 3);
}

#[test]
fn the_bound_on_what_all_hold_counts_all() {
    let mut relay = Relay::new(Limits { held: 4, held_total: 6, ..Limits::default() });
    for client in 0..3 {
        for i in 0..3 {
            relay.from_client(at(0), path(client), span(u32::from(client) * 3 + i, 0), None);
        }
    }
    relay.end_batch();
    assert_eq!(relay.counters(0).dropped_held, 3);
    for id in opens(&actions(&mut relay)) {
        relay.open_failed(id);
    }
    assert_eq!(relay.held_bufs, 0);
    assert_eq!((relay.counters(0).dropped_held, relay.counters(0).open_failed), (9, 3));
}

#[test]
fn the_first_segmented_send_is_waited_for_and_a_refusal_keeps_order() {
    let mut relay = Relay::new(Limits::default());
    let id = ready(&mut relay, at(0), 1);
    let burst = |relay: &mut Relay, n: u32| {
        for i in 0..n {
            relay.from_client(at(1), path(1), span(i, 100), None);
        }
        relay.end_batch();
        sends(&actions(relay))
    };
    assert_eq!(burst(&mut relay, 3), [(Way::ToBackend, 3, Some(100))]);
    assert_eq!(burst(&mut relay, 2), [], "the first is on its way");
    relay.cannot_segment(id, Way::ToBackend);
    assert_eq!(sends(&actions(&mut relay)), [(Way::ToBackend, 1, None); 2]);
    assert_eq!(burst(&mut relay, 2), [(Way::ToBackend, 1, None); 2]);
    let other = ready(&mut relay, at(2), 2);
    for _ in 0..2 {
        for i in 0..2 {
            relay.from_client(at(2), path(2), span(i, 100), None);
        }
        relay.end_batch();
        relay.passed(other, Way::ToBackend);
        assert_eq!(sends(&actions(&mut relay)), [(Way::ToBackend, 2, Some(100))]);
    }
}

#[test]
fn a_flow_that_only_sends_stays_and_a_silent_one_ends() {
    let mut relay = Relay::new(Limits::default());
    ready(&mut relay, at(0), 1);
    for ms in (0..200_000).step_by(20_000) {
        relay.handle_timeout(at(ms));
        relay.from_client(at(ms), path(1), span(0, 1), None);
    }
    relay.end_batch();
    assert_eq!((closes(&actions(&mut relay)), relay.counters(0).opened), (0, 1));
    relay.handle_timeout(at(180_000 + 29_999));
    assert_eq!(relay.mappings().count(), 1);
    relay.handle_timeout(at(180_000 + 30_000));
    assert_eq!((relay.mappings().count(), relay.counters(0).expired), (0, 1));
    assert_eq!(relay.poll_timeout(), None);
}

#[test]
fn an_answer_gives_the_longer_life() {
    let mut relay = Relay::new(Limits::default());
    let id = ready(&mut relay, at(0), 1);
    relay.from_backend(at(20_000), id, span(1, 1), None);
    relay.end_batch();
    relay.handle_timeout(at(109_999));
    assert_eq!(relay.mappings().count(), 1);
    relay.handle_timeout(at(110_000));
    assert_eq!(relay.mappings().count(), 0);
}

#[test]
fn the_one_idle_for_longest_makes_room() {
    let mut relay = Relay::new(Limits { mappings: 3, ..Limits::default() });
    for client in 1..=3 {
        ready(&mut relay, at(u64::from(client)), client);
    }
    relay.from_client(at(4), path(1), span(0, 1), None);
    relay.end_batch();
    ready(&mut relay, at(5), 4);
    let mut left: Vec<u16> = relay.mappings().map(|m| m.path.client.port()).collect();
    left.sort_unstable();
    assert_eq!((left, relay.counters(0).evicted), (vec![1, 3, 4], 1));
}

#[test]
fn one_client_at_two_of_our_addresses_has_two_mappings() {
    let mut relay = Relay::new(Limits::default());
    ready(&mut relay, at(0), 1);
    let other = Path { local: Some(([198, 51, 100, 1].into(), 0)), ..path(1) };
    relay.from_client(at(0), other, span(0, 1), None);
    assert_eq!(relay.mappings().count(), 2);
    relay.client_gone(0, path(1).client);
    assert_eq!(relay.mappings().map(|m| m.path).collect::<Vec<_>>(), [path(1)], "the newest is meant");
    relay.client_gone(1, path(1).client);
    assert_eq!(relay.mappings().count(), 1, "another listener's client");
    assert_eq!(relay.remove_listener(0).opened, 2);
    assert_eq!((relay.mappings().count(), relay.counters(0)), (0, Counters::default()));
}

/// What a driver and the world might do, in any order.
#[derive(Clone, Debug)]
enum Step {
    Client { client: u16, len: u32, count: u32 },
    Backend { pick: usize, len: u32, count: u32 },
    EndBatch,
    Opened(usize),
    OpenFailed(usize),
    Answer { pick: usize, refused: bool },
    Gone(u16),
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let len = prop_oneof![Just(0u32), Just(100), Just(1200), 1u32..1500];
    let count = prop_oneof![4 => Just(1u32), 1 => 2u32..70];
    let step = prop_oneof![
        6 => (0u16..6, len.clone(), count.clone())
            .prop_map(|(client, len, count)| Step::Client { client, len, count }),
        6 => (any::<usize>(), len, count).prop_map(|(pick, len, count)| Step::Backend { pick, len, count }),
        4 => Just(Step::EndBatch),
        3 => any::<usize>().prop_map(Step::Opened),
        1 => any::<usize>().prop_map(Step::OpenFailed),
        4 => (any::<usize>(), any::<bool>()).prop_map(|(pick, refused)| Step::Answer { pick, refused }),
        1 => (0u16..6).prop_map(Step::Gone),
        2 => (0u64..40_000).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 0..120)
}

/// Follows the actions: references of buffers, order of datagrams, one open and close each.
#[derive(Default)]
struct Driver {
    refs: BTreeMap<u32, i64>,
    waiting: Vec<FlowId>,
    live: Vec<FlowId>,
    probes: Vec<(FlowId, Way)>,
    /// The highest datagram that left for each mapping and direction: (buffer, offset).
    left: BTreeMap<(FlowId, bool), (u32, u32)>,
}

impl Driver {
    fn perform(&mut self, relay: &mut Relay) {
        while let Some(action) = relay.poll_action() {
            match action {
                Action::Open(id, _) => self.waiting.push(id),
                Action::Close(id) => {
                    let known = self.waiting.len() + self.live.len();
                    self.waiting.retain(|w| *w != id);
                    self.live.retain(|w| *w != id);
                    assert_eq!(self.waiting.len() + self.live.len() + 1, known, "closed once");
                }
                Action::Send(send) => {
                    assert!(send.way == Way::ToClient || !self.waiting.contains(&send.mapping));
                    let total: u32 = send.spans.iter().map(|s| s.len).sum();
                    assert!(total <= 65_507);
                    let last = self.left.entry((send.mapping, send.way == Way::ToClient)).or_default();
                    for span in &send.spans {
                        assert!(self.refs[&span.buf.index()] > 0, "sent while it is ours");
                        let this = (span.buf.index(), span.off);
                        assert!(this > *last, "order is kept");
                        *last = this;
                    }
                    match send.segment {
                        Some(size) => {
                            assert!(total > u32::from(size) && total.div_ceil(u32::from(size)) <= 64);
                            self.probes.push((send.mapping, send.way));
                        }
                        None => assert!(send.spans.len() == 1),
                    }
                }
                Action::Retain(buf) => *self.refs.get_mut(&buf.index()).unwrap() += 1,
                Action::Release(buf) => {
                    let refs = self.refs.get_mut(&buf.index()).unwrap();
                    *refs -= 1;
                    assert!(*refs >= 0, "released once");
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_happens_buffers_come_back_and_order_is_kept(steps in steps()) {
        let limits = Limits { mappings: 4, held: 5, held_total: 12, ..Limits::default() };
        let mut relay = Relay::new(limits);
        let mut driver = Driver::default();
        let (mut now, mut next) = (0, 1);
        for step in steps {
            let mut buffer = |len: u32, count: u32, driver: &mut Driver| {
                next += 1;
                driver.refs.insert(next, 1);
                (span(next, len * count), (count > 1).then_some(len as u16).filter(|s| *s > 0))
            };
            match step {
                Step::Client { client, len, count } => {
                    let (data, segment) = buffer(len, count, &mut driver);
                    relay.from_client(at(now), path(client), data, segment);
                }
                Step::Backend { pick, len, count } if !driver.live.is_empty() => {
                    let (data, segment) = buffer(len, count, &mut driver);
                    relay.from_backend(at(now), driver.live[pick % driver.live.len()], data, segment);
                }
                Step::EndBatch => relay.end_batch(),
                Step::Opened(pick) if !driver.waiting.is_empty() => {
                    let id = driver.waiting.swap_remove(pick % driver.waiting.len());
                    driver.live.push(id);
                    relay.opened(id);
                }
                Step::OpenFailed(pick) if !driver.waiting.is_empty() => {
                    relay.open_failed(driver.waiting[pick % driver.waiting.len()]);
                }
                Step::Answer { pick, refused } if !driver.probes.is_empty() => {
                    let (id, way) = driver.probes.swap_remove(pick % driver.probes.len());
                    if refused { relay.cannot_segment(id, way) } else { relay.passed(id, way) }
                }
                Step::Gone(client) => relay.client_gone(0, path(client).client),
                Step::Pass(ms) => {
                    now += ms;
                    relay.handle_timeout(at(now));
                }
                _ => {}
            }
            driver.perform(&mut relay);
            prop_assert!(relay.mappings().count() <= 4 && relay.held_bufs <= 12);
            prop_assert_eq!(relay.mappings().count(), driver.waiting.len() + driver.live.len());
        }
        relay.handle_timeout(at(now + 200_000));
        driver.perform(&mut relay);
        prop_assert!(driver.live.is_empty() && driver.waiting.is_empty());
        prop_assert!(driver.refs.values().all(|refs| *refs == 0), "every buffer came back");
        prop_assert_eq!(relay.held_bufs, 0);
        prop_assert_eq!((relay.by_path.len(), relay.by_client.len(), relay.wheel.len()), (0, 0, 0));
    }
}
