//! Worlds made of namespaces, for tests, perf and bench alike.

#![forbid(unsafe_code)]
