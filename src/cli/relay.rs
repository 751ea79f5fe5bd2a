//! `ringtap relay LISTEN TARGET`: a relay by itself, without namespaces.

use super::CliError;
use crate::plane::relays::stop::Stop;
use crate::plane::relays::{standalone_tcp, standalone_udp};
use crate::relay::udp::Limits;
use crate::relay::{Choice, Gear};
use clap::{Args, ValueEnum};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

/// Connections that wait to be accepted, at most; the kernel caps it (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;

/// Why a relay does not run.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// Of connections.
    #[error(transparent)]
    Tcp(#[from] standalone_tcp::RelayError),
    /// Of datagrams.
    #[error(transparent)]
    Udp(#[from] standalone_udp::RelayError),
}

/// How the bytes of connections get across.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GearArg {
    /// Whatever serves best
    Auto,
    /// Through a buffer
    Copy,
    /// Through a pipe, moved by kernel threads
    SpliceSqe,
    /// Through a pipe, moved by the loop
    SpliceCall,
}

/// Options of `ringtap relay`.
#[derive(Debug, Args)]
pub struct RelayArgs {
    /// Where to listen: ADDRESS:PORT[/tcp|/udp]
    listen: String,
    /// Where to relay to: ADDRESS:PORT
    target: SocketAddr,
    /// How the bytes of connections get across
    #[arg(long, value_enum, default_value = "auto")]
    gear: GearArg,
    /// Seconds that a UDP mapping lives after its last datagram either way
    #[arg(long, default_value_t = 90.0, value_name = "SECONDS")]
    udp_idle: f64,
    /// Seconds that a UDP mapping lives which was never answered
    #[arg(long, default_value_t = 30.0, value_name = "SECONDS")]
    udp_unanswered: f64,
}

impl RelayArgs {
    /// Relays until a signal asks for the end; the exit code is 128 and its number, as a shell counts.
    ///
    /// # Errors
    /// [`CliError`].
    pub fn run(&self) -> Result<u8, CliError> {
        let (text, udp) = match self.listen.strip_suffix("/udp") {
            Some(text) => (text, true),
            None => (self.listen.strip_suffix("/tcp").unwrap_or(&self.listen), false),
        };
        let listen: SocketAddr = text.parse().map_err(|e| {
            CliError::option("LISTEN")(format!("{e}: give ADDRESS:PORT[/tcp|/udp], IPv6 in brackets"))
        })?;
        if udp { self.datagrams(listen) } else { self.connections(listen) }
    }

    fn connections(&self, listen: SocketAddr) -> Result<u8, CliError> {
        let listener = TcpListener::bind(listen).map_err(cannot_listen(listen))?;
        // The library's backlog is 128: a burst of clients should find room.
        let _ = socket2::SockRef::from(&listener).listen(BACKLOG);
        // A port of 0 is known only now; and whoever waits for the relay may go on, to its end if need be.
        let at = listener.local_addr().map_err(CliError::option("LISTEN"))?;
        let stop = Stop::new().map_err(standalone_tcp::RelayError::from).map_err(RelayError::from)?;
        println!("{at}/tcp");
        let choice = match self.gear {
            GearArg::Auto => Choice::Auto,
            GearArg::Copy => Choice::Only(Gear::Copy),
            GearArg::SpliceSqe => Choice::Only(Gear::SpliceSqe),
            GearArg::SpliceCall => Choice::Only(Gear::SpliceCall),
        };
        let signal = standalone_tcp::run(listener, self.target, choice, &stop).map_err(RelayError::from)?;
        Ok(128 + signal)
    }

    fn datagrams(&self, listen: SocketAddr) -> Result<u8, CliError> {
        let seconds = |option, s| Duration::try_from_secs_f64(s).map_err(CliError::option(option));
        let limits = Limits {
            idle: seconds("--udp-idle", self.udp_idle)?,
            unanswered: seconds("--udp-unanswered", self.udp_unanswered)?,
            ..Limits::default()
        };
        let listener = standalone_udp::listen(listen).map_err(cannot_listen(listen))?;
        let at = listener.local_addr().map_err(CliError::option("LISTEN"))?;
        let stop = Stop::new().map_err(standalone_udp::RelayError::from).map_err(RelayError::from)?;
        println!("{at}/udp");
        let signal = standalone_udp::run(listener, self.target, limits, &stop).map_err(RelayError::from)?;
        Ok(128 + signal)
    }
}

fn cannot_listen(at: SocketAddr) -> impl Fn(std::io::Error) -> CliError {
    move |e| CliError::option("LISTEN")(format!("cannot listen on {at}: {e}; choose another address or port"))
}
