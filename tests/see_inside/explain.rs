//! The way of a connection in words, compared with what the kernel shows for the same connection.

use crate::common::{ECHO, HOST, PATIENCE, SERVER, World, need, outcome, sh};
use crate::{eventually, fails, json, may_look, pair, ringtap};
use ringtap::lab::Running;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::process::Stdio;

const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// `ringtap explain ABOUT`.
fn explain(world: &World, about: &str) -> String {
    ringtap(world, &["explain", about])
}

/// What a process's descriptors lead to.
fn descriptors(pid: u64) -> Vec<(String, String)> {
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let pair = |fd: fs::DirEntry| {
        let to = fs::read_link(fd.path()).ok()?;
        Some((fd.file_name().to_string_lossy().into_owned(), to.to_string_lossy().into_owned()))
    };
    fds.filter_map(pair).collect()
}

/// What is said of a flow's socket, as the plane has it and as the kernel numbers it.
fn socket<'a>(way: &'a Value, role: &str) -> &'a Value {
    let sockets = way["detail"]["sockets"].as_array().unwrap();
    sockets.iter().find(|s| s["role"] == role).unwrap_or_else(|| panic!("no {role}: {way:#}"))
}

#[test]
fn a_relayed_connection_is_followed_from_the_client_to_the_server_inside() {
    let world = World::new();
    let mut guest = world.guest_with(&["-p", "8080:80"]);
    let waiting = explain(&world, "8080");
    assert!(waiting.contains("nobody is connected") && waiting.contains("listens at"), "{waiting}");
    assert!(waiting.contains("nobody listens at 10.0.2.100:80"), "{waiting}");
    let listener = guest.place().tcp_listener((ANY, 80)).unwrap();
    let looks = may_look(&world);
    assert!(!looks || explain(&world, "8080").contains("10.0.2.100:80, net:["));
    let (near, far) = pair(world.lab.internet().tcp_connect((HOST[0], 8080)).unwrap(), &listener);
    let client = near.local_addr().unwrap().to_string();
    let said = explain(&world, "8080/tcp");
    let ps = json(&world, &["ps"]).remove(0);
    let plane = ps["planePID"].as_u64().unwrap();
    let control = crate::pid(&mut guest);
    let namespace = match ps["namespaces"]["net"].as_u64() {
        Some(number) if looks => format!("net:[{number}]"),
        _ => String::new(),
    };
    let listens = if looks { format!("(pid {control}) listens at ") } else { String::new() };
    for words in [
        format!("client {client}"),
        format!("connected to {}:8080", HOST[0]),
        listens,
        format!("the data plane (pid {plane}) accepts there, fd "),
        format!("{namespace}: {client} -> 10.0.2.100:80"),
        "bytes to the server are copied".to_owned(),
        format!("it sees {client}, the client itself"),
        "mark 0x7b".to_owned(),
    ] {
        assert!(said.contains(&words), "{words}\n{said}");
    }
    // The plane's descriptors are those of the kernel, where the kernel lets us look.
    let way = json(&world, &["explain", "8080"]).remove(0);
    let fds = if looks { descriptors(plane) } else { Vec::new() };
    for role in ["listener", "client", "guest"].into_iter().filter(|_| looks) {
        let fd = socket(&way, role)["fd"].to_string();
        let to = &fds.iter().find(|(n, _)| *n == fd).unwrap_or_else(|| panic!("{fd}: {fds:?}")).1;
        assert!(
            to.starts_with("socket:[") && said.contains(&format!("fd {fd} ({to})")),
            "{role} {fd} {to}\n{said}"
        );
    }
    assert_eq!(socket(&way, "client")["peer"], client);
    // The same by either end and by its name.
    let name = way["detail"]["flow"]["id"].as_str().unwrap().to_owned();
    for about in [client.as_str(), "198.51.100.2", &name] {
        assert!(explain(&world, about).contains(&format!("client {client}")), "{about}");
    }
    drop((near, far));
    eventually("it has ended", || fails_with(&world, &name).contains("no flow"));
    for (about, said) in [
        ("8081", "port 8081 is not published; published are: 8080:80/tcp"),
        ("8080/udp", "is not published"),
        ("192.0.2.1", "no live flow has that end"),
        ("nonsense", "is no port"),
    ] {
        assert!(fails(&world, &["explain", about]).contains(said), "{about}");
    }
}

/// What is said of something that may be there still.
fn fails_with(world: &World, about: &str) -> String {
    let mut command = world.ringtap(true);
    command.args(["explain", about]);
    outcome("explain", command).stderr
}

#[test]
fn why_the_gateway_is_shown_is_said() {
    let world = World::new();
    let guest = world.guest_with(&["-p", "8080:80", "-p", "8081:80,source=gateway", "-p", "8082:80,via=tap"]);
    let listener = guest.place().tcp_listener((ANY, 80)).unwrap();
    let at = |place: ringtap::lab::Place<'_>, ip: IpAddr, port| {
        pair(place.tcp_connect((ip, port)).unwrap(), &listener)
    };
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let _open = [
        at(world.lab.host(), loopback, 8080),
        at(world.lab.internet(), HOST[0], 8081),
        at(world.lab.host(), loopback, 8082),
    ];
    for (port, why) in [
        ("8080", "the gateway, not the client 127.0.0.1"),
        ("8080", "the client is on the host's loopback"),
        ("8081", "published with source=gateway"),
        ("8082", "the client is on the host's loopback"),
        ("8082", "become packets on the tap"),
    ] {
        let said = explain(&world, port);
        assert!(said.contains(why) && said.contains("it sees 10.0.2.2:"), "{port}: {why}\n{said}");
    }
    let _injected = at(world.lab.internet(), HOST[0], 8082);
    assert!(explain(&world, &HOST[0].to_string()).contains("its packets have the client's address"));
    let way = json(&world, &["explain", "8082"]).remove(0);
    assert!(way["detail"]["tap"].as_u64().is_some() && way["detail"]["showing"] == "loopback", "{way}");
}

