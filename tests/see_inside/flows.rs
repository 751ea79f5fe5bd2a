//! Flows are listed with their ends, their path and what they have carried.

use crate::common::{ECHO, HOST, PATIENCE, SERVER, World, sh};
use crate::{carry, eventually, fails, json, pair, ringtap};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

fn one(world: &World, filter: &[&str]) -> Value {
    let args: Vec<_> = ["flows"].iter().chain(filter).copied().collect();
    let mut flows = json(world, &args);
    assert_eq!(flows.len(), 1, "{filter:?}: {flows:#?}");
    flows.remove(0)
}

#[test]
fn a_connection_of_the_guest_has_its_ends_and_its_bytes() {
    let world = World::new();
    let guest = world.guest();
    let listener = world.lab.internet().tcp_listener((SERVER[0], 9000)).unwrap();
    let near = guest.place().tcp_connect((SERVER[0], 9000)).unwrap();
    let (near, far) = pair(near, &listener);
    carry(&near, &far, 300_000);
    carry(&far, &near, 7000);
    let flow = one(&world, &["--port", "9000"]);
    assert_eq!(flow["protocol"], "tcp");
    assert_eq!((&flow["path"], &flow["state"]), (&"tap".into(), &"established".into()));
    assert_eq!((&flow["bytesUp"], &flow["bytesDown"]), (&300_000.into(), &7000.into()));
    assert_eq!(flow["guest"], near.local_addr().unwrap().to_string());
    assert_eq!((&flow["remote"], &flow["host"]), (&flow["host"], &format!("{}:9000", SERVER[0]).into()));
    // The host's own end is whom the server sees.
    assert_eq!(flow["local"], far.peer_addr().unwrap().to_string());
    assert!(flow["packetsUp"].as_u64().unwrap() > 1 && flow["packetsDown"].as_u64().unwrap() > 0, "{flow}");
    assert!(flow["rttUs"].as_u64().is_some() && flow["hostRttUs"].as_u64().is_some(), "{flow}");
    assert_eq!((&flow["retransmits"], &flow["hostRetransmits"]), (&0.into(), &0.into()));
    // What nobody takes is on hand, and a rate is what came within the time.
    far.set_read_timeout(Some(PATIENCE)).unwrap();
    let idle = one(&world, &["--port", "9000"]);
    assert_eq!((&idle["rateUp"], &idle["rateDown"]), (&0.into(), &0.into()));
    assert!(idle["ageMs"].as_u64() >= flow["ageMs"].as_u64());
    for filter in [
        &["--proto", "udp"][..],
        &["--path", "relay"],
        &["--state", "syn-sent"],
        &["--address", "192.0.2.1"],
        &["--port", "9001"],
    ] {
        let args: Vec<_> = ["flows"].iter().chain(filter).copied().collect();
        assert!(json(&world, &args).is_empty(), "{filter:?}");
    }
    one(
        &world,
        &["--proto", "tcp", "--path", "tap", "--state", "established", "--address", &SERVER[0].to_string()],
    );
    let table = ringtap(&world, &["flows"]);
    assert!(table.starts_with("FLOW") && table.contains("established") && table.contains("293K"), "{table}");
    // An end on either side takes it off the list.
    drop((near, far));
    eventually("the flow has ended", || {
        json(&world, &["flows", "--port", "9000", "--state", "established"]).is_empty()
    });
    assert!(fails(&world, &["flows", "--address", "x"]).contains("is no address"));
}

#[test]
fn unread_bytes_are_on_hand_and_retransmissions_are_not_made_up() {
    let world = World::new();
    let guest = world.guest();
    let listener = world.lab.internet().tcp_listener((SERVER[0], 9000)).unwrap();
    let (near, far) = pair(guest.place().tcp_connect((SERVER[0], 9000)).unwrap(), &listener);
    let stuffed = std::thread::spawn(move || {
        use std::io::Write;
        near.set_write_timeout(Some(std::time::Duration::from_secs(2))).unwrap();
        let _ = (&near).write_all(&vec![1; 64 << 20]);
        near
    });
    eventually("bytes wait", || {
        let flow = one(&world, &["--port", "9000"]);
        flow["bufferedUp"].as_u64().unwrap() > 10_000
    });
    // The host's kernel may have sent something again; we have sent nothing.
    assert_eq!(one(&world, &["--port", "9000"])["retransmits"], 0);
    let near = stuffed.join().unwrap();
    drop(far);
    drop(near);
}

