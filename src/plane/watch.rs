//! What the last looks at the flows saw, so that whoever looks again is told what has changed and not everything.
//!
//! Theory of operation. Of ten thousand connections nearly all rest between two looks, and saying again what is known costs
//! three times: the plane asks the kernel about each socket, control writes it down, the watcher reads it. So a print of each
//! flow (a hash of what the plane itself knows of it) is kept at its place, with the number of the page on which it was
//! first seen. A watcher repeats the number of its last look; a flow whose print is older rests, and of it the page says no
//! more than that it is still there. Pages are numbered one by one, those of all watchers together, so that a change between
//! a watcher's own pages has a higher number than the first of them and is told the next time.
//!
//! What only the kernel knows (segments sent again to an end that has gone) is in no print: one in [`AFRESH`] of the
//! resting flows is told in full each second, another one the next.
//!
//! Limits: 16 bytes a flow, from the first look until the plane rests ([`Watch::forget`]). Numbers begin with random bits
//! of this plane's own, so those of another plane are strangers (but for one in four million), and strangers are told
//! everything.

use crate::flow::Time;
use crate::msg::query::{FLOW_PAGE, RUNS_PAGE, WALK_PAGE};
use crate::msg::{FlowPage, FlowRecord};
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};

/// Of so many resting flows one is told in full each second: what the kernel knows is at most so many seconds old.
const AFRESH: u64 = 16;
/// Bits of a page's number that count pages; above them are [`OWN`] bits that are this plane's own. Both together are a
/// number that JSON's readers keep: less than 2^53.
const COUNT: u32 = 31;
const OWN: u32 = 22;
/// Kinds of places: three bits above 32 of a slot.
const KINDS: usize = 8;

/// A flow on its way to a page.
pub(super) trait Seen {
    /// A hash of what may change about it ([`print`]).
    fn print(&self) -> u64;
    /// All that is known.
    fn record(self) -> FlowRecord;
}

