//! What every flow has in common: an identity that is never mistaken for another, time, timers and counters.
//!
//! Theory of operation. A [`FlowId`] names a slot of a table together with the slot's generation, so that a completion
//! or a timer that outlives its flow finds nothing instead of a stranger ([`table`]). [`time::Time`] is the only clock
//! the sans-IO core knows: a number that the caller passes in. [`wheel`] keeps one deadline per flow without a scan
//! and without a tick while idle. [`counters`], [`bins`] and [`info`] are what `ringtap` can say about a flow and about the whole plane.

#![forbid(unsafe_code)]

pub mod bins;
pub mod bucket;
pub mod counters;
pub mod info;
pub mod table;
pub mod time;
pub mod wheel;

pub use bins::Bins;
pub use bucket::Bucket;
pub use counters::{Drop as DropReason, FlowCounters, Limit, PlaneCounters};
pub use info::FlowInfo;
pub use table::{FlowId, Kind, Table};
pub use time::Time;
pub use wheel::Wheel;
