//! RootlessKit's API as its clients use it.

use crate::common::{ECHO, SERVER, World, need};
use crate::{PATIENCE, V4, V6, listens, outcome, start};
use std::os::unix::fs::MetadataExt;
use std::process::Command;

#[test]
fn dockers_calls_by_curl() {
    need("curl");
    let world = World::new();
    let instance = start(&world, &[]);
    let curl = |args: &[&str]| {
        let mut command: Command = world.lab.host().command_as_user("curl").unwrap();
        command
            .args(["-sS", "-m", "20", "-w", " %{http_code}", "--unix-socket"])
            .arg(instance.socket())
            .args(args);
        outcome(&args.join(" "), command).ok()
    };
    let info = curl(&["http://rootlesskit/v1/info"]);
    let pid = std::fs::read_to_string(instance.dir.join("child_pid")).unwrap();
    assert!(info.starts_with("{\"apiVersion\":\"1.1.2\",") && info.ends_with(" 200"), "{info}");
    assert!(
        info.contains(&format!("\"stateDir\":\"{}\",\"childPID\":{pid},", instance.dir.display())),
        "{info}"
    );
    // What dockerd sends for -p 8080:80, one after the other.
    let v4 =
        r#"{"proto":"tcp4","parentIP":"0.0.0.0","parentPort":8080,"childPort":8080,"childIP":"127.0.0.1"}"#;
    let v6 = r#"{"proto":"tcp6","parentIP":"::","parentPort":8080,"childPort":8080,"childIP":"::1"}"#;
    assert!(!listens(&world, V4, 8080) && !listens(&world, V6, 8080));
    let ports = "http://rootlesskit/v1/ports";
    assert_eq!(curl(&[ports, "-d", v4]), format!("{{\"id\":1,\"spec\":{v4}}} 201"));
    assert!(listens(&world, V4, 8080) && !listens(&world, V6, 8080));
    assert_eq!(curl(&[ports, "-d", v6]), format!("{{\"id\":2,\"spec\":{v6}}} 201"));
    assert!(listens(&world, V6, 8080));
    assert_eq!(curl(&[ports]), format!("[{{\"id\":1,\"spec\":{v4}}},{{\"id\":2,\"spec\":{v6}}}] 200"));
    assert_eq!(curl(&[ports, "-d", v6]), "{\"message\":\"conflict with ID 2\"}\n 400");
    assert_eq!(curl(&["-X", "DELETE", &format!("{ports}/1")]), " 200");
    assert!(!listens(&world, V4, 8080) && listens(&world, V6, 8080));
    assert_eq!(curl(&["-X", "DELETE", &format!("{ports}/1")]), "{\"message\":\"unknown id: 1\"}\n 400");
    assert_eq!(curl(&["http://rootlesskit/v1/port"]), "404 page not found\n 404");
    // Chunked, as curl does when it does not know the length.
    let chunked = curl(&["-H", "Transfer-Encoding: chunked", ports, "-d", v4]);
    assert_eq!(chunked, format!("{{\"id\":3,\"spec\":{v4}}} 201"));
}

