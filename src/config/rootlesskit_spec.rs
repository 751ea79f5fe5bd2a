//! A port as RootlessKit's API and command line say it, kept as it came: clients find theirs by comparing.
//!
//! Text: `PARENTIP:PARENTPORT:[CHILDIP:]CHILDPORT/PROTO`, IPv6 in brackets, PARENTIP may be empty, PROTO is one of tcp,
//! tcp4, tcp6, udp, udp4, udp6. [`RootlessKitSpec::resolve`] checks it in RootlessKit's words and order, and gives it
//! its meaning: `tcp` with no address, 0.0.0.0 or :: is both families; without a child address the guest's loopback is
//! meant, except that a parent address which is neither of these nor the host's own first one is dialled inside as it
//! is (nerdctl's rules for addresses inside match on it).

use super::port_spec::{self, Bracketed, Families, HostPorts, PortOptions, PortSpec};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

/// The protocols that can be published, as the API lists them.
pub const PROTOCOLS: [&str; 6] = ["tcp", "tcp4", "tcp6", "udp", "udp4", "udp6"];

/// `PortSpec` of RootlessKit's API. Unchecked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RootlessKitSpec {
    /// One of [`PROTOCOLS`].
    #[serde(skip_serializing_if = "String::is_empty")]
    pub proto: String,
    /// Address of the host; empty: any.
    #[serde(rename = "parentIP", skip_serializing_if = "String::is_empty")]
    pub parent_ip: String,
    /// Port of the host.
    #[serde(rename = "parentPort", skip_serializing_if = "is_zero")]
    pub parent_port: i64,
    /// Port in the guest.
    #[serde(rename = "childPort", skip_serializing_if = "is_zero")]
    pub child_port: i64,
    /// Address in the guest; may be empty.
    #[serde(rename = "childIP", skip_serializing_if = "String::is_empty")]
    pub child_ip: String,
}

fn is_zero(n: &i64) -> bool {
    *n == 0
}

/// What is wrong with it.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum RootlessKitSpecError {
    /// Not of the form.
    #[error("unexpected PortSpec string: {0:?}; use PARENTIP:PARENTPORT:[CHILDIP:]CHILDPORT/PROTO")]
    Form(String),
    /// Not one that RootlessKit knows.
    #[error("unknown proto: {0:?}")]
    Proto(String),
    /// One that RootlessKit knows, but no driver of it carries.
    #[error("unsupported port protocol sctp")]
    Sctp,
    /// Not an address.
    #[error("invalid ParentIP: {0:?}")]
    ParentIp(String),
    /// Not an address.
    #[error("invalid ChildIP: {0:?}")]
    ChildIp(String),
    /// Not 1 to 65535.
    #[error("invalid ParentPort: {0}")]
    ParentPort(i64),
    /// Not 1 to 65535.
    #[error("invalid ChildPort: {0}")]
    ChildPort(i64),
}

impl RootlessKitSpec {
    /// Checks it and says what it means. `gateway` is the host's first address that is not loopback.
    ///
    /// # Errors
    /// [`RootlessKitSpecError`].
    pub fn resolve(
        &self,
        gateway: impl FnOnce() -> Option<Ipv4Addr>,
    ) -> Result<PortSpec, RootlessKitSpecError> {
        use RootlessKitSpecError as E;
        let (udp, families) = match self.proto.as_str() {
            "tcp" => (false, Families::Any),
            "tcp4" => (false, Families::V4),
            "tcp6" => (false, Families::V6),
            "udp" => (true, Families::Any),
            "udp4" => (true, Families::V4),
            "udp6" => (true, Families::V6),
            "sctp" => return Err(E::Sctp),
            other => return Err(E::Proto(other.to_owned())),
        };
        let host_ip = ip(&self.parent_ip).map_err(E::ParentIp)?;
        let child_ip = ip(&self.child_ip).map_err(E::ChildIp)?;
        let port = |number: i64| u16::try_from(number).ok().filter(|p| *p != 0);
        let host_port = port(self.parent_port).ok_or(E::ParentPort(self.parent_port))?;
        let guest_port = port(self.child_port).ok_or(E::ChildPort(self.child_port))?;
        let specific = || host_ip.filter(|ip| !ip.is_unspecified());
        let guest_ip = child_ip.or_else(|| specific().filter(|ip| gateway().map(IpAddr::V4) != Some(*ip)));
        let (host, count, options) = (HostPorts::From(host_port), 1, PortOptions::default());
        Ok(PortSpec { udp, families, host_ip, host, guest_ip, guest_port, count, options })
    }
}

