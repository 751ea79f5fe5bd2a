//! How much one guest may have open and hold at once.
//!
//! Theory of operation. What a guest opens costs the host: a descriptor and kernel memory for each flow, work for each new
//! one, buffers for what is under way. The defaults are far beyond what busy guests do, and far below what would harm the
//! host; a guest that meets a limit loses what it asked for last, is counted (`flow::Limit`) and named in the log.
//! Descriptors and buffers may be fewer than these numbers; then those decide.

use serde::{Deserialize, Serialize};

/// Fewer bytes of buffers than these would not let one connection work: a few frames of the greatest size each way.
pub const BUFFERED_MIN: u64 = 2 << 20;

/// Bounds on what one guest can make the plane hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Flows of all kinds that the guest has opened, each of which costs a host descriptor.
    pub flows: usize,
    /// Connections that do not stand yet; beyond them the oldest is forgotten. Never more than a quarter of the flows.
    pub half_open: usize,
    /// Flows that the guest may open each second, on average and at once; at least one. Beyond them packets are dropped,
    /// which the guest sends again.
    pub new_flows: u32,
    /// Bytes of buffers that the guest's connections may fill, both ways together, from [`BUFFERED_MIN`]; `None`: all there
    /// are.
    pub buffered: Option<u64>,
}

impl Default for Limits {
    /// A burst of four thousand connects is a benchmark, more is a flood; of those without an answer half as many are one
    /// (`stack::gate`). Twenty thousand new flows a second keep the plane and the host's kernel busy for most of a processor.
    fn default() -> Self {
        Self { flows: 65_536, half_open: 4096, new_flows: 20_000, buffered: None }
    }
}

/// [`Limits::buffered`] as it is written: a number of bytes, with K, M or G behind it or not, or `all`.
///
/// # Errors
/// What is wrong with it, and what to write instead.
pub fn buffered(text: &str) -> Result<Option<u64>, String> {
    if text == "all" {
        return Ok(None);
    }
    let (digits, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    let shift = match unit {
        "" => 0,
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        _ => {
            return Err(format!(
                "{text:?} is no number of bytes; use a number, and K, M or G behind it, as in 16M, or all"
            ));
        }
    };
    let number = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift));
    match number.filter(|n| *n >= BUFFERED_MIN) {
        Some(n) => Ok(Some(n)),
        None => Err(format!(
            "{text:?} is too little for one connection to work, or too long a number; use 2M or more"
        )),
    }
}
