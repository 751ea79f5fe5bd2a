//! The API socket.

use crate::common::World;
use crate::{BOTH, Target, slirp4netns};
use ringtap::lab::{Guest, Running};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// A guest with an API socket.
pub struct Api {
    pub guest: Guest,
    path: PathBuf,
}

impl Api {
    pub fn new(world: &World, as_user: bool, options: &str) -> Self {
        let target = Target::new(world, as_user);
        let path =
            world.lab.dir().join(if as_user && world.lab.users_are_real() { "user-run" } else { "run" });
        let path = path.join(format!("s4nn-{}.sock", target.pid()));
        let guest = target.guest(world, &format!("-c --api-socket {} {options}", path.display()));
        Self { guest, path }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }

    /// What comes back for these bytes until the server closes, which it must do of itself.
    fn say(&self, bytes: &[u8]) -> Value {
        let mut stream = self.connect();
        // A server that has heard enough may close.
        let _ = stream.write_all(bytes);
        finish(stream)
    }

    pub fn ask(&self, request: &Value) -> Value {
        self.say(format!("{request}\n").as_bytes())
    }

    /// `add_hostfwd`; its id.
    pub fn forward(&self, arguments: &Value) -> u64 {
        let answer = self.ask(&json!({ "execute": "add_hostfwd", "arguments": arguments }));
        answer["return"]["id"].as_u64().unwrap_or_else(|| panic!("{arguments}: {answer}"))
    }

    fn refused(&self, bytes: &[u8]) -> String {
        self.say(bytes)["error"]["desc"].as_str().unwrap().to_owned()
    }

    fn running(&mut self) -> &mut Running {
        self.guest.running().last_mut().unwrap()
    }
}

fn finish(mut stream: UnixStream) -> Value {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{text:?}: {e}"))
}

#[test]
fn api_socket_with_an_overlong_path_fails() {
    let world = World::new();
    let target = Target::new(&world, true);
    let path = format!("/tmp/{}", "A".repeat(120));
    let outcome = slirp4netns(&world, true, &format!("-c --api-socket {path} {} tap11", target.pid()));
    assert_eq!(outcome.status.code(), Some(1), "{outcome:?}");
    assert!(outcome.stderr.contains("shorter path"), "{outcome:?}");
    assert!(!target.net("dev").contains("tap11:"));
}

#[test]
fn api_socket_error_strings() {
    let world = World::new();
    let api = Api::new(&world, true, "");
    assert_eq!(api.refused(b"badjson\n"), "bad request: cannot parse JSON");
    assert_eq!(api.refused(b"{\"unexpectedjson\": 42}\n"), "bad request: no execute found");
    assert_eq!(api.refused(b"{\"execute\": \"bad\"}\n"), "bad request: unknown execute");
    let bad_proto = b"{\"execute\": \"add_hostfwd\", \"arguments\":{\"proto\": \"bad\"}}\n";
    assert_eq!(api.refused(bad_proto), "bad request: add_hostfwd: bad arguments.proto");
    assert_eq!(api.refused(&[b' '; 10_000]), "bad request: too large message");
}

#[test]
fn api_socket_first_id_defaults_list_and_remove() {
    for as_user in BOTH {
        let world = World::new();
        let api = Api::new(&world, as_user, "");
        assert_eq!(api.forward(&json!({ "proto": "tcp", "host_port": 8080, "guest_port": 80 })), 1);
        let list = api.ask(&json!({ "execute": "list_hostfwd" }));
        let entry = json!({
            "id": 1, "proto": "tcp", "host_addr": "0.0.0.0", "host_port": 8080,
            "guest_addr": "10.0.2.100", "guest_port": 80,
        });
        // Where upstream puts them, and where its manual says they are.
        assert_eq!(list["entries"], json!([entry]));
        assert_eq!(list["return"]["entries"], json!([entry]));
        assert!(list.get("error").is_none());
        let removed = api.ask(&json!({ "execute": "remove_hostfwd", "arguments": { "id": 1 } }));
        assert_eq!(removed, json!({ "return": {} }));
        assert_eq!(api.ask(&json!({ "execute": "list_hostfwd" }))["entries"], json!([]));
        // Numbers are not used again.
        assert_eq!(api.forward(&json!({ "proto": "tcp", "host_port": 8080, "guest_port": 80 })), 2);
    }
}

#[test]
fn what_crashes_or_deceives_upstream_is_refused() {
    let world = World::new();
    let mut api = Api::new(&world, true, "");
    let desc = |arguments: Value| {
        let answer = api.ask(&json!({ "execute": "add_hostfwd", "arguments": arguments }));
        answer["error"]["desc"].as_str().unwrap().to_owned()
    };
    assert!(desc(json!({ "host_port": 1, "guest_port": 1 })).ends_with("bad arguments.proto"));
    assert!(
        desc(json!({ "proto": "tcp", "host_port": 70000, "guest_port": 1 }))
            .ends_with("bad arguments.host_port")
    );
    assert!(api.running().child().try_wait().unwrap().is_none());
}

#[test]
fn a_request_may_come_in_pieces() {
    let world = World::new();
    let api = Api::new(&world, true, "");
    let mut stream = api.connect();
    stream.write_all(b"{\"execute\": \"list_").unwrap();
    // Another request is answered meanwhile, so the first piece has been read alone.
    api.ask(&json!({ "execute": "list_hostfwd" }));
    stream.write_all(b"hostfwd\"}").unwrap();
    assert_eq!(finish(stream)["entries"], json!([]));
    let mut half = api.connect();
    half.write_all(b"{\"execute\": ").unwrap();
    half.shutdown(Shutdown::Write).unwrap();
    assert_eq!(finish(half)["error"]["desc"], "bad request: cannot parse JSON");
}

#[test]
fn silent_clients_hold_up_nobody() {
    let world = World::new();
    let api = Api::new(&world, true, "");
    let silent: Vec<_> = (0..20).map(|_| api.connect()).collect();
    assert_eq!(api.ask(&json!({ "execute": "list_hostfwd" }))["entries"], json!([]));
    api.guest.place().tcp_connect((crate::common::SERVER[0], 80)).unwrap();
    // They have ten seconds for a request.
    for mut one in silent {
        one.set_read_timeout(Some(crate::common::PATIENCE)).unwrap();
        assert_eq!(one.read_to_end(&mut Vec::new()).unwrap(), 0);
    }
}
