//! What control says to a running plane, and the answers.

use super::queries;
use super::shard::Shard;
use crate::msg::{Channel, FromPlane, MsgError, ToPlane};
use crate::stack::Door;
use tracing::warn;

impl Shard {
    /// Handles every message that is waiting. False when the plane should end: it was told to, or control is gone.
    pub(super) fn serve_control(&mut self) -> bool {
        loop {
            let (stack, channel, now) = (&mut self.stack, &self.channel, self.now);
            match channel.try_recv::<ToPlane>() {
                Ok(Some((ToPlane::Resolvers(resolvers), _))) => stack.set_resolvers(now, resolvers),
                Ok(Some((ToPlane::HostV6(routable), _))) => stack.set_host_v6(now, routable),
                Ok(Some((ToPlane::Counters, _))) => {
                    answer(channel, &FromPlane::Counters(Box::new(stack.counters().clone())));
                }
                Ok(Some((ToPlane::Flows { from }, _))) => {
                    let (sockets, ports) = (&self.sockets, &self.tap_ports);
                    let port = |flow| match stack.door_of(flow) {
                        Some(door) => ports.port_of(door),
                        None => sockets.get(flow).and_then(|socket| socket.port),
                    };
                    answer(channel, &FromPlane::Flows(queries::flows(stack, now, from, port)));
                }
                Ok(Some((ToPlane::Ports { after }, _))) => {
                    let open = |port, doors: &dyn Fn(Door) -> bool| self.open_clients(port, doors);
                    answer(channel, &FromPlane::Ports(self.tap_ports.counters(after, open)));
                }
                Ok(Some((ToPlane::Publish(port), _))) => self.publish_on_tap(port),
                Ok(Some((ToPlane::Listeners { port, first }, fds))) => self.listen_on_tap(port, first, fds),
                Ok(Some((ToPlane::Unpublish { port, connections }, _))) => {
                    self.unpublish_on_tap(port, connections);
                }
                // Descriptors that this plane has no use for close here.
                Ok(Some((ToPlane::Factory { .. }, _))) => {}
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
}

fn answer(channel: &Channel, message: &FromPlane) {
    if let Err(e) = channel.send(message, &[]) {
        warn!("answering control: {e}");
    }
}
