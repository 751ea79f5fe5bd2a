//! The wheel against an ordered map, which is right by inspection.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

#[test]
fn fires_in_order_and_never_early() {
    let mut w = Wheel::default();
    w.insert(Time::from_millis(30), 'c');
    w.insert(Time::from_millis(10), 'a');
    let b = w.insert(Time::from_millis(20), 'b');
    assert_eq!(w.next_deadline(), Some(Time::from_millis(10)));
    assert_eq!(w.pop_expired(Time::from_millis(9)), None);
    assert_eq!(w.cancel(b), Some('b'));
    assert_eq!(w.cancel(b), None);
    assert_eq!(w.pop_expired(Time::from_millis(30)), Some('a'));
    assert_eq!(w.pop_expired(Time::from_millis(30)), Some('c'));
    assert_eq!(w.pop_expired(Time::MAX), None);
    assert!(w.is_empty());
}

#[test]
fn the_ends_of_time_are_reached() {
    let mut w = Wheel::default();
    w.insert(Time::MAX, "never");
    w.insert(Time::ZERO, "at once");
    assert_eq!(w.pop_expired(Time::ZERO), Some("at once"));
    assert_eq!(w.next_deadline(), Some(Time::MAX));
    assert_eq!(w.pop_expired(Time::from_nanos(u64::MAX - 1)), None);
    assert_eq!(w.pop_expired(Time::MAX), Some("never"));
    // The clock is at its end: everything is near now, and still in order.
    w.insert(Time::from_millis(2), "two");
    w.insert(Time::from_millis(1), "one");
    assert_eq!(w.pop_expired(Time::from_millis(1)), Some("one"));
    assert_eq!(w.next_deadline(), Some(Time::from_millis(2)));
}

#[test]
fn moving_one_deadline_for_ever_takes_no_memory() {
    let mut w = Wheel::default();
    let keep = w.insert(Time::from_nanos(5), 0);
    w.pop_expired(Time::from_nanos(4));
    for i in 0..100_000u64 {
        let near = w.insert(Time::from_nanos(10 + i % 7), 1);
        let far = w.insert(Time::from_millis(1 + i), 2);
        assert_eq!((w.cancel(near), w.cancel(far)), (Some(1), Some(2)));
    }
    assert!(w.entries.len() <= 3 && w.near.len() <= 2 + SWEEP_SLACK, "{} {}", w.entries.len(), w.near.len());
    assert_eq!((w.len(), w.cancel(keep)), (1, Some(0)));
    assert_eq!(w.next_deadline(), None);
}

#[test]
fn waking_at_each_deadline_visits_few_times() {
    let mut w = Wheel::default();
    for i in 1..=1000u64 {
        w.insert(Time::from_millis(i * 300), i);
    }
    let (mut wakes, mut fired) = (0, 0);
    while let Some(at) = w.next_deadline() {
        wakes += 1;
        while w.pop_expired(at).is_some() {
            fired += 1;
        }
    }
    assert_eq!((fired, wakes), (1000, 1000), "a wake-up for nothing");
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u64),
    Cancel(usize),
    Pass(u64),
    Sleep,
}

/// Spans from nanoseconds to centuries, so that every wheel is used.
fn span() -> impl Strategy<Value = u64> {
    (0..64u32, any::<u64>()).prop_map(|(bits, n)| n >> bits)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => span().prop_map(Step::Insert),
        2 => (0u64..5_000_000).prop_map(Step::Insert),
        2 => any::<usize>().prop_map(Step::Cancel),
        1 => span().prop_map(|n| Step::Pass(n >> 8)),
        2 => (0u64..3_000_000).prop_map(Step::Pass),
        2 => Just(Step::Sleep),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_an_ordered_map(steps in prop::collection::vec(step(), 1..200)) {
        let mut wheel = Wheel::default();
        let mut model = BTreeMap::new();
        let mut tokens = Vec::new();
        let mut now = 0u64;
        for (seq, step) in steps.into_iter().enumerate() {
            match step {
                Step::Insert(after) => {
                    let at = Time::from_nanos(now.saturating_add(after));
                    tokens.push((wheel.insert(at, seq), seq));
                    model.insert((at, seq), seq);
                }
                Step::Cancel(which) if !tokens.is_empty() => {
                    let (token, seq) = tokens.swap_remove(which % tokens.len());
                    prop_assert_eq!(wheel.cancel(token), model.remove(&(token.at(), seq)));
                    prop_assert_eq!(wheel.cancel(token), None);
                }
                Step::Cancel(_) => {}
                Step::Pass(ns) => now = now.saturating_add(ns),
                Step::Sleep => now = wheel.next_deadline().map_or(now, |at| at.as_nanos().max(now)),
            }
            let time = Time::from_nanos(now);
            // Everything due comes, in order, and nothing else.
            loop {
                let due = model.first_key_value().map(|(k, _)| *k).filter(|(at, _)| *at <= time);
                prop_assert_eq!(wheel.pop_expired(time), due.map(|(_, seq)| seq));
                let Some(due) = due else { break };
                model.remove(&due);
            }
            prop_assert_eq!(wheel.len(), model.len());
            match (wheel.next_deadline(), model.keys().next()) {
                (None, None) => {}
                // A bound from below, and past `now`: sleeping until it always gets somewhere.
                (Some(bound), Some((at, _))) => prop_assert!(bound <= *at && bound > time),
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }
}
