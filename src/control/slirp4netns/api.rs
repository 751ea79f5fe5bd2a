//! What the API socket of slirp4netns understands: add_hostfwd, list_hostfwd, remove_hostfwd, as JSON.
//!
//! Descriptions of errors are upstream's, for callers search them; what the kernel said is beside them in `cause`. Beyond
//! upstream: `proto` may be missing without harm, ports are 1 to 65535 and nothing else, addresses of the host may be
//! IPv6, and the entries of a list are where upstream puts them and where its manual says they are.

use crate::config::port_spec::{Families, HostPorts};
use crate::config::{Network, PortId, PortOptions, PortSpec};
use crate::control::ports::{Asked, Entry, Ports};
use crate::msg::Channel;
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr};

/// Requests are shorter than this (upstream's buffer, api.c).
pub const MAX_REQUEST: usize = 4096;

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    desc: &'static str,
    cause: Option<String>,
}

impl Refused {
    /// It has [`MAX_REQUEST`] bytes or more.
    pub const TOO_LARGE: Self = Self::new("too large message");
    /// It is no JSON.
    pub const NOT_JSON: Self = Self::new("cannot parse JSON");

    const fn new(desc: &'static str) -> Self {
        Self { desc, cause: None }
    }

    fn because(desc: &'static str, cause: String) -> Self {
        Self { desc, cause: Some(cause) }
    }

    /// As it goes to the client.
    pub fn to_value(&self) -> Value {
        let mut error = json!({ "desc": format!("bad request: {}", self.desc) });
        if let Some(cause) = &self.cause {
            error["cause"] = json!(cause);
        }
        json!({ "error": error })
    }
}

/// The request at the beginning of `bytes`, once it is whole. What follows it does not count.
///
/// # Errors
/// [`Refused::NOT_JSON`], [`Refused::TOO_LARGE`].
pub fn parse(bytes: &[u8]) -> Result<Option<Value>, Refused> {
    if bytes.len() >= MAX_REQUEST {
        return Err(Refused::TOO_LARGE);
    }
    match serde_json::Deserializer::from_slice(bytes).into_iter().next() {
        None => Ok(None),
        Some(Ok(request)) => Ok(Some(request)),
        Some(Err(e)) if e.is_eof() => Ok(None),
        Some(Err(_)) => Err(Refused::NOT_JSON),
    }
}

/// Does what is asked.
pub fn answer(ports: &mut Ports, network: &Network, request: &Value, plane: &Channel) -> Value {
    execute(ports, network, request, plane).unwrap_or_else(|refused| refused.to_value())
}

