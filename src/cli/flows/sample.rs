//! Looks at all flows of an instance, and what has changed between two of them.

use crate::cli::port::client::{Client, ClientError};
use crate::msg::query::{Gear, Path};
use crate::msg::{FlowPage, FlowRecord};
use serde::Serialize;
use std::collections::HashMap;
use std::time::Instant;

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
    pub fn way(&self) -> String {
        match (self.flow.path, self.flow.gears) {
            (Path::Tap, _) => "tap".to_owned(),
            (Path::Injected, _) => "injected".to_owned(),
            (Path::Relay, None) => "relay".to_owned(),
            (Path::Relay, Some([Gear::Copy, Gear::Copy])) => "relay copy".to_owned(),
            (Path::Relay, Some(_)) => "relay splice".to_owned(),
        }
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
    before: HashMap<String, [u64; 2]>,
    at: Option<Instant>,
}

impl Sampler {
    /// Has not looked yet.
    pub fn new(client: Client) -> Self {
        Self { client, before: HashMap::new(), at: None }
    }

    /// The instance that is looked at.
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// All flows as of now.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn look(&mut self) -> Result<Vec<Row>, ClientError> {
        let flows = all(&self.client)?;
        let now = Instant::now();
        let time = self.at.replace(now).map(|at| now.duration_since(at).as_secs_f64());
        let before = std::mem::take(&mut self.before);
        let rows = flows.into_iter().map(|flow| {
            let bytes = [flow.bytes_up, flow.bytes_down];
            let old = before.get(&flow.id);
            let rate = |n: usize| {
                let new = bytes[n].saturating_sub(old?[n]);
                Some((new as f64 / time.filter(|t| *t > 0.0)?) as u64)
            };
            let (rate_up, rate_down) = (rate(0), rate(1));
            self.before.insert(flow.id.clone(), bytes);
            Row { flow, rate_up, rate_down }
        });
        Ok(rows.collect())
    }
}

/// All flows, page by page.
///
/// # Errors
/// [`ClientError`].
pub fn all(client: &Client) -> Result<Vec<FlowRecord>, ClientError> {
    let mut flows = Vec::new();
    let mut next = Some(0u64);
    while let Some(from) = next
        && flows.len() < MOST
    {
        let page: FlowPage = client.get(&format!("/ringtap/v1/flows?from={from}"))?;
        flows.extend(page.flows);
        next = page.next.filter(|next| *next > from);
    }
    Ok(flows)
}
