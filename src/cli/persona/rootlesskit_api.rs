//! A client of RootlessKit's API: what rootlessctl and the proxies of Docker ask an instance, be it ours or RootlessKit's.

use crate::cli::port::client::{Client, ClientError};
use crate::config::RootlessKitSpec;
use crate::control::api::views::{AddPort, Info, PortView, Status, Target};
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::Path;

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
