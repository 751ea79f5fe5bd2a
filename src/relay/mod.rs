//! Relays of published ports, sans-IO: what goes from a client to the guest's socket and back, and when.
//!
//! As the stack, this never sees a clock, a descriptor or payload bytes: time comes in as an argument, payload as a
//! [`crate::buf::Span`], and what is to be done comes out as actions. [`udp`] maps clients to backend sockets;
//! [`proxy`] is the header that names a client in band.

#![forbid(unsafe_code)]

pub mod proxy;
pub mod udp;
