//! Servers in the guest's namespace see their clients' own addresses, and their answers come back: the sockets of the factory
//! and what steers answers to them, without ringtap around it.
//!
//! The process inside is this test program, run again in the namespace ([`world::inside`]), on the loop that `attach`
//! leaves there. The plane's side is the pool that the plane uses.

mod bridge;
mod hostile;
mod local;
mod own;
mod world;
