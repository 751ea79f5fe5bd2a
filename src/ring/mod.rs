//! The reactor: one io_uring, the memory the kernel writes to, and operations that are safe to hold on to.
