//! Which path and method does what.

use super::http::{Request, Response};
use super::views::{AddPort, Capture, PortView, Redirected, Status, Target};
use super::{Api, Question};
use crate::config::{PortId, PortSpec, RootlessKitSpec};
use crate::control::ports::{Asked, PortError, Ports};
use crate::msg::{Channel, PortCounters, ToPlane};

/// What a request comes to.
#[derive(Debug)]
pub(super) enum Answer {
    /// An answer.
    Now(Response),
    /// A question to the plane, whose answer is the answer.
    Ask(Question),
    /// The connection is the plane's from now on, with this message.
    Switch(ToPlane),
}

/// Does what a request asks for.
pub(super) fn answer(api: &mut Api, request: &Request, plane: &Channel) -> Answer {
    let (method, path) = (request.method.as_str(), request.path.as_str());
    let own = path.strip_prefix("/ringtap/v1/");
    let of_ports = |path: &str| path == "ports" || path.starts_with("ports/") || path == "targets";
    let rootlesskits = path.strip_prefix("/v1/");
    if api.info.port_driver.is_none()
        && (rootlesskits.is_some_and(of_ports) || own.is_some_and(of_ports) && method != "GET")
    {
        return Answer::Now(Response::error(400, "no PortDriver is available"));
    }
    Answer::Now(match (own, method) {
        (Some("ports"), "GET") => return Answer::Ask(Question::Ports(Vec::new())),
        (Some("ports"), "POST") => add(api, &request.body, plane),
        (Some("ports"), _) => Response::not_allowed("GET, POST"),
        (Some("targets"), "POST") => redirect(api, &request.body, plane),
        (Some("targets"), _) => Response::not_allowed("POST"),
        (Some("instance"), "GET") => Response::json(200, &api.instance()),
        (Some("stats"), "GET") => return Answer::Ask(Question::Stats),
        (Some("metrics"), "GET") => return Answer::Ask(Question::Metrics(None, Vec::new())),
        (Some("flow"), "GET") => match request.parameter("id") {
            Some(id) => return Answer::Ask(Question::Flow { id: id.to_owned() }),
            None => Response::error(400, "id= is the name of a flow, as /ringtap/v1/flows has it"),
        },
        (Some("counters"), "GET") => return Answer::Ask(Question::Counters),
        (Some("flows"), "GET") => {
            let since = request.parameter("since").map(str::parse).transpose();
            match (request.parameter("from").unwrap_or("0").parse(), since) {
                (Ok(from), Ok(since)) => return Answer::Ask(Question::Flows { from, since }),
                (Err(_), _) => Response::error(400, "from= is the number that the page before gave as next"),
                (_, Err(_)) => Response::error(400, "since= is the number that a page before gave as at"),
            }
        }
        (Some("capture"), "POST") => match serde_json::from_slice::<Capture>(&request.body) {
            Ok(Capture { flow, snaplen }) => return Answer::Switch(ToPlane::Capture { flow, snaplen }),
            Err(e) => Response::error(400, &e.to_string()),
        },
        (Some("capture"), _) => Response::not_allowed("POST"),
        (Some("counters" | "flows" | "flow" | "instance" | "stats" | "metrics"), _) => {
            Response::not_allowed("GET")
        }
        (Some(path), _) => match (path.strip_prefix("ports/"), method) {
            (Some(id), "GET") => match parse_id(id).filter(|id| api.ports.get(*id).is_some()) {
                Some(id) => return Answer::Ask(Question::Port(id)),
                None => Response::error(404, &PortError::Unknown(id.to_owned()).to_string()),
            },
            (Some(id), "DELETE") => match request.parameter("connections").unwrap_or("end") {
                "end" => remove(api, id, true, plane),
                "keep" => remove(api, id, false, plane),
                _ => Response::error(400, "connections= is end or keep"),
            },
            (Some(_), _) => Response::not_allowed("GET, DELETE"),
            (None, _) => Response::not_found(),
        },
        (None, _) => rootlesskit(api, request, plane),
    })
}

