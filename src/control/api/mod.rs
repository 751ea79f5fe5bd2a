//! The REST API on `api.sock`: RootlessKit's version 1.1.2, and our own routes below `/ringtap/v1`.
//!
//! Theory of operation. [`server`] holds the connections; each request becomes a [`Call`] that waits here until control's
//! loop takes it ([`Api::next`]) and has it answered ([`Api::handle`], see [`routes`]). What is asked of the plane is
//! answered when the plane has answered ([`Api::hear`]): it does so in the order of the questions, so who waits is a
//! queue. The socket can be reached from inside the namespaces, so no call widens what was fixed at start.
//!
//! Ports given at start are bound by [`Api::publish`], before COMMAND exists; the socket comes after `child_pid`, as
//! RootlessKit's clients expect.

pub mod http;
pub mod instance;
pub mod metrics;
mod pace;
mod routes;
pub mod server;
pub mod stats;
pub mod views;

pub use server::Call;

use super::ports::{Inside, PortError, Ports, path};
use super::state::StateDir;
use super::{Common, ControlError};
use crate::config::{Network, PortId};
use crate::msg::{Channel, FromPlane, MsgError, PlaneStats, PortCounters, ToPlane};
use http::Response;
pub use instance::Facts;
use instance::InstanceView;
use nix::sys::socket::{MsgFlags, send};
use stats::StatsView;
use std::collections::VecDeque;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use tokio::sync::{mpsc, oneshot};
use views::Info;
pub use views::{Drivers, PortDriver};

/// The name of the socket in the state directory.
pub const SOCKET: &str = "api.sock";

/// Where a connection becomes a capture of the tap.
pub const CAPTURE: &str = "/ringtap/v1/capture";
/// What is written to such a connection before the capture.
const SWITCHING: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: pcapng\r\n\r\n";

/// Ports and who asks about them.
#[derive(Debug)]
pub struct Api {
    ports: Ports,
    info: Info,
    facts: Facts,
    state: PathBuf,
    /// None if it is the host's.
    network: Option<Network>,
    /// It has been said that ports go through the tap.
    said: bool,
    /// `None` before [`Api::open`].
    calls: Option<mpsc::Receiver<Call>>,
    /// Who waits for the plane, in the order of the questions.
    waiting: VecDeque<(Question, oneshot::Sender<Response>)>,
}

/// What the plane was asked for.
#[derive(Debug)]
enum Question {
    Counters,
    /// The page that begins there, without what rests since that look.
    Flows {
        from: u64,
        since: Option<u64>,
    },
    /// What is known of one flow.
    Flow {
        id: String,
    },
    Stats,
    /// For Prometheus: what the plane has counted, once it is there, and ports as below.
    Metrics(Option<Box<PlaneStats>>, Vec<PortCounters>),
    /// Counters of all ports; those that have come so far.
    Ports(Vec<PortCounters>),
    /// Those of one.
    Port(PortId),
}

impl Api {
    /// Binds the ports of `common` and gives them to the plane. Those that were picked are named on standard error.
    ///
    /// # Errors
    /// [`ControlError::Port`]; nothing stays bound.
    pub fn publish(
        common: &Common,
        state: &Path,
        child_pid: i32,
        facts: Facts,
        plane: &Channel,
    ) -> Result<Self, ControlError> {
        let mut ports = Ports::new(common.network.clone(), common.port_defaults, common.relay_only);
        for asked in &common.ports {
            let failed = |e: PortError| ControlError::Port(format!("--publish {asked}: {}", e.with_remedy()));
            let entry = ports.add_at_start(asked.clone(), plane).map_err(failed)?;
            if entry.picked {
                // Nobody reading it is no reason not to run.
                let _ = writeln!(std::io::stderr(), "ringtap: port {}: {}", entry.published.id, entry.text());
            }
        }
        let info = Info::new(&common.network, &common.drivers, state, child_pid);
        let network = common.drivers.network.map(|_| common.network.clone());
        let state = state.to_owned();
        let waiting = VecDeque::new();
        Ok(Self { ports, info, facts, state, network, said: false, calls: None, waiting })
    }

    /// Begins to serve `api.sock`. Needs the runtime.
    ///
    /// # Errors
    /// [`ControlError::Api`].
    pub fn open(&mut self, state: &mut StateDir) -> Result<(), ControlError> {
        let path = state.reserve(SOCKET)?;
        let failed = |source| ControlError::Api { path: path.display().to_string(), source };
        self.calls = Some(server::open(&path).map_err(failed)?);
        Ok(())
    }

    /// The ports.
    pub const fn ports(&self) -> &Ports {
        &self.ports
    }

    /// The ports, to be changed by control itself.
    pub const fn ports_mut(&mut self) -> &mut Ports {
        &mut self.ports
    }

    /// What this instance is.
    fn instance(&self) -> InstanceView {
        InstanceView::of(&self.facts, &self.state, self.info.child_pid, self.network.as_ref())
    }

    /// The next call. Safe to cancel.
    pub async fn next(&mut self) -> Call {
        if let Some(calls) = &mut self.calls
            && let Some(call) = calls.recv().await
        {
            return call;
        }
        std::future::pending().await
    }

    /// Answers a call, or asks the plane first.
    pub fn handle(&mut self, call: Call, plane: &Channel) {
        match routes::answer(self, &call.request, plane) {
            routes::Answer::Now(response) => {
                // A client that is gone needs no answer.
                let _ = call.reply.send(response);
            }
            routes::Answer::Ask(question) => self.ask(question, call.reply, plane),
            routes::Answer::Switch(message) => {
                let response = match call.stream {
                    Some(stream) => switch(&stream, &message, plane),
                    None => Response::error(400, "nothing may follow the request before it is answered"),
                };
                let _ = call.reply.send(response);
            }
        }
    }

