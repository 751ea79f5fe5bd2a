//! Packets as bytes: views that check lengths, representations that cannot be wrong, and what offload leaves
//! to do.
//!
//! Theory of operation. [`parse`] turns the bytes of one Ethernet frame into a [`Frame`]: plain values and
//! offsets, no borrow, so that the payload stays where it is and only its position travels on. Every length
//! in the packet is checked against every other before a value exists. The way out is the mirror image:
//! [`ip`], [`tcp`], [`udp`] build the header chain of a super-frame in place; [`segment`] cuts it up in
//! software where a tap takes no offload; and [`vnet`] is the virtio-net header that says what is left to do.
//!
//! Limits: one VLAN tag is not carried (counted as unsupported); IPv6 extension headers are walked up to
//! eight deep.

#![forbid(unsafe_code)]

mod chain;
pub mod checksum;
pub mod ext;
mod field;
mod fragment;
pub mod icmp;
pub mod ip;
pub mod offload;
mod options;
pub mod parse;
pub mod proto;
pub mod segment;
pub mod tcp;
pub mod udp;
pub mod vnet;

pub use ip::{Fragment, Ip};
pub use offload::{Csum, Gso};
pub use parse::{Frame, Net, ParseError, Payload, parse, parse_gso};
pub use tcp::Tcp;
pub use udp::Udp;

use arrayvec::ArrayVec;

/// Room for the longest header chain built in place: Ethernet 14, IPv6 40, TCP 60.
pub const HEAD_MAX: usize = 128;

/// Header bytes of a frame, Ethernet first.
pub type Head = ArrayVec<u8, HEAD_MAX>;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Length of an Ethernet header without tags.
pub const ETH_LEN: usize = 14;

#[cfg(test)]
mod tests;