/// RootlessKit's routes, statuses and texts.
fn rootlesskit(api: &mut Api, request: &Request, plane: &Channel) -> Response {
    match (request.path.as_str(), request.method.as_str()) {
        ("/v1/info", "GET") => Response::json(200, &api.info),
        ("/v1/info", _) => Response::not_allowed("GET"),
        ("/v1/ports", "GET") => {
            Response::json(200, &api.ports.iter().flat_map(Status::of).collect::<Vec<_>>())
        }
        ("/v1/ports", "POST") => match serde_json::from_slice::<RootlessKitSpec>(&request.body) {
            Ok(spec) => match api.ports.add(Asked::RootlessKit(spec.clone()), plane) {
                Ok(entry) => Response::json(201, &Status { id: entry.published.id, spec }),
                Err(e) => Response::error(400, &e.to_string()),
            },
            Err(e) => Response::error(400, &e.to_string()),
        },
        ("/v1/ports", _) => Response::not_allowed("GET, POST"),
        (path, method) => match (path.strip_prefix("/v1/ports/"), method) {
            (Some(id), _) if id.is_empty() || id.contains('/') => Response::not_found(),
            (Some(id), "DELETE") => remove(api, id, true, plane),
            (Some(_), _) => Response::not_allowed("DELETE"),
            (None, _) => Response::not_found(),
        },
    }
}

fn add(api: &mut Api, body: &[u8], plane: &Channel) -> Response {
    let spec = match serde_json::from_slice::<AddPort>(body) {
        Ok(add) => add.spec.parse::<PortSpec>().map_err(|e| e.to_string()),
        Err(e) => Err(format!("{e}; the body is {{\"spec\": \"8080:80/tcp\"}}")),
    };
    let added = spec.and_then(|spec| api.ports.add(Asked::Spec(spec), plane).map_err(|e| e.with_remedy()));
    match added {
        Ok(entry) => Response::json(201, &PortView::of(entry, None)),
        Err(text) => Response::error(400, &text),
    }
}

fn redirect(api: &mut Api, body: &[u8], plane: &Channel) -> Response {
    let target = match serde_json::from_slice::<Target>(body) {
        Ok(target) => target,
        Err(e) => return Response::error(400, &e.to_string()),
    };
    let udp = match target.protocol.as_str() {
        "tcp" => false,
        "udp" => true,
        other => return Response::error(400, &format!("unknown protocol {other:?}; it is tcp or udp")),
    };
    match api.ports.redirect(udp, target.from, target.to, plane) {
        Ok(ports) => Response::json(200, &Redirected { ports }),
        Err(e) => Response::error(400, &e.to_string()),
    }
}

fn remove(api: &mut Api, id: &str, connections: bool, plane: &Channel) -> Response {
    let unknown = || PortError::Unknown(id.to_owned());
    let removed = parse_id(id).ok_or_else(unknown).and_then(|id| api.ports.remove(id, connections, plane));
    match removed {
        Ok(()) => Response::empty(200),
        Err(e) => Response::error(400, &e.to_string()),
    }
}

/// Ids are written in digits, and 0 is none.
fn parse_id(text: &str) -> Option<PortId> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|n| digits && *n != 0).map(PortId)
}

/// All ports with their counters, which are in the order of their ids.
pub(super) fn all_ports(ports: &Ports, counters: &[PortCounters]) -> Vec<PortView> {
    ports.iter().map(|entry| PortView::of(entry, find(counters, entry.published.id))).collect()
}

/// One port; it may have gone while the plane was asked.
pub(super) fn one_port(ports: &Ports, id: PortId, counters: &[PortCounters]) -> Response {
    match ports.get(id) {
        Some(entry) => Response::json(200, &PortView::of(entry, find(counters, id))),
        None => Response::error(404, &PortError::Unknown(id.to_string()).to_string()),
    }
}

fn find(counters: &[PortCounters], id: PortId) -> Option<PortCounters> {
    counters.binary_search_by_key(&id, |c| c.port).ok().map(|i| counters[i])
}
