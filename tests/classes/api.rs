//! (n): clients of the API sockets. slirp4netns 1.3 died of a request without `proto` and stood still, with all traffic, while
//! a client had connected and said nothing.

use crate::common::{ECHO, SERVER, World};
use ringtap::config::Network;
use ringtap::control::api::http::{self, Parsed};
use ringtap::control::ports::Ports;
use ringtap::control::slirp4netns::api as slirp;
use ringtap::lab::Running;
use ringtap::msg::Channel;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::Duration;

#[test]
fn n_malformed_requests_are_answered_and_change_nothing() {
    let (plane, _other) = Channel::pair().unwrap();
    for text in [
        "{}",
        "[]",
        "null",
        "1",
        "\"x\"",
        "{\"execute\":null}",
        "{\"execute\":\"add_hostfwd\"}",
        "{\"execute\":\"add_hostfwd\",\"arguments\":{}}",
        "{\"execute\":\"add_hostfwd\",\"arguments\":7}",
        "{\"execute\":\"add_hostfwd\",\"arguments\":{\"proto\":null,\"host_port\":1,\"guest_port\":1}}",
        "{\"execute\":\"add_hostfwd\",\"arguments\":{\"proto\":\"tcp\",\"host_port\":70000,\"guest_port\":1}}",
        "{\"execute\":\"add_hostfwd\",\"arguments\":{\"proto\":\"tcp\",\"host_port\":-1,\"guest_port\":1}}",
        "{\"execute\":\"add_hostfwd\",\"arguments\":{\"proto\":\"tcp\",\"host_port\":1e99,\"guest_port\":1}}",
        "{\"execute\":\"remove_hostfwd\",\"arguments\":{\"id\":99999999999999999999}}",
    ] {
        let request = slirp::parse(text.as_bytes()).unwrap().unwrap();
        let mut ports = Ports::default();
        let answer = slirp::answer(&mut ports, &Network::default(), &request, &plane);
        assert!(
            answer["error"]["desc"].as_str().is_some_and(|d| d.starts_with("bad request")),
            "{text}: {answer}"
        );
        assert_eq!(ports.iter().count(), 0);
    }
    let deep = "[".repeat(4000);
    assert!(slirp::parse(deep.as_bytes()).is_err(), "a nest does not use up the stack");
    for (text, status) in [
        ("GET / HTTP/9.9\r\n\r\n", 505),
        ("\0\0\0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", 400),
        ("POST / HTTP/1.1\r\nContent-Length: 999999999999999999999\r\n\r\n", 413),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        ("POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", 400),
    ] {
        let refused = http::parse(text.as_bytes()).unwrap_err();
        assert_eq!(refused.0, status, "{text:?}: {refused:?}");
    }
}

#[test]
fn n_a_split_request_is_the_same_request() {
    let text = b"POST /v1/ports?x=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello";
    for cut in 0..text.len() {
        assert!(matches!(http::parse(&text[..cut]), Ok(Parsed::Partial { .. })), "{cut}");
    }
    let Ok(Parsed::Complete(request, length)) = http::parse(text) else { panic!() };
    assert_eq!((request.body, length), (b"hello".to_vec(), text.len()));
    let text = b"{\"execute\":\"list_hostfwd\",\"arguments\":{\"x\":[1,2]}}";
    for cut in 0..text.len() {
        assert_eq!(slirp::parse(&text[..cut]), Ok(None), "{cut}");
    }
}

#[test]
fn n_oversized_requests_end_before_they_are_held() {
    let head = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(http::MAX_HEAD));
    assert_eq!(http::parse(head.as_bytes()).unwrap_err().0, 431);
    let lines = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(http::MAX_HEADERS + 1));
    assert_eq!(http::parse(lines.as_bytes()).unwrap_err().0, 431);
    let body = format!("POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n", http::MAX_BODY + 1);
    assert_eq!(http::parse(body.as_bytes()).unwrap_err().0, 413);
    let chunk = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n", http::MAX_BODY + 1);
    assert_eq!(http::parse(chunk.as_bytes()).unwrap_err().0, 413);
    assert_eq!(slirp::parse(&[b' '; slirp::MAX_REQUEST]), Err(slirp::Refused::TOO_LARGE));
}

fn instance(world: &World) -> (Running, std::path::PathBuf) {
    let mut command = world.ringtap(true);
    command.args(["run", "--", "sh", "-c", "echo ready; exec sleep infinity"]).stdout(Stdio::piped());
    let mut running = world.lab.host().spawn(&mut command).unwrap();
    let mut line = String::new();
    BufReader::new(running.child().stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    let socket = world.lab.dir().join("user-run/ringtap").join(running.pid().to_string()).join("api.sock");
    (running, socket)
}

#[test]
fn n_idle_clients_hold_up_neither_traffic_nor_other_clients() {
    let world = World::new();
    let (running, socket) = instance(&world);
    let guest = world.lab.guest_below(running, "sleep", Duration::from_secs(30)).unwrap();
    let connect = || {
        let stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    };
    // More than are served at once, each silent or in the middle of something.
    let idle: Vec<UnixStream> = (0..100)
        .map(|n| {
            let mut stream = connect();
            let said: &[u8] =
                [&b""[..], b"G", b"POST /v1/ports HTTP/1.1\r\nContent-Length: 100\r\n\r\n{"][n % 3];
            // One that had to go may refuse it.
            let _ = stream.write_all(said);
            stream
        })
        .collect();
    for _ in 0..3 {
        let mut stream = guest.place().tcp_connect((SERVER[0], ECHO)).unwrap();
        stream.write_all(b"through").unwrap();
        let mut back = [0; 7];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"through");
        let mut client = connect();
        client
            .write_all(b"GET /ringtap/v1/counters HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"spoofed\""), "{answer}");
        assert!(answer.contains("\"newFlows\""), "{answer}");
    }
    drop(idle);
}