#[test]
fn relayed_and_injected_connections_say_so_and_whom_they_are_for() {
    let world = World::new();
    let guest = world.guest_with(&["-p", "8080:80", "-p", "8081:80,via=tap", "-p", "5353:53/udp"]);
    let listener = guest.place().tcp_listener((ANY, 80)).unwrap();
    for (port, path) in [(8080, "relay"), (8081, "injected")] {
        let (near, far) = pair(world.lab.internet().tcp_connect((HOST[0], port)).unwrap(), &listener);
        carry(&near, &far, 5000);
        carry(&far, &near, 300);
        let number = port.to_string();
        // Delivered to the client a moment before it is counted.
        eventually("all is counted", || one(&world, &["--port", &number])["bytesUp"] == 300);
        let flow = one(&world, &["--port", &number]);
        assert_eq!((&flow["path"], &flow["protocol"]), (&path.into(), &"tcp".into()));
        assert_eq!((&flow["bytesUp"], &flow["bytesDown"]), (&300.into(), &5000.into()));
        assert_eq!(flow["host"], near.local_addr().unwrap().to_string());
        assert_eq!(flow["local"], near.peer_addr().unwrap().to_string());
        assert_eq!(flow["remote"], far.peer_addr().unwrap().to_string());
        assert_eq!(flow["guest"], far.local_addr().unwrap().to_string());
        let gears = if path == "relay" { serde_json::json!(["copy", "copy"]) } else { Value::Null };
        assert_eq!(flow["gears"], gears);
        assert!(flow["hostRttUs"].as_u64().is_some(), "{flow}");
    }
    // Bulk is spliced while it moves.
    let (near, far) = pair(world.lab.internet().tcp_connect((HOST[0], 8080)).unwrap(), &listener);
    let seen = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // For as long as it takes to look, which on a busy machine is long.
        scope.spawn(|| {
            let began = Instant::now();
            while !seen.load(Ordering::Relaxed) && began.elapsed() < PATIENCE {
                carry(&near, &far, 200 << 20);
            }
        });
        eventually("it is spliced", || {
            ringtap(&world, &["flows", "--path", "splice"]).contains("relay splice")
        });
        seen.store(true, Ordering::Relaxed);
    });
    let server = guest.place().udp_socket((ANY, 53)).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let client = world.lab.internet().udp_socket((SERVER[0], 0)).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    for _ in 0..3 {
        client.send_to(&[3; 70], (HOST[0], 5353)).unwrap();
        let (_, from) = server.recv_from(&mut [0; 99]).unwrap();
        server.send_to(&[4; 50], from).unwrap();
        client.recv_from(&mut [0; 99]).unwrap();
    }
    let flow = one(&world, &["--proto", "udp"]);
    assert_eq!((&flow["bytesDown"], &flow["packetsDown"]), (&210.into(), &3.into()));
    assert_eq!((&flow["bytesUp"], &flow["packetsUp"]), (&150.into(), &3.into()));
    let own = client.local_addr().unwrap().to_string();
    assert_eq!((&flow["host"], &flow["remote"]), (&own.clone().into(), &own.into()));
    assert_eq!(flow["local"], format!("{}:5353", HOST[0]));
}

#[test]
fn datagrams_echoes_and_questions_are_flows_too() {
    let world = World::new();
    crate::common::need("dig");
    let guest = world.guest();
    let server = world.lab.internet().udp_socket((SERVER[0], 9001)).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let near = guest.place().udp_socket((ANY, 4444)).unwrap();
    for _ in 0..4 {
        near.send_to(&[1; 100], (SERVER[0], 9001)).unwrap();
        let (_, from) = server.recv_from(&mut [0; 200]).unwrap();
        server.send_to(&[2; 30], from).unwrap();
        near.recv_from(&mut [0; 200]).unwrap();
    }
    let flow = one(&world, &["--port", "9001"]);
    assert_eq!((&flow["protocol"], &flow["path"]), (&"udp".into(), &"tap".into()));
    assert_eq!((&flow["bytesUp"], &flow["packetsUp"]), (&400.into(), &4.into()));
    assert_eq!((&flow["bytesDown"], &flow["packetsDown"]), (&120.into(), &4.into()));
    assert!(flow["guest"].as_str().unwrap().ends_with(":4444"));
    sh(guest.place(), &format!("ping -c 3 -i 0.2 {}; dig +short @10.0.2.3 server.test", SERVER[0])).ok();
    let echo = one(&world, &["--proto", "icmp"]);
    assert_eq!((&echo["packetsUp"], &echo["packetsDown"]), (&3.into(), &3.into()));
    let dns = one(&world, &["--proto", "dns"]);
    assert_eq!((&dns["packetsUp"], &dns["packetsDown"]), (&1.into(), &1.into()));
    assert_eq!((&dns["remote"], &dns["host"]), (&"10.0.2.3:53".into(), &format!("{}:53", SERVER[0]).into()));
}