/// A hash of `what`.
pub(super) fn print(what: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

/// What was seen.
#[derive(Debug)]
pub struct Watch {
    page: u64,
    /// By kind and slot: the print, and the page on which it was new. Page 0 is none.
    prints: [Vec<(u64, u64)>; KINDS],
}

impl Default for Watch {
    fn default() -> Self {
        let own = RandomState::new().build_hasher().finish() >> (u64::BITS - OWN);
        Self { page: own << COUNT, prints: Default::default() }
    }
}

impl Watch {
    /// A page of flows that come with their places, in the order of these. With the number that a look before began
    /// with, those that have rested since are left out, and their places said.
    pub(super) fn page<F: Seen>(
        &mut self,
        now: Time,
        since: Option<u64>,
        flows: impl Iterator<Item = (u64, F)>,
    ) -> FlowPage {
        self.page += 1;
        let since = since.map(|since| if self.knows(since) { since } else { 0 });
        let turn = now.since(Time::ZERO).as_secs();
        let mut page = FlowPage { at: self.page, ..FlowPage::default() };
        for (walked, (place, flow)) in flows.enumerate() {
            if page.flows.len() == FLOW_PAGE || page.still.len() == RUNS_PAGE || walked == WALK_PAGE {
                page.next = Some(place);
                break;
            }
            let rests = since.is_some_and(|since| self.moved(place, flow.print()) <= since);
            if rests && !(place + turn).is_multiple_of(AFRESH) {
                match page.still.last_mut() {
                    Some((first, count)) if *first + *count == place => *count += 1,
                    _ => page.still.push((place, 1)),
                }
            } else {
                page.flows.push(flow.record());
            }
        }
        page
    }

    /// The number is one of ours, and not one to come.
    const fn knows(&self, since: u64) -> bool {
        since >> COUNT == self.page >> COUNT && since < self.page
    }

    /// The page on which the flow at that place was first seen as it is.
    fn moved(&mut self, place: u64, print: u64) -> u64 {
        let prints = &mut self.prints[(place >> 32) as usize % KINDS];
        let slot = (place & 0xffff_ffff) as usize;
        if prints.len() <= slot {
            prints.resize(slot + 1, (0, 0));
        }
        if prints[slot].1 == 0 || prints[slot].0 != print {
            prints[slot] = (print, self.page);
        }
        prints[slot].1
    }

    /// Gives the memory back. Who looks next is told everything.
    pub fn forget(&mut self) {
        self.prints = Default::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::msg::query::tests::longest;
    use std::collections::BTreeMap;
    use std::time::Duration;

    /// A flow at a place, with what has moved.
    #[derive(Clone, Copy)]
    struct Flow(u64, u64);

    impl Seen for Flow {
        fn print(&self) -> u64 {
            print(self.1)
        }

        fn record(self) -> FlowRecord {
            FlowRecord { place: self.0, ..longest() }
        }
    }

    type Flows = BTreeMap<u64, u64>;

    /// A page at second `now`.
    fn page(watch: &mut Watch, now: u64, since: Option<u64>, from: u64, flows: &Flows) -> FlowPage {
        let flows = flows.range(from..).map(|(place, bytes)| (*place, Flow(*place, *bytes)));
        watch.page(Time::ZERO + Duration::from_secs(now), since, flows)
    }

    fn told(page: &FlowPage) -> Vec<u64> {
        page.flows.iter().map(|flow| flow.place).collect()
    }

    /// Those of `places` whose turn it is not in the first second.
    fn resting(places: impl IntoIterator<Item = u64>) -> Flows {
        places.into_iter().filter(|place| place % AFRESH != 0).map(|place| (place, 0)).collect()
    }

    #[test]
    fn every_flow_is_on_one_page_even_if_others_end_meanwhile() {
        let mut watch = Watch::default();
        let (few, udp) = (FLOW_PAGE as u64, 1 << 32);
        let mut flows: Flows = (0..few).chain(udp..udp + few).map(|place| (place, 0)).collect();
        let first = page(&mut watch, 0, None, 0, &flows);
        assert_eq!((told(&first), first.next), ((0..few).collect(), Some(udp)));
        // The flow at which the next page begins ends; so does one that was seen.
        flows.remove(&udp);
        flows.remove(&3);
        let second = page(&mut watch, 0, None, udp, &flows);
        assert_eq!((told(&second), second.next), ((udp + 1..udp + few).collect(), None));
        assert!(first.still.is_empty() && second.still.is_empty());
    }

    #[test]
    fn who_looks_again_is_told_what_has_moved_and_where_the_others_are() {
        let mut watch = Watch::default();
        let mut flows = resting([1, 2, 3, 5, 1 << 32 | 1]);
        let first = page(&mut watch, 0, Some(0), 0, &flows);
        assert_eq!(told(&first), flows.keys().copied().collect::<Vec<_>>());
        let second = page(&mut watch, 0, Some(first.at), 0, &flows);
        assert_eq!((told(&second), second.still), (vec![], vec![(1, 3), (5, 1), (1 << 32 | 1, 1)]));
        *flows.get_mut(&2).unwrap() += 1;
        flows.remove(&5);
        flows.insert(6, 0);
        let third = page(&mut watch, 0, Some(second.at), 0, &flows);
        assert_eq!((told(&third), third.still), (vec![2, 6], vec![(1, 1), (3, 1), (1 << 32 | 1, 1)]));
        // Whoever does not look again is told everything, and changes nothing for those who do.
        assert_eq!(told(&page(&mut watch, 0, None, 0, &flows)).len(), flows.len());
        assert!(told(&page(&mut watch, 0, Some(third.at), 0, &flows)).is_empty());
    }

    #[test]
    fn a_change_that_another_watcher_saw_first_is_told_all_the_same() {
        let mut watch = Watch::default();
        let mut flows = resting([1, 2, 3]);
        let mine = page(&mut watch, 0, Some(0), 0, &flows);
        let theirs = page(&mut watch, 0, Some(0), 0, &flows);
        // The second page of their look comes after my look, and sees what mine could not.
        let again = page(&mut watch, 0, Some(mine.at), 0, &flows);
        *flows.get_mut(&3).unwrap() += 1;
        assert_eq!(told(&page(&mut watch, 0, Some(theirs.at), 3, &flows)), [3]);
        assert_eq!(told(&page(&mut watch, 0, Some(again.at), 0, &flows)), [3]);
    }

    #[test]
    fn what_the_kernel_knows_is_told_by_turns() {
        let mut watch = Watch::default();
        let flows: Flows = (0..2 * AFRESH).map(|place| (place, 0)).collect();
        let mut at = page(&mut watch, 0, Some(0), 0, &flows).at;
        let mut all = Vec::new();
        for now in 1..=AFRESH {
            let next = page(&mut watch, now, Some(at), 0, &flows);
            assert_eq!(told(&next).len(), 2, "{now}");
            all.extend(told(&next));
            at = next.at;
        }
        all.sort_unstable();
        assert_eq!(all, flows.keys().copied().collect::<Vec<_>>());
    }

    #[test]
    fn numbers_of_another_plane_or_of_what_is_forgotten_are_strangers() {
        let mut watch = Watch::default();
        let flows = resting([1, 2, 3]);
        let at = page(&mut watch, 0, Some(0), 0, &flows).at;
        for stranger in [at + 9, at ^ 1 << COUNT, u64::MAX] {
            assert_eq!(told(&page(&mut watch, 0, Some(stranger), 0, &flows)), [1, 2, 3], "{stranger}");
        }
        watch.forget();
        assert_eq!(told(&page(&mut watch, 0, Some(at), 0, &flows)), [1, 2, 3]);
        assert!(at < 1 << 53, "JSON's readers keep it");
        // `at` may begin with zeros only.
        let others = (0..9).map(|_| page(&mut Watch::default(), 0, Some(0), 0, &flows).at);
        assert!(others.filter(|other| *other == at).count() < 9);
    }

    #[test]
    fn a_page_ends_where_its_runs_or_its_walk_do() {
        let mut watch = Watch::default();
        let dense = resting(0..3 * WALK_PAGE as u64);
        let sparse = resting((0..4 * RUNS_PAGE as u64).map(|n| 16 * n + 1));
        for (flows, most) in [(dense, WALK_PAGE), (sparse, RUNS_PAGE)] {
            let mut since = 0;
            // What is told on later pages of the first look is told once more on the second: it came after its number.
            for look in 0..3 {
                let (mut from, mut pages, mut seen, mut told) = (Some(0), 0, 0, 0);
                let number = watch.page + 1;
                while let Some(begin) = from {
                    let next = page(&mut watch, 0, Some(since), begin, &flows);
                    let still: u64 = next.still.iter().map(|(_, count)| count).sum();
                    let here = still as usize + next.flows.len();
                    assert!(
                        next.still.len() <= RUNS_PAGE && next.flows.len() <= FLOW_PAGE && here <= WALK_PAGE
                    );
                    (from, pages, seen, told) = (next.next, pages + 1, seen + here, told + next.flows.len());
                }
                assert_eq!(seen, flows.len());
                assert!(
                    look < 2 || told == 0 && pages == flows.len().div_ceil(most),
                    "{look}: {told} {pages}"
                );
                since = number;
            }
        }
    }
}