    fn ask(&mut self, question: Question, reply: oneshot::Sender<Response>, plane: &Channel) {
        let message = match &question {
            Question::Counters => ToPlane::Counters,
            Question::Flows { from, since } => ToPlane::Flows { from: *from, since: *since },
            Question::Flow { id } => ToPlane::Flow { id: id.clone() },
            Question::Stats | Question::Metrics(None, _) => ToPlane::Stats,
            Question::Ports(so_far) | Question::Metrics(Some(_), so_far) => {
                ToPlane::Ports { after: so_far.last().map_or(PortId(0), |c| c.port) }
            }
            Question::Port(id) => ToPlane::Ports { after: PortId(id.0 - 1) },
        };
        match plane.send(&message, &[]) {
            Ok(()) => self.waiting.push_back((question, reply)),
            Err(e) => {
                let _ = reply.send(gone(&e.to_string()));
            }
        }
    }

    /// Takes the plane's answers; what is none is handed back.
    pub fn hear(
        &mut self,
        message: Result<FromPlane, MsgError>,
        plane: &Channel,
    ) -> Option<Result<FromPlane, MsgError>> {
        let answer = match message {
            Ok(
                answer @ (FromPlane::Counters(_)
                | FromPlane::Flows(_)
                | FromPlane::Flow(_)
                | FromPlane::Stats(_)
                | FromPlane::Ports(_)),
            ) => answer,
            other => return Some(other),
        };
        let (question, reply) = self.waiting.pop_front()?;
        let response = match (question, answer) {
            (Question::Counters, FromPlane::Counters(c)) => Response::json(200, &views::Counters::from(&*c)),
            (Question::Flows { .. }, FromPlane::Flows(page)) => Response::json(200, &page),
            (Question::Flow { .. }, FromPlane::Flow(Some(detail))) => Response::json(200, &detail),
            (Question::Flow { id }, FromPlane::Flow(None)) => {
                Response::error(404, &format!("no flow {id}; it may have ended"))
            }
            (Question::Stats, FromPlane::Stats(stats)) => Response::json(200, &StatsView::from(&*stats)),
            (Question::Metrics(None, _), FromPlane::Stats(stats)) => {
                self.ask(Question::Metrics(Some(stats), Vec::new()), reply, plane);
                return None;
            }
            (Question::Metrics(Some(stats), mut so_far), FromPlane::Ports(page)) => {
                let more = page.next.is_some() && !page.ports.is_empty();
                so_far.extend(page.ports);
                if more {
                    self.ask(Question::Metrics(Some(stats), so_far), reply, plane);
                    return None;
                }
                let text = metrics::text(&stats, &self.ports, &so_far);
                Response::text(200, metrics::CONTENT_TYPE, text)
            }
            (Question::Ports(mut so_far), FromPlane::Ports(page)) => {
                let more = page.next.is_some() && !page.ports.is_empty();
                so_far.extend(page.ports);
                if more {
                    self.ask(Question::Ports(so_far), reply, plane);
                    return None;
                }
                Response::json(200, &routes::all_ports(&self.ports, &so_far))
            }
            (Question::Port(id), FromPlane::Ports(page)) => routes::one_port(&self.ports, id, &page.ports),
            _ => Response::error(500, "the data plane answered another question"),
        };
        let _ = reply.send(response);
        None
    }

    /// What the namespace can do for relayed ports is known, or has changed. Said once in the log if it is less than the
    /// ports want.
    ///
    /// # Errors
    /// Those of [`Ports::set_inside`].
    pub fn set_inside(&mut self, inside: Inside, plane: &Channel) -> Result<(), MsgError> {
        let why = path::why(&inside);
        let fell_back = self.ports.set_inside(inside, plane)?;
        if fell_back && let Some(why) = why {
            self.say(&why);
        }
        Ok(())
    }

    fn say(&mut self, why: &str) {
        if !std::mem::replace(&mut self.said, true) {
            tracing::warn!("{why}");
        }
    }

    /// There is no socket factory any more, because of `why`: what was relayed goes through the tap from now on.
    ///
    /// # Errors
    /// Those of [`Ports::set_inside`].
    pub fn relaying_is_over(&mut self, why: &str, plane: &Channel) -> Result<(), MsgError> {
        if self.ports.set_inside(Inside::Gone, plane)? {
            self.say(why);
        }
        Ok(())
    }

    /// Another plane has taken the place of the one that was asked: it gets all ports, and who waited is told.
    ///
    /// # Errors
    /// Those of [`Ports::publish_all`].
    pub fn plane_replaced(&mut self, plane: &Channel) -> Result<(), MsgError> {
        for (_, reply) in self.waiting.drain(..) {
            let _ = reply.send(gone("it was replaced"));
        }
        self.ports.publish_all(plane)
    }
}

/// Hands the connection to the plane, behind the answer.
fn switch(stream: &OwnedFd, message: &ToPlane, plane: &Channel) -> Response {
    // Nothing else waits in the socket, so it has room.
    let written = send(stream.as_raw_fd(), SWITCHING, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
    if written != Ok(SWITCHING.len()) {
        return Response::error(503, "the connection takes no answer");
    }
    // If the plane is gone the connection ends with our copy, which the client can tell.
    if let Err(e) = plane.send(message, &[stream.as_fd()]) {
        tracing::debug!("capture: {e}");
    }
    Response::empty(Response::SWITCHED)
}

fn gone(why: &str) -> Response {
    Response::error(503, &format!("the data plane did not answer ({why}); try again"))
}

#[cfg(test)]
mod tests;
