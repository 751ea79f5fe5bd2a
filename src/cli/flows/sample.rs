//! Looks at all flows of an instance, and what has changed between two of them.
//!
//! Whoever looks again repeats the number of the look before; flows that rest since are not told again, so what was told is
//! kept, by place.

use crate::cli::port::client::{Client, ClientError};
use crate::msg::query::{Gear, Path};
use crate::msg::{FlowPage, FlowRecord};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Most flows of one look: more than any plane holds.
const MOST: usize = 1 << 20;

/// A flow, and its rates.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// What the plane says.
    #[serde(flatten)]
    pub flow: FlowRecord,
    /// Payload bytes a second from the guest, since the look before; none if it was not there then.
    pub rate_up: Option<u64>,
    /// To the guest.
    pub rate_down: Option<u64>,
}

impl Row {
    /// Its path, in two words at most: a relay splices as soon as one direction does.
    pub const fn way(&self) -> &'static str {
        match (self.flow.path, self.flow.gears) {
            (Path::Tap, _) => "tap",
            (Path::Injected, _) => "injected",
            (Path::Relay, None) => "relay",
            (Path::Relay, Some([Gear::Copy, Gear::Copy])) => "relay copy",
            (Path::Relay, Some(_)) => "relay splice",
        }
    }

    /// A flow as it is, `time` after it was `old`.
    fn since(flow: FlowRecord, old: Option<&Self>, time: Option<Duration>) -> Self {
        let rate = |new: u64, old: u64| {
            let time = time.filter(|time| !time.is_zero())?;
            Some((new.saturating_sub(old) as f64 / time.as_secs_f64()) as u64)
        };
        let rate_up = old.and_then(|old| rate(flow.bytes_up, old.flow.bytes_up));
        let rate_down = old.and_then(|old| rate(flow.bytes_down, old.flow.bytes_down));
        Self { flow, rate_up, rate_down }
    }

    /// Has rested for that long.
    fn rest(&mut self, time: Duration) {
        self.flow.age_ms += u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        (self.rate_up, self.rate_down) = (Some(0), Some(0));
    }

    /// Bytes a second, both ways.
    pub fn rate(&self) -> u64 {
        self.rate_up.unwrap_or(0) + self.rate_down.unwrap_or(0)
    }
}

/// Whoever looks.
#[derive(Debug)]
pub struct Sampler {
    client: Client,
    /// What the last look has shown, in the order of places.
    rows: Vec<Row>,
    /// When that was, and its number.
    before: Option<(Instant, u64)>,
}

impl Sampler {
    /// Has not looked yet.
    pub fn new(client: Client) -> Self {
        Self { client, rows: Vec::new(), before: None }
    }

    /// The instance that is looked at.
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// All flows as of now, in the order of their places.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn look(&mut self) -> Result<&[Row], ClientError> {
        let look = walk(&self.client, Some(self.before.map_or(0, |(_, at)| at)))?;
        let now = Instant::now();
        let time = self.before.map(|(then, _)| now.duration_since(then));
        self.before = Some((now, look.at));
        update(&mut self.rows, look, time);
        Ok(&self.rows)
    }
}

/// Brings what was known up to what a look has found, `time` after the one before.
fn update(rows: &mut Vec<Row>, look: FlowPage, time: Option<Duration>) {
    let mut told: BTreeMap<_, _> = look.flows.into_iter().map(|flow| (flow.place, flow)).collect();
    // Both rows and runs come in the order of places.
    let mut runs = look.still.into_iter().peekable();
    rows.retain_mut(|row| {
        let place = row.flow.place;
        if let Some(flow) = told.remove(&place) {
            let old = (flow.id == row.flow.id).then_some(&*row);
            *row = Row::since(flow, old, time);
            return true;
        }
        while runs.next_if(|(first, count)| first.saturating_add(*count) <= place).is_some() {}
        let rests = runs.peek().is_some_and(|(first, _)| *first <= place);
        if rests {
            row.rest(time.unwrap_or_default());
        }
        rests
    });
    rows.extend(told.into_values().map(|flow| Row::since(flow, None, time)));
    rows.sort_by_key(|row| row.flow.place);
}

/// All flows, page by page.
///
/// # Errors
/// [`ClientError`].
pub fn all(client: &Client) -> Result<Vec<FlowRecord>, ClientError> {
    Ok(walk(client, None)?.flows)
}

/// All pages as one; those that rest since the look of that number are not told.
fn walk(client: &Client, since: Option<u64>) -> Result<FlowPage, ClientError> {
    let since = since.map_or_else(String::new, |since| format!("&since={since}"));
    let page = |from: u64| client.get::<FlowPage>(&format!("/ringtap/v1/flows?from={from}{since}"));
    let mut look = page(0)?;
    let mut from = 0;
    while let Some(next) = look.next.filter(|next| *next > from && look.flows.len() < MOST) {
        from = next;
        let more = page(from)?;
        look.flows.extend(more.flows);
        look.still.extend(more.still);
        look.next = more.next;
    }
    Ok(look)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::flows::filter::tests::row;

    fn flow(place: u64, id: &str, bytes: u64) -> FlowRecord {
        let flow = row(id, "10.0.2.100:1", "192.0.2.1:80", bytes).flow;
        FlowRecord { place, age_ms: 5, ..flow }
    }

    #[test]
    fn what_rests_is_kept_what_is_told_takes_its_place_and_the_rest_has_ended() {
        let mut rows = Vec::new();
        let first = (0..6).map(|n| flow(n, &format!("tcp:{n}.0"), 100)).collect();
        update(&mut rows, FlowPage { flows: first, ..FlowPage::default() }, None);
        assert!(rows.len() == 6 && rows.iter().all(|row| row.rate_up.is_none() && row.flow.age_ms == 5));
        // 0 and 4 rest, 1 has moved, in the place of 2 there is another, 3 and 5 have ended, 9 is new. Runs may name
        // what was never told: of that nothing can be said.
        let flows = vec![flow(1, "tcp:1.0", 300), flow(2, "tcp:2.1", 7), flow(9, "tcp:9.0", 1)];
        let still = vec![(0, 1), (4, 1), (6, 2), (u64::MAX, u64::MAX)];
        update(&mut rows, FlowPage { flows, still, ..FlowPage::default() }, Some(Duration::from_secs(2)));
        let seen: Vec<_> =
            rows.iter().map(|r| (r.flow.place, &r.flow.id[..], r.rate_up, r.flow.age_ms)).collect();
        let expected = [
            (0, "tcp:0.0", Some(0), 2005),
            (1, "tcp:1.0", Some(100), 5),
            (2, "tcp:2.1", None, 5),
            (4, "tcp:4.0", Some(0), 2005),
            (9, "tcp:9.0", None, 5),
        ];
        assert_eq!(seen, expected);
    }
}
