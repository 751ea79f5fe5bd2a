//! The process one starts: life cycle of plane and child, state directory, resolv.conf watch.

#![forbid(unsafe_code)]