fn ip(text: &str) -> Result<Option<IpAddr>, String> {
    match text {
        "" => Ok(None),
        text => text.parse::<IpAddr>().map(|ip| Some(ip.to_canonical())).map_err(|_| text.to_owned()),
    }
}

impl FromStr for RootlessKitSpec {
    type Err = RootlessKitSpecError;

    fn from_str(text: &str) -> Result<Self, RootlessKitSpecError> {
        let form = || RootlessKitSpecError::Form(text.to_owned());
        let (ports, proto) = text.rsplit_once('/').ok_or_else(form)?;
        if !PROTOCOLS.contains(&proto) && proto != "sctp" {
            return Err(RootlessKitSpecError::Proto(proto.to_owned()));
        }
        let mut parts = [""; 4];
        let (parent_ip, parent_port, child_ip, child_port) = match port_spec::split(ports, &mut parts) {
            Some(3) => (parts[0], parts[1], "", parts[2]),
            Some(4) => (parts[0], parts[1], parts[2], parts[3]),
            _ => return Err(form()),
        };
        let address = |part: &str| match part {
            "" => Ok(String::new()),
            part => port_spec::address(part).map(|ip| ip.to_string()).map_err(|_| form()),
        };
        let port = |part: &str| port_spec::port(part).map(i64::from).ok_or_else(form);
        Ok(Self {
            proto: proto.to_owned(),
            parent_ip: address(parent_ip)?,
            parent_port: port(parent_port)?,
            child_port: port(child_port)?,
            child_ip: address(child_ip)?,
        })
    }
}

