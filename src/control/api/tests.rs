//! The API without a socket: each route's answer, errors, and a plane that is slow, gone or replaced.

use super::*;
use crate::config::Network;
use crate::flow::PlaneCounters;
use crate::msg::{FlowPage, PortPage};

/// An API without a socket, and the plane's end of its channel.
struct Bench {
    api: Api,
    plane: Channel,
    other: Channel,
}

impl Bench {
    fn new() -> Self {
        Self::with(Drivers::default())
    }

    fn with(drivers: Drivers) -> Self {
        let (plane, other) = Channel::pair().unwrap();
        let info = Info::new(&Network::default(), &drivers, Path::new("/run/x"), 42);
        let mut api = Api {
            ports: Ports::default(),
            info,
            facts: Facts::new("run", Some("/proc/42/ns/net".to_owned())),
            state: PathBuf::from("/run/x"),
            network: Some(Network::default()),
            said: true,
            calls: None,
            waiting: VecDeque::new(),
        };
        api.relaying_is_over("no namespace here", &plane).unwrap();
        Self { api, plane, other }
    }

    fn ask(&mut self, line: &str, body: &str) -> oneshot::Receiver<Response> {
        let text = format!("{line} HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let Ok(http::Parsed::Complete(request, _)) = http::parse(text.as_bytes()) else { panic!("{text}") };
        let (reply, answer) = oneshot::channel();
        self.api.handle(Call { request, reply, stream: None }, &self.plane);
        answer
    }

    fn say(&mut self, line: &str, body: &str) -> (u16, String) {
        let response = self.ask(line, body).try_recv().expect("an answer at once");
        (response.status, String::from_utf8(response.body).unwrap())
    }

    fn heard(&self) -> Vec<ToPlane> {
        std::iter::from_fn(|| self.other.try_recv().unwrap().map(|(m, _)| m)).collect()
    }
}

fn spec(port: u16) -> String {
    format!(
        r#"{{"proto":"tcp4","parentIP":"127.0.0.1","parentPort":{port},"childPort":80,"childIP":"127.0.0.1"}}"#
    )
}

fn free_port() -> u16 {
    super::super::ports::bind::bind(&"127.0.0.1::80".parse().unwrap()).unwrap().first
}

#[test]
fn rootlesskits_routes_statuses_and_shapes() {
    let mut b = Bench::new();
    let (status, info) = b.say("GET /v1/info", "");
    assert_eq!(status, 200);
    let expected = format!(
        r#"{{"apiVersion":"1.1.2","version":"{}","stateDir":"/run/x","childPID":42,"networkDriver":{{"driver":"ringtap","dns":["10.0.2.3","fd00::3"],"childIP":"10.0.2.100","ipv6":true}},"portDriver":{{"driver":"ringtap","protos":["tcp","tcp4","tcp6","udp","udp4","udp6"]}}}}"#,
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(info, expected);
    assert_eq!(b.say("GET /v1/ports", ""), (200, "[]".into()));
    let spec = spec(free_port());
    let status = format!(r#"{{"id":1,"spec":{spec}}}"#);
    assert_eq!(b.say("POST /v1/ports", &spec), (201, status.clone()));
    assert_eq!(b.say("POST /v1/ports", &spec), (400, "{\"message\":\"conflict with ID 1\"}\n".into()));
    assert_eq!(b.say("GET /v1/ports", ""), (200, format!("[{status}]")));
    assert_eq!(b.say("DELETE /v1/ports/1", ""), (200, String::new()));
    assert_eq!(b.say("DELETE /v1/ports/1", ""), (400, "{\"message\":\"unknown id: 1\"}\n".into()));
    assert_eq!(b.say("DELETE /v1/ports/x", ""), (400, "{\"message\":\"unknown id: x\"}\n".into()));
    let heard = b.heard();
    assert!(matches!(
        heard[..],
        [
            ToPlane::Publish(_),
            ToPlane::Listeners { .. },
            ToPlane::Unpublish { port: PortId(1), connections: true }
        ]
    ));
    let (status, text) = b.say("POST /v1/ports", r#"{"proto":"sctp"}"#);
    assert_eq!((status, text.as_str()), (400, "{\"message\":\"unsupported port protocol sctp\"}\n"));
    for (line, status) in [
        ("GET /", 404),
        ("GET /v2/info", 404),
        ("GET /v1/ports/", 404),
        ("DELETE /v1/ports/1/2", 404),
        ("POST /v1/info", 405),
        ("PUT /v1/ports", 405),
        ("GET /v1/ports/1", 405),
        ("POST /v1/ports", 400),
        ("GET /ringtap/v1/", 404),
        ("GET /ringtap/v1/ports/1", 404),
        ("POST /ringtap/v1/flows", 405),
        ("GET /ringtap/v1/flows?from=x", 400),
        ("GET /ringtap/v1/flows?from=0&since=-1", 400),
        ("DELETE /ringtap/v1/ports/1?connections=maybe", 400),
    ] {
        assert_eq!(b.say(line, "").0, status, "{line}");
    }
    assert_eq!(b.say("GET /x", "").1, "404 page not found\n");
}

#[test]
fn a_range_is_one_object_of_ours_and_single_ports_to_rootlesskit() {
    let mut b = Bench::new();
    let (status, text) =
        b.say("POST /ringtap/v1/ports", r#"{"spec":"127.0.0.1::9000-9002/udp,source=gateway"}"#);
    assert_eq!(status, 201, "{text}");
    let view: views::PortView = serde_json::from_str(&text).unwrap();
    let first = view.host_port;
    assert_eq!((view.count, view.picked, view.source_ip.as_str()), (3, true, "gateway"));
    assert_eq!(view.spec, format!("127.0.0.1:{first}-{}:9000-9002/udp", first + 2));
    let all = b.say("GET /v1/ports", "").1;
    for n in 0..3 {
        let one = format!(
            r#"{{"id":1,"spec":{{"proto":"udp4","parentIP":"127.0.0.1","parentPort":{},"childPort":{}}}}}"#,
            first + n,
            9000 + n
        );
        assert!(all.contains(&one), "{one} in {all}");
    }
    let (status, text) = b.say("POST /ringtap/v1/ports", r#"{"spec":"1-2:3-5"}"#);
    assert!(status == 400 && text.contains("do not match"), "{text}");
    let (status, text) = b.say("POST /ringtap/v1/ports", r#"{"port":"80"}"#);
    assert!(status == 400 && text.contains("8080:80/tcp"), "{text}");
    assert_eq!(b.say("DELETE /ringtap/v1/ports/1?connections=keep", "").0, 200);
    let kept = ToPlane::Unpublish { port: PortId(1), connections: false };
    assert!(b.heard().contains(&kept));
}

#[test]
fn questions_are_answered_in_order_when_the_plane_has_answered() {
    let mut b = Bench::new();
    for _ in 0..2 {
        b.say("POST /v1/ports", &spec(free_port()));
    }
    b.heard();
    let mut counters = b.ask("GET /ringtap/v1/counters", "");
    let mut flows = b.ask("GET /ringtap/v1/flows?from=7&since=5", "");
    let mut ports = b.ask("GET /ringtap/v1/ports", "");
    let mut one = b.ask("GET /ringtap/v1/ports/2", "");
    assert_eq!(
        b.heard(),
        [
            ToPlane::Counters,
            ToPlane::Flows { from: 7, since: Some(5) },
            ToPlane::Ports { after: PortId(0) },
            ToPlane::Ports { after: PortId(1) }
        ]
    );
    assert!(counters.try_recv().is_err());
    let seen = |port, accepted| PortCounters { accepted, ..PortCounters::new(PortId(port)) };
    let page = |ports: &[PortCounters], next| FromPlane::Ports(PortPage { ports: ports.to_vec(), next });
    let plane_counters = PlaneCounters { flows_opened: 3, buffers_held: 5, ..PlaneCounters::default() };
    let hear = |api: &mut Api, message| assert!(api.hear(Ok(message), &b.plane).is_none());
    hear(&mut b.api, FromPlane::Counters(Box::new(plane_counters)));
    hear(&mut b.api, FromPlane::Flows(FlowPage { next: Some(9), ..FlowPage::default() }));
    hear(&mut b.api, page(&[seen(1, 10)], Some(PortId(1))));
    hear(&mut b.api, page(&[seen(2, 20)], None));
    // There was a second page to ask for.
    assert!(ports.try_recv().is_err());
    hear(&mut b.api, page(&[seen(2, 21)], None));
    let body = |answer: &mut oneshot::Receiver<Response>| {
        serde_json::from_slice::<serde_json::Value>(&answer.try_recv().unwrap().body).unwrap()
    };
    let said = body(&mut counters);
    assert_eq!((&said["flowsOpened"], &said["drops"]["ttlExceeded"]), (&3.into(), &0.into()));
    assert_eq!(said["buffersHeld"], 5);
    assert_eq!(body(&mut flows), serde_json::json!({ "flows": [], "still": [], "at": 0, "next": 9 }));
    let said = body(&mut ports);
    assert_eq!(
        (&said[0]["counters"]["accepted"], &said[1]["counters"]["accepted"]),
        (&10.into(), &21.into())
    );
    assert_eq!(body(&mut one)["counters"]["accepted"], 20);
    // News is none of the API's business.
    let news = FromPlane::Notice { level: crate::msg::Level::Info, text: String::new() };
    assert!(b.api.hear(Ok(news), &b.plane).is_some());
}

#[test]
fn who_waits_for_a_plane_that_is_replaced_is_told_and_the_next_one_gets_the_ports() {
    let mut b = Bench::new();
    b.say("POST /v1/ports", &spec(free_port()));
    let mut waits = b.ask("GET /ringtap/v1/flows", "");
    let (plane, other) = Channel::pair().unwrap();
    (b.plane, b.other) = (plane, other);
    b.api.plane_replaced(&b.plane).unwrap();
    assert_eq!(waits.try_recv().unwrap().status, 503);
    assert!(matches!(b.heard()[..], [ToPlane::Publish(_), ToPlane::Listeners { .. }]));
}

#[test]
fn what_is_published_is_pointed_elsewhere_and_shown_as_it_was_asked_for() {
    let mut b = Bench::new();
    let port = spec(free_port());
    assert_eq!(b.say("POST /v1/ports", &port).0, 201);
    b.heard();
    let target = |from: &str| format!(r#"{{"protocol":"tcp","from":"{from}","to":"172.17.0.2:8080"}}"#);
    for (from, count) in [("127.0.0.1:81", 0), ("10.0.2.100:80", 0), ("127.0.0.1:80", 1), ("127.0.0.1:80", 0)]
    {
        let (status, body) = b.say("POST /ringtap/v1/targets", &target(from));
        assert_eq!((status, body.trim()), (200, format!("{{\"ports\":{count}}}").as_str()), "{from}");
        let told = b.heard();
        assert_eq!(told.is_empty(), count == 0, "{told:?}");
        if count == 1 {
            assert!(matches!(told[0], ToPlane::Unpublish { connections: false, .. }), "{told:?}");
            let ToPlane::Publish(new) = &told[1] else { panic!("{told:?}") };
            assert_eq!((new.guest_ip, new.guest_port), (Some("172.17.0.2".parse().unwrap()), 8080));
        }
    }
    assert!(b.say("GET /v1/ports", "").1.contains(&port));
    for bad in ["", "{}", r#"{"protocol":"sctp","from":"127.0.0.1:80","to":"172.17.0.2:80"}"#] {
        assert_eq!(b.say("POST /ringtap/v1/targets", bad).0, 400, "{bad}");
    }
    assert_eq!(b.say("GET /ringtap/v1/targets", "").0, 405);
}

#[test]
fn without_a_port_driver_ports_are_neither_listed_nor_added_nor_removed() {
    let mut b = Bench::with(Drivers { network: None, port: None, version: "3.1.0" });
    let (_, info) = b.say("GET /v1/info", "");
    let expected = r#"{"apiVersion":"1.1.2","version":"3.1.0","stateDir":"/run/x","childPID":42}"#;
    assert_eq!(info.trim(), expected);
    for line in [
        "GET /v1/ports",
        "POST /v1/ports",
        "DELETE /v1/ports/1",
        "POST /ringtap/v1/ports",
        "DELETE /ringtap/v1/ports/1",
    ] {
        let (status, body) = b.say(line, &spec(free_port()));
        assert_eq!((status, body.trim()), (400, r#"{"message":"no PortDriver is available"}"#), "{line}");
    }
}