#[test]
fn tcp_is_both_families_and_its_number_says_otherwise() {
    let world = World::new();
    let instance = start(&world, &[]);
    let add = |proto: &str, parent: &str, port: u16| {
        let spec =
            format!(r#"{{"proto":"{proto}","parentIP":"{parent}","parentPort":{port},"childPort":80}}"#);
        instance.ask("POST", "/v1/ports", &spec)
    };
    for (port, parent) in [(8080, ""), (8081, "0.0.0.0"), (8082, "::")] {
        assert_eq!(add("tcp", parent, port).0, 201);
        assert!(listens(&world, V4, port) && listens(&world, V6, port), "tcp {parent:?}");
    }
    for (port, proto, v4) in [(8083, "tcp4", true), (8084, "tcp6", false)] {
        assert_eq!(add(proto, "", port).0, 201);
        assert_eq!((listens(&world, V4, port), listens(&world, V6, port)), (v4, !v4), "{proto}");
    }
    let host = crate::common::HOST[0];
    assert_eq!(add("tcp", &host.to_string(), 8085).0, 201);
    assert!(listens(&world, host, 8085) && !listens(&world, V4, 8085));
    let says = |(status, body): (u16, String), text: &str| {
        assert_eq!((status, body), (400, format!("{{\"message\":\"{text}\"}}\n")));
    };
    says(add("tcp4", "0.0.0.0", 8081), "listen tcp4 0.0.0.0:8081: bind: address already in use");
    says(add("udp4", "203.0.113.9", 53), "listen udp4 203.0.113.9:53: bind: cannot assign requested address");
    says(add("tcp6", "127.0.0.1", 8090), "listen tcp6: address 127.0.0.1: no suitable address found");
    let (status, body) = add("tcp", "", 80);
    assert_eq!(status, 400);
    assert!(
        body.contains(
            "cannot expose privileged port 80, you can add 'net.ipv4.ip_unprivileged_port_start=80'"
        ),
        "{body}"
    );
    assert!(
        body.contains("CAP_NET_BIND_SERVICE") && body.contains("listen tcp :80: bind: permission denied"),
        "{body}"
    );
    // None of the failures left anything.
    let all = instance.ask_json("GET", "/v1/ports", "").1;
    assert_eq!(all.as_array().unwrap().len(), 6, "{all}");
}

#[test]
fn files_have_their_modes_and_go_at_the_end() {
    let world = World::new();
    let mut instance = start(&world, &[]);
    let mode = |name: &str| std::fs::metadata(instance.dir.join(name)).unwrap().mode() & 0o7777;
    assert_eq!((mode("api.sock"), mode("child_pid"), mode("lock")), (0o600, 0o444, 0o600));
    assert!(
        std::fs::read_to_string(instance.dir.join("child_pid")).unwrap().bytes().all(|b| b.is_ascii_digit())
    );
    // A client that is connected does not keep it.
    let _client = instance.connect();
    let pid = nix::unistd::Pid::from_raw(instance.running.pid().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    instance.running.child().wait().unwrap();
    assert!(!instance.dir.exists());
}

#[test]
fn flows_and_counters_are_told() {
    let world = World::new();
    let guest = world.guest();
    let dir = std::fs::read_dir(crate::base(&world)).unwrap().next().unwrap().unwrap().path();
    let mut stream = guest.place().tcp_connect((SERVER[0], ECHO)).unwrap();
    std::io::Write::write_all(&mut stream, b"12345").unwrap();
    std::io::Read::read_exact(&mut stream, &mut [0; 5]).unwrap();
    let connect = || {
        let stream = std::os::unix::net::UnixStream::connect(dir.join("api.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        crate::Talk::new(stream)
    };
    let ask = |path: &str| {
        let (status, body) = connect().ask("GET", path, "");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str::<serde_json::Value>(&body).unwrap()
    };
    let page = ask("/ringtap/v1/flows");
    let flow =
        page["flows"].as_array().unwrap().iter().find(|f| f["protocol"] == "tcp").expect("the connection");
    let remote = std::net::SocketAddr::new(SERVER[0], ECHO).to_string();
    assert_eq!((&flow["remote"], &flow["host"]), (&remote.clone().into(), &remote.into()));
    assert_eq!(flow["guest"], stream.local_addr().unwrap().to_string());
    assert_eq!(
        (&flow["bytesUp"], &flow["bytesDown"], &flow["state"]),
        (&5.into(), &5.into(), &"established".into())
    );
    assert_eq!((&flow["path"], &flow["port"], &page["next"]), (&"tap".into(), &().into(), &().into()));
    let counters = ask("/ringtap/v1/counters");
    assert!(
        counters["flowsOpened"].as_u64().unwrap() >= 1 && counters["drops"]["policy"].is_u64(),
        "{counters}"
    );
}
