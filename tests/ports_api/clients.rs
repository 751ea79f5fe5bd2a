//! Clients of the API that are many, silent, slow or wrong.

use crate::common::World;
use crate::{Talk, start};
use std::io::{Read, Write};

#[test]
fn a_thousand_requests_on_one_connection_and_pipelined_ones_in_order() {
    let world = World::new();
    let instance = start(&world, &[]);
    let mut talk = Talk::new(instance.connect());
    for n in 0..400 {
        let (path, status) = [("/v1/info", 200), ("/v1/ports", 200), ("/nothing", 404)][n % 3];
        assert_eq!(talk.ask("GET", path, "").0, status);
    }
    // In one write, and the last one in pieces.
    for _ in 0..100 {
        let spec = r#"{"proto":"tcp","parentPort":8080,"childPort":80}"#;
        let post = format!("POST /v1/ports HTTP/1.1\r\nContent-Length: {}\r\n\r\n{spec}", spec.len());
        talk.send(&format!("{post}{post}GET /nothing HTTP/1.1\r\n\r\nGET /v1/info HTT"));
        let (status, body) = talk.answer();
        assert_eq!(status, 201, "{body}");
        assert_eq!(talk.answer().0, 400);
        assert_eq!(talk.answer().0, 404);
        talk.send("P/1.1\r\n\r\n");
        assert_eq!(talk.answer().0, 200);
        let id = serde_json::from_str::<serde_json::Value>(&body).unwrap()["id"].clone();
        assert_eq!(talk.ask("DELETE", &format!("/v1/ports/{id}"), ""), (200, String::new()));
    }
    for _ in 0..200 {
        assert_eq!(instance.ask("GET", "/v1/info", "").0, 200);
    }
}

#[test]
fn silent_clients_hold_up_nobody() {
    let world = World::new();
    let instance = start(&world, &[]);
    let mut kept = Talk::new(instance.connect());
    assert_eq!(kept.ask("GET", "/v1/info", "").0, 200);
    // Several times as many as may be connected; every other one has begun a request.
    let silent: Vec<_> = (0..200)
        .map(|n| {
            let mut stream = instance.connect();
            if n % 2 == 0 {
                stream.write_all(b"POST /v1/ports HTTP/1.1\r\nContent-Length: 9\r\n\r\n{").unwrap();
            }
            stream
        })
        .collect();
    assert_eq!(instance.ask("GET", "/v1/info", "").0, 200);
    // The oldest had to go; the latest are still served.
    assert_eq!((&silent[0]).read(&mut [0]).unwrap_or(0), 0);
    let mut last = Talk::new(silent.into_iter().next_back().unwrap());
    assert_eq!(last.ask("GET", "/v1/info", "").0, 200);
}

#[test]
fn a_slow_client_is_ended_and_others_are_answered_meanwhile() {
    let world = World::new();
    let instance = start(&world, &[]);
    let (mut slow, mut idle) = (instance.connect(), Talk::new(instance.connect()));
    slow.write_all(b"GET /v1/info HT").unwrap();
    assert_eq!(idle.ask("GET", "/v1/info", "").0, 200);
    // It has ten seconds for a request; its reader more.
    assert_eq!(slow.read_to_end(&mut Vec::new()).unwrap(), 0);
    assert!(slow.write_all(b"TP/1.1\r\n\r\n").is_err() || slow.read(&mut [0]).unwrap_or(0) == 0);
    // Silence between requests is no fault.
    assert_eq!(idle.ask("GET", "/v1/info", "").0, 200);
}

#[test]
fn wrong_requests_are_told_and_cut_off() {
    let world = World::new();
    let instance = start(&world, &[]);
    let long_head = format!("GET /v1/info HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20_000));
    let long_body =
        format!("POST /v1/ports HTTP/1.1\r\nContent-Length: 100000\r\n\r\n{}", "x".repeat(100_000));
    for (text, expected) in [
        ("nonsense\r\n\r\n", 400),
        (&*long_head, 431),
        (&*long_body, 413),
        ("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", 400),
        ("GET / HTTP/3.0\r\n\r\n", 505),
    ] {
        let mut talk = Talk::new(instance.connect());
        talk.send(text);
        assert_eq!(talk.answer().0, expected);
        let mut rest = Vec::new();
        let _ = talk.stream.read_to_end(&mut rest);
        assert_eq!(rest, b"", "{expected}");
    }
    let mut talk = Talk::new(instance.connect());
    talk.send("POST /v1/ports HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    assert_eq!(talk.answer().0, 100);
    talk.send("{}");
    assert_eq!(talk.answer(), (400, "{\"message\":\"unknown proto: \\\"\\\"\"}\n".to_owned()));
}
