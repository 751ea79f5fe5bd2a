//! What control says to a running plane, and the answers.

use crate::flow::Time;
use crate::msg::{Channel, FromPlane, MsgError, ToPlane};
use crate::stack::Stack;
use tracing::warn;

/// Handles every message that is waiting. False when the plane should end: it was told to, or control is gone.
pub fn serve(channel: &Channel, stack: &mut Stack, now: Time) -> bool {
    loop {
        match channel.try_recv::<ToPlane>() {
            Ok(Some((ToPlane::Resolvers(resolvers), _))) => stack.set_resolvers(now, resolvers),
            Ok(Some((ToPlane::HostV6(routable), _))) => stack.set_host_v6(now, routable),
            Ok(Some((ToPlane::Counters, _))) => {
                if let Err(e) = channel.send(&FromPlane::Counters(Box::new(stack.counters().clone())), &[]) {
                    warn!("answering control: {e}");
                }
            }
            // Descriptors of a port that this plane does not serve close here.
            Ok(Some((ToPlane::Factory { .. } | ToPlane::Publish(_), _))) => {}
            Ok(Some((ToPlane::Listeners { .. } | ToPlane::Unpublish { .. }, _))) => {}
            Ok(Some((ToPlane::Stop, _))) => return false,
            Ok(Some((ToPlane::Start(_), _))) => warn!("control sent a second start; ignored"),
            Ok(None) => return true,
            Err(e) => {
                if !matches!(e, MsgError::Closed) {
                    warn!("channel to control: {e}");
                }
                return false;
            }
        }
    }
}
