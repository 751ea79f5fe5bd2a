//! The request parser: whole, split, chunked, too long and malformed requests; no bytes make it panic.

use super::*;
use proptest::prelude::*;

fn request(bytes: &[u8]) -> (Request, usize) {
    match parse(bytes).unwrap() {
        Parsed::Complete(request, length) => (request, length),
        Parsed::Partial { .. } => panic!("partial: {}", String::from_utf8_lossy(bytes)),
    }
}

fn status(text: &str) -> u16 {
    parse(text.as_bytes()).expect_err(text).0
}

#[test]
fn gos_client_and_pipelined_requests() {
    let first = "POST /v1/ports?a=1&b=2 HTTP/1.1\r\nHost: rootlesskit\r\nUser-Agent: Go-http-client/1.1\r\n\
                 Content-Length: 2\r\nAccept-Encoding: gzip\r\n\r\n{}";
    let both = format!("{first}DELETE /v1/ports/4 HTTP/1.1\r\nConnection: close\r\n\r\n");
    let (r, n) = request(both.as_bytes());
    assert_eq!(
        (r.method.as_str(), r.path.as_str(), n, r.keep_alive),
        ("POST", "/v1/ports", first.len(), true)
    );
    assert_eq!((r.body.as_slice(), r.parameter("b"), r.parameter("c")), (&b"{}"[..], Some("2"), None));
    let (r, n) = request(&both.as_bytes()[n..]);
    assert_eq!((r.method.as_str(), n, r.keep_alive), ("DELETE", both.len() - first.len(), false));
    assert!(!request(b"GET / HTTP/1.0\r\n\r\n").0.keep_alive);
    assert!(request(b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").0.keep_alive);
}

#[test]
fn every_prefix_is_partial() {
    for text in [
        "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r\n1\r\nc\r\n0\r\nTrailer: 1\r\n\r\n",
    ] {
        for end in 0..text.len() {
            assert!(
                matches!(parse(&text.as_bytes()[..end]), Ok(Parsed::Partial { .. })),
                "{end} of {text:?}"
            );
        }
        let (r, n) = request(text.as_bytes());
        assert_eq!((r.body.as_slice(), n), (&b"abc"[..], text.len()));
    }
}

#[test]
fn a_client_that_waits_for_leave_to_go_on_is_seen() {
    let head = "POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n";
    assert_eq!(parse(head.as_bytes()), Ok(Parsed::Partial { expects: true }));
    assert_eq!(status("POST / HTTP/1.1\r\nExpect: more\r\n\r\n"), 417);
}

#[test]
fn limits_and_ambiguities_are_refused() {
    assert_eq!(status("GET /\r\n\r\n"), 400);
    assert_eq!(status("GET / HTTP/2.0\r\n\r\n"), 505);
    assert_eq!(status("GET / HTTP/1.1\r\nNo colon\r\n\r\n"), 400);
    assert_eq!(status(&format!("GET /{}", "x".repeat(MAX_HEAD))), 431);
    assert_eq!(status(&format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(MAX_HEADERS + 1))), 431);
    let with = |headers: &str| status(&format!("POST / HTTP/1.1\r\n{headers}\r\n\r\n"));
    assert_eq!(with("Content-Length: 65537"), 413);
    assert_eq!(with("Content-Length: 99999999999999999999999999"), 413);
    for bad in ["-1", "+1", "1, 1", "0x1", "", "1\r\nContent-Length: 2"] {
        assert_eq!(with(&format!("Content-Length: {bad}")), 400, "{bad:?}");
    }
    assert_eq!(with("Content-Length: 1\r\nTransfer-Encoding: chunked"), 400);
    assert_eq!(with("Transfer-Encoding: gzip, chunked"), 501);
    assert_eq!(with("Transfer-Encoding: chunked\r\n\r\nzz"), 400);
    assert_eq!(with("Transfer-Encoding: chunked\r\n\r\n10001\r\n"), 413);
    assert_eq!(with("Transfer-Encoding: chunked\r\n\r\n1\r\nab"), 400);
    let many = "1\r\na\r\n".repeat(MAX_BODY + 1);
    assert_eq!(with(&format!("Transfer-Encoding: chunked\r\n\r\n{many}")), 413);
}

#[test]
fn answers_say_their_length() {
    let text = |r: Response, keep| String::from_utf8(r.to_bytes(keep)).unwrap();
    assert_eq!(text(Response::empty(200), true), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(
        text(Response::error(400, "a \"b\""), false),
        "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\n\
         Content-Length: 22\r\n\r\n{\"message\":\"a \\\"b\\\"\"}\n"
    );
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), head in "(GET|POST) /[ -~]{0,20} HTTP/1.1\r\n") {
        let _ = parse(&bytes);
        let _ = parse(&[head.as_bytes(), b"Transfer-Encoding: chunked\r\n\r\n", &bytes].concat());
        if let Ok(Parsed::Complete(_, n)) = parse(&[head.as_bytes(), &bytes].concat()) {
            prop_assert!(n <= head.len() + bytes.len());
        }
    }
}
