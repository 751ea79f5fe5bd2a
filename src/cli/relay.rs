//! `ringtap relay LISTEN TARGET`: a relay by itself, without namespaces.

use super::CliError;
use crate::plane::relays::standalone_udp;
use crate::relay::udp::Limits;
use clap::Args;
use std::net::SocketAddr;
use std::time::Duration;

/// Options of `ringtap relay`.
#[derive(Debug, Args)]
pub struct RelayArgs {
    /// Where to listen: ADDRESS:PORT/udp
    listen: String,
    /// Where to relay to: ADDRESS:PORT
    target: SocketAddr,
    /// Seconds that a UDP mapping lives after its last datagram either way
    #[arg(long, default_value_t = 90.0, value_name = "SECONDS")]
    udp_idle: f64,
    /// Seconds that a UDP mapping lives which was never answered
    #[arg(long, default_value_t = 30.0, value_name = "SECONDS")]
    udp_unanswered: f64,
}

impl RelayArgs {
    /// Relays until it is killed.
    pub fn run(&self) -> Result<u8, CliError> {
        let listen = self.listen.strip_suffix("/udp").ok_or("a port of a relay is ADDRESS:PORT/udp");
        let listen: SocketAddr = listen
            .map_err(CliError::option("LISTEN"))?
            .parse()
            .map_err(|e| CliError::option("LISTEN")(format!("{e}: give ADDRESS:PORT/udp")))?;
        let seconds = |option, s| Duration::try_from_secs_f64(s).map_err(CliError::option(option));
        let limits = Limits {
            idle: seconds("--udp-idle", self.udp_idle)?,
            unanswered: seconds("--udp-unanswered", self.udp_unanswered)?,
            ..Limits::default()
        };
        let listener = standalone_udp::listen(listen)
            .map_err(|e| CliError::option("LISTEN")(format!("cannot listen on {listen}: {e}")))?;
        // A port of 0 is known only now; and whoever waits for the relay may go on.
        let at = listener.local_addr().map_err(|e| CliError::option("LISTEN")(e))?;
        println!("{at}/udp");
        match standalone_udp::run(listener, self.target, limits)? {}
    }
}
