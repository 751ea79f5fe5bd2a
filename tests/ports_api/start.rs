//! `-p`: bound before COMMAND runs, or nothing runs.

use crate::common::{World, need};
use crate::{V4, V6, base, listens, ringtap, shell, start};
use std::time::Duration;

#[test]
fn ports_are_bound_and_the_api_answers_before_the_command_runs() {
    need("curl");
    let world = World::new();
    let script = "exec \"$R\" run -p 8080:80 -p 127.0.0.1:5353:53/udp -- sh -ec '
        curl -sS -m 20 --unix-socket $XDG_RUNTIME_DIR/ringtap/*/api.sock http://x/v1/ports'";
    let out = shell(&world, script).ok();
    let expected = r#"[{"id":1,"spec":{"proto":"tcp","parentPort":8080,"childPort":80}},{"id":2,"spec":{"proto":"udp4","parentIP":"127.0.0.1","parentPort":5353,"childPort":53}}]"#;
    assert_eq!(out, expected);
    assert!(!base(&world).exists(), "something is left of it");
    // Nobody has it any more.
    assert!(!listens(&world, V4, 8080));
}

#[test]
fn a_picked_port_is_named_and_serves_both_families() {
    let world = World::new();
    let instance = start(&world, &["-p", "80", "-p", "8081:81", "-p", "8100-8110:80", "-p", "0:53/udp"]);
    let lines: Vec<_> = instance.said.lines().filter(|l| l.starts_with("ringtap: port ")).collect();
    let [first, chosen, udp] = lines[..] else { panic!("{lines:?}") };
    let port = first.strip_prefix("ringtap: port 1: ").and_then(|l| l.strip_suffix(":80/tcp"));
    let port: u16 = port.and_then(|p| p.parse().ok()).unwrap_or_else(|| panic!("{first}"));
    assert!(listens(&world, V4, port) && listens(&world, V6, port));
    assert_eq!(chosen, "ringtap: port 3: 8100:80/tcp");
    assert!(udp.starts_with("ringtap: port 4: ") && udp.ends_with(":53/udp"), "{udp}");
    let ports = instance.ask_json("GET", "/ringtap/v1/ports", "").1;
    assert_eq!((&ports[0]["hostPort"], &ports[0]["picked"]), (&port.into(), &true.into()));
    assert_eq!(ports[1]["picked"], false);
}

#[test]
fn what_cannot_be_published_is_said_in_one_line_and_nothing_runs_or_stays() {
    let world = World::new();
    let _taken = world.lab.host().tcp_listener((V6, 7070)).unwrap();
    for (options, text) in [
        (&["-p", "80:80"][..], "cannot expose privileged port 80, "),
        (&["-p", "203.0.113.9:8080:80"], "cannot assign requested address; the host has no such address"),
        (&["-p", "[::1]:7070:80"], "bind: address already in use; something else has it"),
        (&["-p", "8080:80", "-p", "7060-7079:7060-7079"], "listen tcp :7070: bind: address already in use"),
        (&["-p", "8080:80", "-p", "8080:81"], "conflict with ID 1"),
        (&["-p", "8080:80/sctp"], "\"sctp\" cannot be published"),
        (&["-p", "8080:80-81"], "1 ports of the host do not match 2 of the guest"),
    ] {
        let mut args = vec!["run"];
        args.extend(options);
        args.extend(["--", "sh", "-c", "echo ran"]);
        let said = ringtap(&world, &args).failed();
        assert!(said.starts_with("ringtap: --publish") && said.contains(text), "{options:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(!base(&world).exists(), "{options:?}: something is left");
        assert!(!listens(&world, V4, 8080), "{options:?}: half of it is published");
    }
}

/// The kernel ends the ring of who was killed, and closes its listeners, some time after the process.
#[test]
fn who_takes_the_place_of_an_instance_that_was_killed_has_its_ports() {
    let world = World::new();
    let killed = world.lab.host().tcp_listener((V6, 8080)).unwrap();
    let ending = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(60));
        drop(killed);
    });
    let next = start(&world, &["-p", "8080:80"]);
    assert!(next.said.is_empty() && listens(&world, V4, 8080), "{}", next.said);
    ending.join().unwrap();
}

#[test]
fn an_expose_host_that_makes_no_sense() {
    let world = World::new();
    let said = ringtap(&world, &["run", "--expose-host", "0", "true"]).failed();
    assert!(
        said.starts_with("ringtap: --expose-host: \"0\" names no port; ") && said.lines().count() == 1,
        "{said}"
    );
}
