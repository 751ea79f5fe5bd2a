//! How far the plane is to be locked in.

use serde::{Deserialize, Serialize};

/// `--sandbox`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SandboxMode {
    /// Whatever the kernel has; what it lacks is said in one line.
    #[default]
    On,
    /// Nothing: for debuggers, and for telling whether the sandbox is to blame.
    Off,
    /// All of it but Landlock, or no start.
    Require,
}
