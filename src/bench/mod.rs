//! `ringtap bench`: how fast this host's network is, without and with ringtap and its peers.
//!
//! What flows through it:
//!
//! ```text
//!   plan      which cells (load x path x link x MTU) a scope has
//!   entrant   who takes part: PATH, --with
//!   stand     an entrant at work in the lab, as an ordinary user
//!   load      the generators at both ends, on tokio-uring and for datagrams at a pace on crate::ring
//!   take      one sample: what arrived, what it cost
//!   run       rounds, contenders in turn
//!   report    medians -> JSON -> table, svg, compare
//! ```
//!
//! The lab is a world of namespaces (see [`crate::lab`]), so nothing of the machine's network is touched and no root is needed.
//! [`iperf3`] and [`wrk`] are measures of others, which `perf/` uses and holds our generators against; [`cost`], [`pace`],
//! [`stats`] and [`machine`] serve both.

#![forbid(unsafe_code)]

pub mod compare;
pub mod cost;
pub mod entrant;
pub mod iperf3;
pub mod load;
pub mod machine;
pub mod pace;
pub mod plan;
pub mod report;
pub mod run;
pub mod stand;
pub mod stats;
pub mod svg;
pub mod table;
pub mod take;
pub mod wrk;

pub use plan::Scope;
pub use report::Report;
pub use run::{BenchError, Options, run};