#[test]
fn more_flows_than_a_page_holds_are_each_listed_once() {
    const COUNT: usize = 300;
    // Both ends are this process's.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let world = World::new();
    let guest = world.guest();
    let streams: Vec<_> = (0..COUNT).map(|_| guest.place().tcp_connect((SERVER[0], ECHO)).unwrap()).collect();
    eventually("all stand", || json(&world, &["flows", "--state", "established"]).len() == COUNT);
    let flows = json(&world, &["flows", "--port", &ECHO.to_string(), "--sort", "guest"]);
    let mut seen: Vec<_> = flows.iter().map(|f| f["guest"].as_str().unwrap().to_owned()).collect();
    let mut own: Vec<_> = streams.iter().map(|s| s.local_addr().unwrap().to_string()).collect();
    seen.sort();
    own.sort();
    assert_eq!(seen, own);
    assert_eq!(json(&world, &["flows", "--limit", "5"]).len(), 5);
    let looks = ringtap(&world, &["flows", "--watch", "0.1", "--count", "2", "--json", "--limit", "3"]);
    let looks: Vec<Value> = looks.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(looks.len() == 2 && looks.iter().all(|l| l["flows"].as_array().unwrap().len() == 3), "{looks:?}");
}

#[test]
fn who_watches_sees_what_moves_what_rests_and_what_is_gone() {
    const COUNT: usize = 300;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let world = World::new();
    let guest = world.guest();
    let mut streams: Vec<_> =
        (0..COUNT).map(|_| guest.place().tcp_connect((SERVER[0], ECHO)).unwrap()).collect();
    eventually("all stand", || json(&world, &["flows", "--state", "established"]).len() == COUNT);
    let ends: Vec<_> = streams.iter().map(|s| s.local_addr().unwrap().to_string()).collect();
    let looks = std::thread::scope(|scope| {
        let watcher =
            scope.spawn(|| ringtap(&world, &["flows", "--watch", "0.25", "--count", "10", "--json"]));
        // Some looks at rest, then one connection moves and another ends.
        std::thread::sleep(Duration::from_secs(1));
        let mover = &mut streams[7];
        mover.set_read_timeout(Some(PATIENCE)).unwrap();
        mover.write_all(&[7; 1000]).unwrap();
        mover.read_exact(&mut [0; 1000]).unwrap();
        drop(streams.remove(9));
        watcher.join().unwrap()
    });
    let looks: Vec<Value> = looks.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let of = |look: usize, end: &str| {
        let flows = looks[look]["flows"].as_array().unwrap();
        flows.iter().find(|f| f["guest"] == end && f["state"] == "established").cloned()
    };
    for (nth, end) in ends.iter().enumerate() {
        let first = of(0, end).unwrap();
        assert_eq!(first["bytesUp"], 0, "{nth}: {first}");
        let Some(last) = of(9, end) else {
            assert_eq!(nth, 9, "is gone");
            continue;
        };
        let carried = if nth == 7 { 1000 } else { 0 };
        assert_eq!((&last["bytesUp"], &last["bytesDown"]), (&carried.into(), &carried.into()), "{nth}");
        assert_eq!((&last["rateUp"], &last["id"]), (&0.into(), &first["id"]), "{nth}: {last}");
        // Nine looks a quarter of a second apart.
        let age = |flow: &Value| flow["ageMs"].as_u64().unwrap();
        assert!(age(&last) >= age(&first) + 2000, "{nth}: {first} {last}");
    }
    assert!(of(9, &ends[9]).is_none(), "ended, and still shown");
    assert!((1..10).any(|look| of(look, &ends[7]).unwrap()["rateUp"].as_u64() > Some(0)), "no rate seen");
}
