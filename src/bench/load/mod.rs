//! The load generators: one program for either end, started in a place of the lab, told what to do over its standard input.
//!
//! Theory of operation. Sockets of another namespace are dear to make from outside, so each end is a process of its own that
//! runs there: a server ([`serve`]) that stays for all cells, and a client for each cell ([`tcp`], [`udp`]). Each has one
//! thread with a tokio-uring runtime, one that reads orders and answers them with the counters of [`meter`], and for datagrams
//! at a pace and streams of bulk one each with a ring of [`crate::ring`] ([`datagrams`], [`bulk`]):
//!
//! ```text
//!   -> ready          all connections are made, the load runs (or the server listens)
//!   start   -> reading    latencies count from now on
//!   mark    -> reading    bytes, operations and the time of the machine's clock
//!   next    -> reading    to a server: what connections from before still bring counts no more
//!   pace N                datagrams a second, for the end that sends
//!   stop    -> done       latencies; the program ends
//! ```
//!
//! The parent divides the difference of two readings of the *receiving* end by that of their times, so neither buffers nor
//! the orders' own delay count. A client whose load fails says so in one line and ends.
//!
//! What a connection is for is told by its first byte ([`Kind`]), so one port serves all loads.
//!
//! Limits: one thread an end, as iperf3 before 3.16 and `wrk -t 1` have it; with more cores a single generator may be what is
//! measured at many streams. `perf/run --only generators` compares with iperf3 and wrk.

pub mod agent;
mod bulk;
mod datagrams;
mod latency;
mod meter;
mod serve;
mod tcp;
mod udp;

pub use agent::{Agent, AgentError};
pub use latency::{Latency, QUANTILES};
pub use meter::Reading;

use bulk::Bulk;
use meter::{Meter, Phase};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of one write or read of bulk, as iperf3 has them.
const CHUNK: usize = 128 << 10;
/// Bytes of a datagram that goes one way.
pub const DATAGRAM: usize = 1400;
/// Entries of a generator's ring; charged to the user's locked memory.
const ENTRIES: u32 = 256;
/// How often the main task looks at the orders.
const GLANCE: Duration = Duration::from_millis(2);
/// How long a connection may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which way payload goes, as the client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
    /// Both at once.
    Both,
}

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Streams of as much as there is room for.
    Bulk {
        /// Which way.
        way: Way,
        /// At once.
        streams: u32,
    },
    /// Messages that are answered by as much, each sent when the last one is answered.
    Exchange {
        /// Of a message.
        bytes: u32,
        /// At once.
        connections: u32,
    },
    /// Connections made, used for one byte each way, and closed.
    Connect {
        /// At once.
        connections: u32,
    },
    /// Datagrams at a pace.
    Datagrams {
        /// Up or down.
        way: Way,
    },
    /// Datagrams that are answered, each client having one under way.
    RoundTrips {
        /// At once.
        clients: u32,
    },
    /// Connections that sit still.
    Hold {
        /// At once.
        connections: u32,
    },
}

/// Which end, and what for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The server: TCP and UDP at each address.
    Serve {
        /// Where. Addresses rather than the wildcard where the answers to datagrams must come from the address asked.
        at: Vec<SocketAddr>,
    },
    /// A client.
    Client {
        /// Of whom.
        server: SocketAddr,
        /// What it does.
        task: Task,
    },
}

/// What a generator says, a line of JSON each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// The load runs.
    Ready,
    /// Counters.
    Reading(Reading),
    /// The end.
    Done(Outcome),
    /// The load does not work, and why.
    Failed(String),
}

/// What a client has besides counters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Latencies since `start`.
    pub latency: Option<Latency>,
}

/// What a connection, or a datagram, is for: its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The client sends.
    Sink,
    /// The server sends.
    Give,
    /// Both send.
    Both,
    /// The server answers each message by the same.
    Echo,
    /// The server answers the one byte and closes.
    Once,
    /// The server answers the one byte and waits for the end.
    Hold,
    /// An HTTP request, of wrk: any page has five bytes.
    Http,
}

impl Kind {
    fn byte(self) -> u8 {
        match self {
            Self::Sink => b's',
            Self::Give => b'g',
            Self::Both => b'b',
            Self::Echo => b'e',
            Self::Once => b'o',
            Self::Hold => b'h',
            Self::Http => b'G',
        }
    }

    fn of(byte: u8) -> Option<Self> {
        let all = [Self::Sink, Self::Give, Self::Both, Self::Echo, Self::Once, Self::Hold, Self::Http];
        all.into_iter().find(|k| k.byte() == byte)
    }
}

/// What the tasks of one generator share.
struct Shared {
    meter: Arc<Meter>,
    latency: latency::Recorder,
    failure: std::cell::RefCell<Option<String>>,
    bulk: std::cell::OnceCell<Bulk>,
}

impl Shared {
    /// The thread of the streams of bulk; see [`Bulk::start`].
    fn bulk(&self, ends_matter: bool) -> io::Result<&Bulk> {
        match self.bulk.get() {
            Some(bulk) => Ok(bulk),
            None => {
                let made = Bulk::start(&self.meter, ends_matter)?;
                Ok(self.bulk.get_or_init(|| made))
            }
        }
    }

    /// Notes the end of a connection. The first failure counts, while the load runs.
    fn note(&self, what: io::Result<()>) {
        if let Err(e) = what
            && self.meter.phase() != Phase::Over
        {
            self.failure.borrow_mut().get_or_insert_with(|| e.to_string());
        }
    }
}

/// The program at either end; `role` is a [`Role`] in JSON.
///
/// # Errors
/// The role cannot be read, io_uring or a socket is refused. A client that fails later says so as [`Said::Failed`].
pub fn main(role: &str) -> io::Result<()> {
    let role: Role = serde_json::from_str(role)?;
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    let runtime = tokio_uring::Runtime::new(tokio_uring::builder().entries(ENTRIES))?;
    let meter = Arc::new(Meter::default());
    let shared = Rc::new(Shared {
        meter: meter.clone(),
        latency: latency::Recorder::new()?,
        failure: None.into(),
        bulk: std::cell::OnceCell::new(),
    });
    let outcome = runtime.block_on(async {
        match role {
            Role::Serve { at } => serve::listen(&shared, &at)?,
            Role::Client { server, task } => start(&shared, server, task).await?,
        }
        meter::say(&Said::Ready);
        meter::obey(meter.clone())?;
        loop {
            tokio::time::sleep(GLANCE).await;
            if let Some(failure) = shared.failure.borrow_mut().take().or_else(|| meter.failure()) {
                return Err(io::Error::other(failure));
            }
            if meter.phase() == Phase::Over {
                return Ok(Outcome { latency: shared.latency.summary() });
            }
        }
    });
    meter::say(&match outcome {
        Ok(outcome) => Said::Done(outcome),
        Err(e) => Said::Failed(e.to_string()),
    });
    // Its drop would wait for operations that never end, such as reads of connections that sit still.
    std::mem::forget(runtime);
    Ok(())
}

async fn start(shared: &Rc<Shared>, server: SocketAddr, task: Task) -> io::Result<()> {
    match task {
        Task::Bulk { way, streams } => tcp::bulk(shared, server, way, streams),
        Task::Exchange { bytes, connections } => tcp::exchange(shared, server, bytes, connections).await,
        Task::Connect { connections } => tcp::connect(shared, server, connections).await,
        Task::Hold { connections } => tcp::hold(shared, server, connections),
        Task::Datagrams { way } => datagrams::one_way(&shared.meter, server, way),
        Task::RoundTrips { clients } => udp::round_trips(shared, server, clients),
    }
}
