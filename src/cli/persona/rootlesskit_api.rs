//! A client of RootlessKit's API: what rootlessctl and the proxies of Docker ask an instance, be it ours or RootlessKit's.

use crate::cli::port::client::{Client, ClientError};
use crate::config::{PortId, RootlessKitSpec};
use crate::control::api::views::{AddPort, PortView, Target};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::Path;

/// Answer to `GET /v1/info`. What is missing stays out when it is shown again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Info {
    /// Of the API.
    pub api_version: String,
    /// Of the program.
    pub version: String,
    /// Absolute.
    pub state_dir: String,
    /// The first process of the namespaces.
    #[serde(rename = "childPID")]
    pub child_pid: i32,
    /// None for the host's network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_driver: Option<NetworkDriver>,
    /// None if no ports can be published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port_driver: Option<PortDriver>,
}

/// Part of [`Info`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkDriver {
    /// Its name.
    pub driver: String,
    /// Resolvers inside.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<String>,
    /// The guest's address.
    #[serde(rename = "childIP", skip_serializing_if = "String::is_empty")]
    pub child_ip: String,
    /// That may change.
    #[serde(rename = "dynamicChildIP", skip_serializing_if = "std::ops::Not::not")]
    pub dynamic_child_ip: bool,
    /// IPv6 works inside.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ipv6: bool,
}

/// Part of [`Info`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortDriver {
    /// Its name.
    pub driver: String,
    /// What can be published.
    pub protos: Vec<String>,
    /// Servers on the guest's loopback cannot be reached.
    #[serde(rename = "disallowLoopbackChildIP", skip_serializing_if = "std::ops::Not::not")]
    pub disallow_loopback_child_ip: bool,
}

/// A published port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its id.
    pub id: PortId,
    /// As it was asked for.
    pub spec: RootlessKitSpec,
}

/// An instance.
#[derive(Debug)]
pub struct Api(Client);

impl Api {
    /// The one whose API is served at `socket`.
    pub fn at(socket: &Path) -> Self {
        Self(Client::at(socket))
    }

    /// What it is.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn info(&self) -> Result<Info, ClientError> {
        parse(&self.0.call("GET", "/v1/info", None)?)
    }

    /// Its ports. RootlessKit says `null` for none.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn ports(&self) -> Result<Vec<Status>, ClientError> {
        Ok(parse::<Option<Vec<Status>>>(&self.0.call("GET", "/v1/ports", None)?)?.unwrap_or_default())
    }

    /// Publishes a port.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn add(&self, spec: &RootlessKitSpec) -> Result<Status, ClientError> {
        let body = serde_json::to_string(spec).map_err(ClientError::answer)?;
        parse(&self.0.call("POST", "/v1/ports", Some(&body))?)
    }

    /// Publishes a port by our own route, with a specification in our own words; its id.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::Status`] with 404 from an instance that is RootlessKit's.
    pub fn publish_direct(&self, spec: &str) -> Result<i64, ClientError> {
        let add = AddPort { spec: spec.to_owned() };
        let body = serde_json::to_string(&add).map_err(ClientError::answer)?;
        let port: PortView = parse(&self.0.call("POST", "/ringtap/v1/ports", Some(&body))?)?;
        Ok(port.id.0.into())
    }

    /// What is published to `from` inside goes to `to` from now on.
    ///
    /// # Errors
    /// As for [`Self::publish_direct`].
    pub fn redirect(&self, protocol: &str, from: SocketAddr, to: SocketAddr) -> Result<(), ClientError> {
        let target = Target { protocol: protocol.to_owned(), from, to };
        let body = serde_json::to_string(&target).map_err(ClientError::answer)?;
        self.0.call("POST", "/ringtap/v1/targets", Some(&body)).map(drop)
    }

    /// Removes one, and ends what came through it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn remove(&self, id: i64) -> Result<(), ClientError> {
        self.0.call("DELETE", &format!("/v1/ports/{id}"), None).map(drop)
    }
}

fn parse<T: for<'a> Deserialize<'a>>(body: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(ClientError::answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rootlesskit_answers_is_shown_as_it_came() {
        for text in [
            r#"{"apiVersion":"1.1.1","version":"1.1.0","stateDir":"/tmp/x","childPID":7,"networkDriver":{"driver":"slirp4netns","dns":["10.0.2.3"],"childIP":"10.0.2.100"},"portDriver":{"driver":"builtin","protos":["tcp"]}}"#,
            r#"{"apiVersion":"1.1.2","version":"3.1.0","stateDir":"/tmp/x","childPID":7,"networkDriver":{"driver":"pasta","childIP":"10.0.2.100","ipv6":true},"portDriver":{"driver":"x","protos":[],"disallowLoopbackChildIP":true}}"#,
            r#"{"apiVersion":"1.1.2","version":"3.1.0","stateDir":"/tmp/x","childPID":7}"#,
        ] {
            let info: Info = parse(text.as_bytes()).unwrap();
            assert_eq!(serde_json::to_string(&info).unwrap(), text);
        }
        assert_eq!(parse::<Option<Vec<Status>>>(b"null\n").unwrap(), None);
    }
}
