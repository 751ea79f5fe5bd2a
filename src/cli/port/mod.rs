//! `ringtap port add|rm|ls`: the published ports of a running instance, through its API.

pub mod client;

use super::CliError;
use super::instance::InstanceArgs;
use super::publish_args::ViaArg;
use super::table::table as columns;
use crate::config::PortSpec;
use crate::control::api::views::{AddPort, PortView};
use clap::{Args, Subcommand};
use client::ClientError;

/// Options of `port`.
#[derive(Debug, Args)]
pub struct PortArgs {
    #[command(flatten)]
    instance: InstanceArgs,
    #[command(subcommand)]
    verb: PortVerb,
}

#[derive(Debug, Subcommand)]
enum PortVerb {
    /// Publish ports; prints the id of each and what it became
    Add {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
        /// Which way clients get to the guest, for those that do not say via=
        #[arg(long, value_enum, value_name = "PATH")]
        via: Option<ViaArg>,
        /// As for `run -p`: [IP:]HOST[-END]:[GUESTIP:]GUEST[-END][/tcp|udp][,via=..][,source=..][,proxy=..]
        #[arg(required = true, value_name = "SPEC")]
        specs: Vec<String>,
    },
    /// Remove ports, and end what came through them
    #[command(alias = "remove")]
    Rm {
        /// Connections that are open stay
        #[arg(long)]
        keep_connections: bool,
        /// As `add` printed and `ls` lists them
        #[arg(required = true, value_name = "ID")]
        ids: Vec<u32>,
    },
    /// List ports
    #[command(alias = "list")]
    Ls {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
}

impl PortArgs {
    /// Does it.
    ///
    /// # Errors
    /// [`CliError`].
    pub fn run(self) -> Result<u8, CliError> {
        let find = || self.instance.find();
        match self.verb {
            PortVerb::Add { json, via, mut specs } => {
                // All are checked before the first is published.
                for spec in &mut specs {
                    let mut parsed = spec.parse::<PortSpec>().map_err(CliError::option("SPEC"))?;
                    if let (None, Some(via)) = (parsed.options.via, via) {
                        parsed.options.via = Some(via.into());
                        *spec = parsed.to_string();
                    }
                }
                let client = find()?;
                for spec in specs {
                    let body = serde_json::to_string(&AddPort { spec }).map_err(ClientError::answer)?;
                    let body = client.call("POST", "/ringtap/v1/ports", Some(&body))?;
                    let port: PortView = serde_json::from_slice(&body).map_err(ClientError::answer)?;
                    let line = if json { object(&port)? } else { format!("{} {}\n", port.id, port.spec) };
                    client::print(&line);
                }
            }
            PortVerb::Rm { keep_connections, ids } => {
                let client = find()?;
                let connections = if keep_connections { "keep" } else { "end" };
                for id in ids {
                    let path = format!("/ringtap/v1/ports/{id}?connections={connections}");
                    client.call("DELETE", &path, None)?;
                    client::print(&format!("{id}\n"));
                }
            }
            PortVerb::Ls { json } => {
                let body = find()?.call("GET", "/ringtap/v1/ports", None)?;
                let ports: Vec<PortView> = serde_json::from_slice(&body).map_err(ClientError::answer)?;
                let text = if json {
                    ports.iter().map(object).collect::<Result<String, _>>()?
                } else {
                    table(&ports)
                };
                client::print(&text);
            }
        }
        Ok(0)
    }
}

fn object(port: &PortView) -> Result<String, ClientError> {
    serde_json::to_string(port).map(|text| text + "\n").map_err(ClientError::answer)
}

/// One line a port.
fn table(ports: &[PortView]) -> String {
    let head = ["ID", "PORT", "VIA", "SOURCE", "PROXY", "OPEN", "ACCEPTED", "UP", "DOWN"].map(str::to_owned);
    let rows = ports.iter().map(|p| {
        let count = |f: fn(&crate::msg::PortCounters) -> u64| p.counters.as_ref().map_or(0, f).to_string();
        [
            p.id.to_string(),
            p.spec.clone(),
            p.via.clone(),
            p.source_ip.clone(),
            p.proxy_protocol.clone().unwrap_or_else(|| "-".to_owned()),
            count(|c| c.open),
            count(|c| c.accepted),
            count(|c| c.bytes_up),
            count(|c| c.bytes_down),
        ]
    });
    columns(std::iter::once(head).chain(rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_fit_and_lines_do_not_trail() {
        let port = PortView {
            id: crate::config::PortId(7),
            spec: "8080:80/tcp".into(),
            protocol: "tcp".into(),
            host_ip: None,
            host_port: 8080,
            guest_ip: None,
            guest_port: 80,
            count: 1,
            picked: false,
            via: "relay".into(),
            source_ip: "preserve".into(),
            proxy_protocol: None,
            counters: None,
        };
        assert_eq!(
            table(&[port]),
            "ID  PORT         VIA    SOURCE    PROXY  OPEN  ACCEPTED  UP  DOWN\n\
             7   8080:80/tcp  relay  preserve  -      0     0         0   0\n"
        );
        assert_eq!(table(&[]).lines().count(), 1);
    }
}