fn execute(ports: &mut Ports, network: &Network, request: &Value, plane: &Channel) -> Result<Value, Refused> {
    let request = request.as_object().ok_or(Refused::new("json_object() failed"))?;
    let verb = request.get("execute").and_then(Value::as_str).ok_or(Refused::new("no execute found"))?;
    let arguments = request.get("arguments").unwrap_or(&Value::Null);
    match verb {
        "add_hostfwd" => {
            let spec = hostfwd(network, arguments)?;
            let entry = ports
                .add(Asked::Spec(spec), plane)
                .map_err(|e| Refused::because("add_hostfwd: slirp_add_hostfwd failed", e.with_remedy()))?;
            Ok(json!({ "return": { "id": entry.published.id.0 } }))
        }
        "list_hostfwd" => {
            let entries: Vec<_> = ports.iter().map(|entry| shown(network, entry)).collect();
            Ok(json!({ "return": { "entries": entries }, "entries": entries }))
        }
        "remove_hostfwd" => {
            let id = arguments.get("id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
            let id = id.ok_or(Refused::new("remove_hostfwd: bad arguments.id"))?;
            ports.remove(PortId(id), false, plane).map_err(|e| {
                Refused::because("remove_hostfwd: slirp_remove_hostfwd failed", e.with_remedy())
            })?;
            Ok(json!({ "return": {} }))
        }
        _ => Err(Refused::new("unknown execute")),
    }
}

/// Checks the arguments of add_hostfwd, in upstream's order.
fn hostfwd(network: &Network, arguments: &Value) -> Result<PortSpec, Refused> {
    let udp = match arguments.get("proto").and_then(Value::as_str) {
        Some("tcp") => false,
        Some("udp") => true,
        _ => return Err(Refused::new("add_hostfwd: bad arguments.proto")),
    };
    let address = |name: &str, otherwise: Ipv4Addr| match arguments.get(name) {
        None | Some(Value::Null) => Some(IpAddr::V4(otherwise)),
        Some(Value::String(text)) if text.is_empty() => Some(IpAddr::V4(otherwise)),
        Some(Value::String(text)) => text.parse().ok(),
        Some(_) => None,
    };
    let port = |name: &str| {
        let number = arguments.get(name).and_then(Value::as_u64);
        number.and_then(|n| u16::try_from(n).ok()).filter(|n| *n != 0)
    };
    let host_ip = address("host_addr", Ipv4Addr::UNSPECIFIED)
        .ok_or(Refused::new("add_hostfwd: bad arguments.host_addr"))?;
    let host_port = port("host_port").ok_or(Refused::new("add_hostfwd: bad arguments.host_port"))?;
    let guest_ip = address("guest_addr", network.guest_v4())
        .ok_or(Refused::new("add_hostfwd: bad arguments.guest_addr"))?;
    let guest_port = port("guest_port").ok_or(Refused::new("add_hostfwd: bad arguments.guest_port"))?;
    Ok(PortSpec {
        udp,
        families: if host_ip.is_ipv4() { Families::V4 } else { Families::V6 },
        host_ip: Some(host_ip),
        host: HostPorts::From(host_port),
        guest_ip: Some(guest_ip),
        guest_port,
        count: 1,
        options: PortOptions::default(),
    })
}

fn shown(network: &Network, entry: &Entry) -> Value {
    json!({
        "id": entry.published.id.0,
        "proto": if entry.published.udp { "udp" } else { "tcp" },
        "host_addr": entry.spec.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
        "host_port": entry.host_port,
        "guest_addr": entry.published.guest_ip.unwrap_or(network.guest_v4().into()),
        "guest_port": entry.published.guest_port,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(ports: &mut Ports, request: &Value) -> Value {
        let (plane, _other) = Channel::pair().unwrap();
        answer(ports, &Network::default(), request, &plane)
    }

    fn refused(request: &Value) -> String {
        let answer = ask(&mut Ports::default(), request);
        answer["error"]["desc"].as_str().unwrap_or_else(|| panic!("{request} -> {answer}")).to_owned()
    }

    fn add(arguments: Value) -> Value {
        json!({ "execute": "add_hostfwd", "arguments": arguments })
    }

    #[test]
    fn errors_are_upstreams_word_for_word() {
        assert_eq!(refused(&json!([])), "bad request: json_object() failed");
        assert_eq!(refused(&json!({ "unexpectedjson": 42 })), "bad request: no execute found");
        assert_eq!(refused(&json!({ "execute": 1 })), "bad request: no execute found");
        assert_eq!(refused(&json!({ "execute": "bad" })), "bad request: unknown execute");
        for (arguments, what) in [
            (json!({ "proto": "bad" }), "proto"),
            (json!({}), "proto"),
            (Value::Null, "proto"),
            (json!({ "proto": "tcp", "host_addr": "x" }), "host_addr"),
            (json!({ "proto": "tcp", "host_addr": 7 }), "host_addr"),
            (json!({ "proto": "tcp" }), "host_port"),
            (json!({ "proto": "tcp", "host_port": 0 }), "host_port"),
            (json!({ "proto": "tcp", "host_port": 70000 }), "host_port"),
            (json!({ "proto": "tcp", "host_port": -1 }), "host_port"),
            (json!({ "proto": "tcp", "host_port": 1, "guest_addr": "x" }), "guest_addr"),
            (json!({ "proto": "tcp", "host_port": 1, "guest_port": 70000 }), "guest_port"),
        ] {
            assert_eq!(refused(&add(arguments)), format!("bad request: add_hostfwd: bad arguments.{what}"));
        }
        let remove = |id: Value| refused(&json!({ "execute": "remove_hostfwd", "arguments": { "id": id } }));
        assert_eq!(remove(json!("1")), "bad request: remove_hostfwd: bad arguments.id");
        assert_eq!(remove(json!(1)), "bad request: remove_hostfwd: slirp_remove_hostfwd failed");
    }

    #[test]
    fn a_request_is_whole_when_its_object_is() {
        let text = "{\"execute\": \"list_hostfwd\"}\n";
        for n in 0..text.len() - 2 {
            assert_eq!(parse(&text.as_bytes()[..n]), Ok(None), "{n}");
        }
        assert!(
            parse(text.as_bytes()).unwrap().is_some() && parse(text.trim().as_bytes()).unwrap().is_some()
        );
        assert_eq!(parse(b"badjson\n"), Err(Refused::NOT_JSON));
        assert_eq!(parse(&[0; 10]), Err(Refused::NOT_JSON));
        assert_eq!(parse(&[b' '; MAX_REQUEST]), Err(Refused::TOO_LARGE));
    }

    #[test]
    fn missing_addresses_are_any_and_the_guests() {
        let network = Network::default();
        for empty in [json!({}), json!({ "host_addr": "", "guest_addr": "" })] {
            let mut arguments = json!({ "proto": "udp", "host_port": 8080, "guest_port": 80 });
            arguments.as_object_mut().unwrap().extend(empty.as_object().unwrap().clone());
            let spec = hostfwd(&network, &arguments).unwrap();
            assert_eq!(spec.to_string(), "0.0.0.0:8080:10.0.2.100:80/udp");
        }
        let six = json!({ "proto": "tcp", "host_addr": "::1", "host_port": 1, "guest_port": 2 });
        assert_eq!(hostfwd(&network, &six).unwrap().families, Families::V6);
    }

    #[test]
    fn a_bind_error_keeps_upstreams_text_and_says_why_beside_it() {
        let request =
            json!({ "proto": "tcp", "host_addr": "192.0.2.1", "host_port": 8080, "guest_port": 80 });
        let answer = ask(&mut Ports::default(), &add(request));
        assert_eq!(answer["error"]["desc"], "bad request: add_hostfwd: slirp_add_hostfwd failed");
        assert!(answer["error"]["cause"].as_str().unwrap().contains("192.0.2.1:8080"), "{answer}");
    }
}