impl fmt::Display for RootlessKitSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = |f: &mut fmt::Formatter<'_>, text: &str| match text.parse() {
            Ok(ip) => write!(f, "{}:", Bracketed(ip)),
            Err(_) => write!(f, "{text}:"),
        };
        address(f, &self.parent_ip)?;
        write!(f, "{}:", self.parent_port)?;
        if !self.child_ip.is_empty() {
            address(f, &self.child_ip)?;
        }
        write!(f, "{}/{}", self.child_port, self.proto)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spec(
        proto: &str,
        parent_ip: &str,
        parent_port: i64,
        child_ip: &str,
        child_port: i64,
    ) -> RootlessKitSpec {
        let (proto, parent_ip, child_ip) = (proto.into(), parent_ip.into(), child_ip.into());
        RootlessKitSpec { proto, parent_ip, parent_port, child_port, child_ip }
    }

    #[test]
    fn the_vectors_of_rootlesskits_own_test() {
        for (text, expected) in [
            ("127.0.0.1:8080:80/tcp", spec("tcp", "127.0.0.1", 8080, "", 80)),
            ("127.0.0.1:8080:80/tcp4", spec("tcp4", "127.0.0.1", 8080, "", 80)),
            ("127.0.0.1:8080:10.0.2.100:80/tcp", spec("tcp", "127.0.0.1", 8080, "10.0.2.100", 80)),
            ("[::1]:8080:80/tcp", spec("tcp", "::1", 8080, "", 80)),
            ("[::1]:8080:[::2]:80/udp", spec("udp", "::1", 8080, "::2", 80)),
            (":8080:80/tcp", spec("tcp", "", 8080, "", 80)),
        ] {
            assert_eq!(text.parse(), Ok(expected.clone()), "{text}");
            assert_eq!(expected.to_string(), text);
        }
        for bad in [
            "bad",
            "127.0.0.1:8080:80/tcp,127.0.0.1:4040:40/tcp",
            "8080",
            "8080:80/tcp",
            "127.0.0.1:8080:80",
            "127.0.0.1:8080:80/TCP",
            "127.0.0.1:8080-8090:80-90/tcp",
            "::1:8080:80/tcp",
        ] {
            assert!(bad.parse::<RootlessKitSpec>().is_err(), "{bad}");
        }
    }

    #[test]
    fn checks_come_in_rootlesskits_order_and_words() {
        let says = |s: RootlessKitSpec| s.resolve(|| None).unwrap_err().to_string();
        assert_eq!(says(RootlessKitSpec::default()), "unknown proto: \"\"");
        assert_eq!(says(spec("TCP", "x", 0, "", 0)), "unknown proto: \"TCP\"");
        assert_eq!(says(spec("sctp", "", 80, "", 80)), "unsupported port protocol sctp");
        assert_eq!(says(spec("tcp", "x", 0, "y", 0)), "invalid ParentIP: \"x\"");
        assert_eq!(says(spec("tcp", "", 0, "y", 0)), "invalid ChildIP: \"y\"");
        assert_eq!(says(spec("tcp", "", 0, "", 80)), "invalid ParentPort: 0");
        assert_eq!(says(spec("tcp", "", 80, "", 1_000_000)), "invalid ChildPort: 1000000");
        for ports in [20, 500, 1337, 65000] {
            assert!(spec("udp6", "", ports, "", ports).resolve(|| None).is_ok());
        }
    }

    #[test]
    fn the_address_inside_follows_from_the_one_outside() {
        let own = Ipv4Addr::new(198, 51, 100, 1);
        let inside = |parent: &str, child: &str| {
            spec("tcp", parent, 80, child, 80)
                .resolve(|| Some(own))
                .unwrap()
                .guest_ip
                .map(|ip| ip.to_string())
        };
        for any in ["", "0.0.0.0", "::", "198.51.100.1"] {
            assert_eq!(inside(any, ""), None, "{any}");
            assert_eq!(inside(any, "10.0.2.100").as_deref(), Some("10.0.2.100"));
        }
        assert_eq!(inside("127.0.0.2", "").as_deref(), Some("127.0.0.2"));
        assert_eq!(inside("203.0.113.9", "").as_deref(), Some("203.0.113.9"));
        assert_eq!(inside("::1", "127.0.0.1").as_deref(), Some("127.0.0.1"));
    }

    #[test]
    fn json_is_that_of_the_api() {
        let text = r#"{"proto":"tcp4","parentIP":"0.0.0.0","parentPort":8090,"childPort":8090,"childIP":"127.0.0.1"}"#;
        let parsed: RootlessKitSpec = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&parsed).unwrap(), text);
        assert_eq!(serde_json::to_string(&RootlessKitSpec::default()).unwrap(), "{}");
    }

    proptest! {
        #[test]
        fn display_and_parse_are_inverse(
            proto in prop::sample::select(&PROTOCOLS[..]),
            parent in prop::option::of(any::<IpAddr>()),
            child in prop::option::of(any::<IpAddr>()),
            ports in (1..=65535u16, 1..=65535u16),
        ) {
            let text = |ip: Option<IpAddr>| ip.map(|ip| ip.to_canonical().to_string()).unwrap_or_default();
            let spec = spec(proto, &text(parent), ports.0.into(), &text(child), ports.1.into());
            prop_assert_eq!(spec.to_string().parse::<RootlessKitSpec>(), Ok(spec));
        }

        #[test]
        fn no_text_panics(text in "[-0-9:./\\[\\]a-z]{0,40}", any in ".{0,40}") {
            let _ = (text.parse::<RootlessKitSpec>(), any.parse::<RootlessKitSpec>());
        }
    }
}
