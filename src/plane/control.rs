//! What control says to a running plane, and the answers.

use super::queries::{self, Tables};
use super::shard::{End, Shard};
use crate::config::Via;
use crate::msg::{Channel, FromPlane, MsgError, ToPlane};
use crate::stack::Door;
use tracing::warn;

impl Shard {
    /// Handles every message that is waiting. Why the plane should end, if it should.
    pub(super) fn serve_control(&mut self) -> Option<End> {
        loop {
            let (stack, channel, now) = (&mut self.stack, &self.channel, self.now);
            match channel.try_recv::<ToPlane>() {
                Ok(Some((ToPlane::Resolvers(resolvers), _))) => stack.set_resolvers(now, resolvers),
                Ok(Some((ToPlane::HostV6(routable), _))) => stack.set_host_v6(now, routable),
                Ok(Some((ToPlane::Counters, _))) => {
                    let counters = self.counters();
                    answer(&self.channel, &FromPlane::Counters(Box::new(counters)));
                }
                Ok(Some((ToPlane::Flows { from, since }, _))) => {
                    let (sockets, tap_ports, relay_ports) =
                        (&self.sockets, &self.tap_ports, &self.relay_ports);
                    let tables = Tables { stack, sockets, tap_ports, relay_ports };
                    let flows = queries::flows(&tables, &mut self.watch, now, from, since);
                    answer(channel, &FromPlane::Flows(flows));
                }
                Ok(Some((ToPlane::Flow { id }, _))) => {
                    let detail = self.detail(&id).map(Box::new);
                    answer(&self.channel, &FromPlane::Flow(detail));
                }
                Ok(Some((ToPlane::Stats, _))) => {
                    let stats = self.stats();
                    answer(&self.channel, &FromPlane::Stats(Box::new(stats)));
                }
                Ok(Some((ToPlane::Ports { after }, _))) => {
                    let open = |port, doors: &dyn Fn(Door) -> bool| self.open_clients(port, doors);
                    let tap = self.tap_ports.counters(after, open);
                    answer(channel, &FromPlane::Ports(queries::merge(tap, self.relay_ports.counters(after))));
                }
                Ok(Some((ToPlane::Publish(port), _))) => match port.via {
                    Via::Tap => self.publish_on_tap(port),
                    Via::Relay => self.publish_on_relay(port),
                },
                // Each table takes those of its own ports.
                Ok(Some((ToPlane::Listeners { port, first }, fds))) => {
                    if let Some(fds) = self.listen_on_relay(port, first, fds) {
                        self.listen_on_tap(port, first, fds);
                    }
                }
                Ok(Some((ToPlane::Unpublish { port, connections }, _))) => {
                    self.unpublish_on_tap(port, connections);
                    self.unpublish_on_relay(port, connections);
                }
                Ok(Some((ToPlane::Factory { netns_cookie }, fds))) => self.connect_factory(netns_cookie, fds),
                Ok(Some((ToPlane::Capture { flow, snaplen }, fds))) => self.begin_capture(flow, snaplen, fds),
                Ok(Some((ToPlane::Stop, _))) => return Some(End::Asked),
                Ok(Some((ToPlane::Start(_), _))) => warn!("control sent a second start; ignored"),
                Ok(None) => return None,
                Err(MsgError::Closed) => return Some(End::Asked),
                Err(e) => return Some(End::ChannelBroken(e.to_string())),
            }
        }
    }
}

pub(super) fn answer(channel: &Channel, message: &FromPlane) {
    if let Err(e) = channel.send(message, &[]) {
        warn!("answering control: {e}");
    }
}
