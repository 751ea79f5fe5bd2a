//! ringtap: a network for rootless containers, on io_uring.
//!
//! One binary, three processes. *Control* holds the descriptors and the life cycle, *plane* parses every packet and
//! can do nothing else, *child* is the container side of the namespaces. They speak [`msg`] over sequenced sockets.
//!
//! The modules form a one-way stack; a module may use those below it and never those above:
//!
//! ```text
//! cli                verbs: argv -> one configuration -> one call
//! bench              load generators, what they cost, reports
//! lab                worlds of namespaces for tests, perf and bench
//! control            life cycle of plane and child, state directory, resolv.conf watch
//! plane              a shard's loop: actions -> SQEs, completions -> events
//! stack              sans-IO slirp stack: arp, ndp, icmp, udp, dhcp, dns, tcp
//! relay              sans-IO relays of published ports: who is whose, what goes where
//! nat                translation and policy
//! netns              user namespaces, id maps, mounts, netlink, child init
//! ring               reactor over the io-uring crate; owns the memory the kernel writes to
//! tap wire flow buf sandbox msg config
//! ```
//!
//! The sans-IO core (`stack`, `relay`, `nat`, `flow`, `wire`) never sees a clock, a descriptor, a system call or payload bytes:
//! see [`stack`] for how frames, host events and time go in and actions come out.

// Unsafe code lives in `ring`, `tap`, `netns`, `sandbox` and `buf` only; the module declarations below say so to the
// compiler.
#![deny(unsafe_op_in_unsafe_fn)]
#![warn(missing_docs)]

pub mod bench;
pub mod buf;
pub mod cli;
pub mod config;
pub mod control;
pub mod flow;
pub mod lab;
pub mod msg;
pub mod nat;
pub mod netns;
pub mod plane;
pub mod relay;
pub mod ring;
pub mod sandbox;
pub mod stack;
pub mod tap;
pub mod wire;
