//! The data plane: one shard, one thread, one ring.

#![forbid(unsafe_code)]

use crate::msg::{Channel, FromPlane, ToPlane};

/// The life of the plane process; returns its exit code.
pub fn main(channel: Channel) -> u8 {
    if let Ok((ToPlane::Start(_), _fds)) = channel.recv::<ToPlane>() {
        // Control has gone if this fails, and then nobody is left to tell.
        let _ = channel.send(&FromPlane::Failed { text: "the data plane is not built".to_owned() }, &[]);
    }
    1
}
