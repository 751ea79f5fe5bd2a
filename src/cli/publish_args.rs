//! The options about published ports that `run` and `attach` share.

use super::CliError;
use crate::config::{PortOptions, ProxyProtocol, SourceIp, Via};
use crate::control::Common;
use crate::control::ports::Asked;
use clap::{Args, ValueEnum};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SourceArg {
    Preserve,
    Gateway,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ViaArg {
    Relay,
    Tap,
}

impl From<ViaArg> for Via {
    fn from(arg: ViaArg) -> Self {
        match arg {
            ViaArg::Relay => Self::Relay,
            ViaArg::Tap => Self::Tap,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ProxyArg {
    V1,
    V2,
}

/// Options about published ports.
#[derive(Debug, Args)]
#[command(next_help_heading = "Published ports")]
pub struct PublishArgs {
    /// Publish a port of the guest, or a range; may be given again.
    ///
    /// SPEC is [IP:]HOST[-END]:[GUESTIP:]GUEST[-END][/tcp|udp], with IPv6 in brackets: 8080:80, 127.0.0.1:5353:53/udp,
    /// 8000-8010:8000-8010. Without HOST, or with 0, a free port is picked and named on standard error; of a range for one
    /// port of the guest (8000-8010:80) the first free one. Options may follow for this port alone:
    /// 8080:80,via=tap,source=gateway,proxy=v1
    #[arg(short = 'p', long, value_name = "SPEC")]
    publish: Vec<String>,
    /// Which way clients get to the guest, for ports that do not say via=: sockets inside, or packets on the tap [default:
    /// relay, and tap where the kernel does not let a relay keep the client's address]
    #[arg(long, value_enum, value_name = "PATH")]
    via: Option<ViaArg>,
    /// Whom the guest sees, for ports that do not say source= [default: preserve]
    #[arg(long, value_enum, value_name = "WHOM")]
    source_ip: Option<SourceArg>,
    /// Send the PROXY header ahead of each TCP connection, for ports that do not say proxy= [default: none]
    #[arg(long, value_enum, value_name = "VERSION")]
    proxy_protocol: Option<ProxyArg>,
}

impl PublishArgs {
    /// Puts the checked options into `common`.
    ///
    /// # Errors
    /// [`CliError::Option`] with what is wrong.
    pub fn add_to(self, mut common: Common) -> Result<Common, CliError> {
        common.port_defaults = PortOptions {
            via: self.via.map(Via::from),
            source_ip: self.source_ip.map(|whom| match whom {
                SourceArg::Preserve => SourceIp::Preserve,
                SourceArg::Gateway => SourceIp::Gateway,
            }),
            proxy_protocol: self.proxy_protocol.map(|version| match version {
                ProxyArg::V1 => ProxyProtocol::V1,
                ProxyArg::V2 => ProxyProtocol::V2,
            }),
        };
        let specs = self.publish.iter().map(|text| text.parse().map(Asked::Spec));
        common.ports = specs.collect::<Result<_, _>>().map_err(CliError::option("--publish"))?;
        Ok(common)
    }
}
