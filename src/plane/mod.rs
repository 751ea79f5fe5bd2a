//! The data plane: one shard, one thread, one ring.

#![forbid(unsafe_code)]