#[test]
fn what_the_guest_dials_is_followed_outwards() {
    let world = World::new();
    need("dig");
    let guest = world.guest_with(&["--allow-host-loopback"]);
    let near = guest.place().tcp_connect((SERVER[0], ECHO)).unwrap();
    near.set_read_timeout(Some(PATIENCE)).unwrap();
    let own = near.local_addr().unwrap();
    let said = explain(&world, &own.to_string());
    let remote = format!("{}:{ECHO}", SERVER[0]);
    for words in [
        format!("guest {own}"),
        format!("packets leave by tap0, for {remote}"),
        "(/dev/net/tun)".to_owned(),
        "that socket is fd ".to_owned(),
        format!("remote {remote}"),
        format!("it sees {}:", HOST[0]),
    ] {
        assert!(said.contains(&words), "{words}\n{said}");
    }
    let on_host = world.lab.host().tcp_listener((IpAddr::V4(Ipv4Addr::LOCALHOST), 9099)).unwrap();
    let (_near, _far) =
        pair(guest.place().tcp_connect(("10.0.2.2".parse::<IpAddr>().unwrap(), 9099)).unwrap(), &on_host);
    let said = explain(&world, "10.0.2.2:9099");
    assert!(said.contains("10.0.2.2:9099 is the gateway, which stands for 127.0.0.1:9099"), "{said}");
    sh(guest.place(), "dig +short @10.0.2.3 server.test").ok();
    let said = explain(&world, "10.0.2.3:53");
    assert!(said.contains("is the address for names") && said.contains("the host's resolver"), "{said}");
}

#[test]
fn a_container_behind_a_proxy_of_dockers_is_named_with_everybody_on_the_way() {
    let world = World::new();
    need("socat");
    // A second address of the namespace stands for the container, as in tests/rootlesskit.
    let script = "exec rootlesskit --state-dir=$XDG_RUNTIME_DIR/rl --net=slirp4netns --disable-host-loopback --port-driver=builtin \
         sh -c 'ip addr add 172.17.0.2/32 dev lo; \
         socat TCP4-LISTEN:80,bind=172.17.0.2,fork,reuseaddr EXEC:cat & \
         until ss -tlnH | grep -q 172.17.0.2:80; do sleep 0.02; done; \
         rootlesskit-docker-proxy -proto tcp -host-ip 0.0.0.0 -host-port 8080 -container-ip 172.17.0.2 -container-port 80 \
         3>$XDG_RUNTIME_DIR/said & until grep -qs . $XDG_RUNTIME_DIR/said; do sleep 0.02; done; cat $XDG_RUNTIME_DIR/said; \
         exec sleep 99'";
    // Where users are not real, each command has namespaces of its own and could not see the next one's.
    let user = world.lab.users_are_real();
    let host = world.lab.host();
    let mut command = if user { host.command_as_user("sh") } else { host.command("sh") }.unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    let bin = world.lab.bin("rootlesskit");
    let path = format!("{}:{path}:/usr/sbin:/sbin", bin.parent().unwrap().display());
    command.args(["-c", script]).env("PATH", path).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut running: Running = host.spawn(&mut command).unwrap();
    let mut line = String::new();
    BufReader::new(running.child().stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "0\n");
    let mut near: TcpStream = world.lab.internet().tcp_connect((HOST[0], 8080)).unwrap();
    near.set_read_timeout(Some(PATIENCE)).unwrap();
    near.write_all(b"x").unwrap();
    std::io::Read::read_exact(&mut near, &mut [0]).unwrap();
    let run = |args: &[&str]| {
        let mut command = world.ringtap(user);
        command.args(args);
        outcome("ringtap", command).ok()
    };
    let said = run(&["explain", "8080", "--instance", "rl"]);
    let client = near.local_addr().unwrap();
    let control = running.pid();
    for words in [
        format!("rootlesskit (pid {control}) listens at 0.0.0.0:8080"),
        format!("{client} -> 172.17.0.2:80"),
        "listens at 127.0.0.1:8080 for clients inside; it told ringtap the container's address and is not on this way".to_owned(),
        "docker-proxy (pid ".to_owned(),
        "listens at 172.17.0.2:80".to_owned(),
        "socat (pid ".to_owned(),
        format!("holds the connection: 172.17.0.2:80 <- {client}"),
        format!("it sees {client}, the client itself"),
    ] {
        assert!(said.contains(&words), "{words}\n{said}");
    }
    let ps = run(&["ps", "--json"]);
    let ps: Value = serde_json::from_str(ps.lines().next().unwrap()).unwrap();
    assert_eq!((&ps["verb"], &ps["name"]), (&"rootlesskit".into(), &"rl".into()));
}
