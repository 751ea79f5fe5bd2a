//! A generator, as the one that started it sees it.

use super::{Latency, Reading, Role, Said, Task};
use crate::lab::{LabError, Place, Running};
use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// How long an order may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a generator did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// It does not start.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// It said why.
    #[error("{0}")]
    Failed(String),
    /// It ended without a word.
    #[error("a load generator ended without a word")]
    Ended,
    /// It does not answer.
    #[error("stalled: nothing came of it within {:.1} s", .0.as_secs_f64())]
    Late(Duration),
    /// It cannot be told anything.
    #[error("a load generator takes no orders: {0}")]
    Deaf(#[from] io::Error),
}

/// A running generator; it ends when dropped.
#[derive(Debug)]
pub struct Agent {
    orders: ChildStdin,
    said: Receiver<Said>,
    // Last, so that its end is not waited for by the reader.
    _running: Running,
}

impl Agent {
    /// Starts `program`, this binary as it is seen in `place`, and waits until it says that it is ready.
    ///
    /// # Errors
    /// [`AgentError`]; its own words where it has any.
    pub fn start(
        place: Place<'_>,
        program: &Path,
        role: &Role,
        patience: Duration,
    ) -> Result<Self, AgentError> {
        let role = serde_json::to_string(role).map_err(io::Error::from)?;
        let mut command = place.command(&program.to_string_lossy())?;
        command.args(["bench-load", &role]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut running = place.spawn(&mut command)?;
        let (Some(orders), Some(out)) = (running.child().stdin.take(), running.child().stdout.take()) else {
            return Err(AgentError::Ended);
        };
        let (sender, said) = channel();
        std::thread::Builder::new().name("generator".into()).spawn(move || {
            for line in BufReader::new(out).lines() {
                let said = line.ok().and_then(|l| serde_json::from_str(&l).ok());
                // Nobody listens any more, or it is no line of ours.
                if said.is_none_or(|s| sender.send(s).is_err()) {
                    return;
                }
            }
        })?;
        let agent = Self { orders, said, _running: running };
        match agent.hear(patience)? {
            Said::Ready => Ok(agent),
            _ => Err(AgentError::Ended),
        }
    }

    /// A client of `server` that does `task`.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn client(
        place: Place<'_>,
        program: &Path,
        server: SocketAddr,
        task: Task,
        patience: Duration,
    ) -> Result<Self, AgentError> {
        Self::start(place, program, &Role::Client { server, task }, patience)
    }

    fn hear(&self, patience: Duration) -> Result<Said, AgentError> {
        match self.said.recv_timeout(patience) {
            Ok(Said::Failed(why)) => Err(AgentError::Failed(why)),
            Ok(said) => Ok(said),
            Err(RecvTimeoutError::Timeout) => Err(AgentError::Late(patience)),
            Err(RecvTimeoutError::Disconnected) => Err(AgentError::Ended),
        }
    }

    fn order(&self, order: &str) -> Result<(), AgentError> {
        // Of one that has failed, its last words say more than a closed pipe.
        match (&self.orders).write_all(format!("{order}\n").as_bytes()) {
            Ok(()) => Ok(()),
            Err(e) => match self.hear(Duration::from_millis(100)) {
                Err(AgentError::Failed(why)) => Err(AgentError::Failed(why)),
                _ => Err(e.into()),
            },
        }
    }

    fn reading(&self, order: &str) -> Result<Reading, AgentError> {
        self.order(order)?;
        match self.hear(PATIENCE)? {
            Said::Reading(reading) => Ok(reading),
            _ => Err(AgentError::Ended),
        }
    }

    /// Latencies count from now on.
    ///
    /// # Errors
    /// [`AgentError`].
    pub fn begin(&self) -> Result<Reading, AgentError> {
        self.reading("start")
    }

    /// Its counters.
    ///
    /// # Errors
    /// [`AgentError`].
    pub fn mark(&self) -> Result<Reading, AgentError> {
        self.reading("mark")
    }

    /// To a server: a new load begins, and what is left of the one before does not count.
    ///
    /// # Errors
    /// [`AgentError`].
    pub fn next(&self) -> Result<Reading, AgentError> {
        self.reading("next")
    }

    /// Datagrams a second, for the end that sends; 0 is none.
    ///
    /// # Errors
    /// [`AgentError`].
    pub fn pace(&self, pace: f64) -> Result<(), AgentError> {
        self.order(&format!("pace {pace:.0}"))
    }

    /// Ends the load; what latencies there were.
    ///
    /// # Errors
    /// [`AgentError`].
    pub fn finish(self) -> Result<Option<Latency>, AgentError> {
        self.order("stop")?;
        match self.hear(PATIENCE)? {
            Said::Done(outcome) => Ok(outcome.latency),
            _ => Err(AgentError::Ended),
        }
    }
}
