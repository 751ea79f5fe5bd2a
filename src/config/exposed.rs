//! A service on the host's loopback that the guest may reach at its gateway's address: one port, fixed at start.
//!
//! `PORT[/tcp|udp]`, or `HOSTPORT:GATEWAYPORT[/tcp|udp]` where the guest is to know it by another number. Both families:
//! the gateway's IPv4 address leads to 127.0.0.1, its IPv6 address to ::1.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// One such port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exposed {
    /// Datagrams rather than streams.
    pub udp: bool,
    /// Where the service listens.
    pub host_port: u16,
    /// What the guest dials.
    pub gateway_port: u16,
}

/// Not of that form.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{0:?} names no port; use PORT or HOSTPORT:GATEWAYPORT, 1 to 65535, and /udp for UDP, as in 5432 or 5353:53/udp"
)]
pub struct ExposedError(String);

impl FromStr for Exposed {
    type Err = ExposedError;

    fn from_str(text: &str) -> Result<Self, ExposedError> {
        let parse = || {
            let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
            let (host, gateway) = ports.split_once(':').unwrap_or((ports, ports));
            let udp = match protocol {
                "tcp" => false,
                "udp" => true,
                _ => return None,
            };
            Some(Self {
                udp,
                host_port: super::port_spec::port(host)?,
                gateway_port: super::port_spec::port(gateway)?,
            })
        };
        parse().ok_or_else(|| ExposedError(text.to_owned()))
    }
}

impl fmt::Display for Exposed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.host_port, self.gateway_port, if self.udp { "udp" } else { "tcp" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_number_or_two_and_a_protocol() {
        let exposed = |udp, host_port, gateway_port| Exposed { udp, host_port, gateway_port };
        assert_eq!("5432".parse(), Ok(exposed(false, 5432, 5432)));
        assert_eq!("5353:53/udp".parse(), Ok(exposed(true, 5353, 53)));
        assert_eq!(exposed(true, 5353, 53).to_string().parse(), Ok(exposed(true, 5353, 53)));
        for bad in ["", "0", "80:", ":80", "+80", "65536", "80/sctp", "80/", "1:2:3", "127.0.0.1:80", "80-90"]
        {
            assert!(bad.parse::<Exposed>().is_err(), "{bad}");
        }
    }
}
