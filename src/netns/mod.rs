//! User namespaces and id maps, mounts, netlink, and the child's first process.

pub mod world;
