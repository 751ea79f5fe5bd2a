//! Counters and distributions are those of traffic whose amounts are known; JSON and Prometheus say the same.

use crate::common::{HOST, PATIENCE, SERVER, World, need, sh};
use crate::{carry, eventually, json, pair, ringtap, stats};
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::time::{Duration, Instant};

const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

fn number(stats: &Value, path: &[&str]) -> u64 {
    path.iter().fold(stats, |at, name| &at[*name]).as_u64().unwrap_or_else(|| panic!("{path:?}: {stats}"))
}

/// How many values of a distribution are within a bin.
fn within(stats: &Value, name: &str, range: std::ops::Range<u64>) -> u64 {
    let bins = stats["histograms"][name]["bins"].as_array().unwrap().iter();
    let bins = bins.map(|b| (b[0].as_u64().unwrap(), b[1].as_u64().unwrap()));
    bins.filter(|(first, _)| range.contains(first)).map(|(_, n)| n).sum()
}

#[test]
fn frames_are_counted_by_direction_and_size() {
    let world = World::new();
    let guest = world.guest_with(&["--no-ipv6"]);
    let server = world.lab.internet().udp_socket((SERVER[0], 9001)).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let near = guest.place().udp_socket((ANY, 0)).unwrap();
    near.set_read_timeout(Some(PATIENCE)).unwrap();
    let before = stats(&world);
    for _ in 0..20 {
        // 14 bytes of Ethernet, 20 of IP, 8 of UDP.
        near.send_to(&[1; 1000], (SERVER[0], 9001)).unwrap();
        let (_, from) = server.recv_from(&mut [0; 2000]).unwrap();
        server.send_to(&[2; 300], from).unwrap();
        near.recv_from(&mut [0; 2000]).unwrap();
    }
    let after = stats(&world);
    let more = |name: &str, range: std::ops::Range<u64>| {
        within(&after, name, range.clone()) - within(&before, name, range)
    };
    assert_eq!(more("frameBytesFromGuest", 1024..1088), 20);
    assert_eq!(more("frameBytesToGuest", 336..352), 20);
    for (side, histogram) in [("FromGuest", "frameBytesFromGuest"), ("ToGuest", "frameBytesToGuest")] {
        let (frames, bytes) = (format!("frames{side}"), format!("bytes{side}"));
        for s in [&before, &after] {
            let told = &s["histograms"][histogram];
            assert_eq!((&told["count"], &told["sum"]), (&s["counters"][&frames], &s["counters"][&bytes]));
        }
    }
    // What is fragmented is the fragments (2 of 1514 bytes, one of 1082), and not once more the whole (4042).
    near.send_to(&[1; 4000], (SERVER[0], 9001)).unwrap();
    server.recv_from(&mut [0; 5000]).unwrap();
    let now = stats(&world);
    let more = |range: std::ops::Range<u64>| {
        within(&now, "frameBytesFromGuest", range.clone()) - within(&after, "frameBytesFromGuest", range)
    };
    assert_eq!([more(1472..1536), more(1024..1088), more(2048..8192)], [2, 1, 0]);
}

#[test]
fn the_age_is_that_of_the_data_plane() {
    let start = Instant::now();
    let world = World::new();
    let guest = world.guest();
    let first = number(&stats(&world), &["ageMs"]);
    std::thread::sleep(Duration::from_millis(300));
    let second = number(&stats(&world), &["ageMs"]);
    let most = start.elapsed().as_millis() as u64;
    assert!(second >= first + 300 && second <= most, "{first} ms, {second} ms of {most}");
    drop(guest);
}

#[test]
fn flows_connects_first_bytes_and_questions_are_counted_and_timed() {
    let world = World::new();
    need("dig");
    let guest = world.guest_with(&["-p", "8080:80", "-p", "8081:80,via=tap"]);
    let outside = world.lab.internet().tcp_listener((SERVER[0], 9000)).unwrap();
    let inside = guest.place().tcp_listener((ANY, 80)).unwrap();
    let before = stats(&world);
    let out: Vec<_> =
        (0..5).map(|_| pair(guest.place().tcp_connect((SERVER[0], 9000)).unwrap(), &outside)).collect();
    let mut published = Vec::new();
    for (port, count) in [(8080, 4), (8081, 3)] {
        for _ in 0..count {
            published.push(pair(world.lab.internet().tcp_connect((HOST[0], port)).unwrap(), &inside));
        }
    }
    // Two of those say nothing yet.
    for (near, far) in &published[2..] {
        carry(far, near, 100);
    }
    sh(guest.place(), "for i in 1 2 3; do dig +short @10.0.2.3 server.test; done").ok();
    let mut now = stats(&world);
    let more = |now: &Value, path: &[&str]| number(now, path) - number(&before, path);
    eventually("the last byte is counted", || {
        now = stats(&world);
        more(&now, &["histograms", "firstByteUs", "count"]) >= 5
    });
    let timed = |name: &str| more(&now, &["histograms", name, "count"]);
    assert_eq!(timed("connectHostUs"), 5);
    assert_eq!(timed("connectGuestUs"), 7);
    assert_eq!(timed("firstByteUs"), 5);
    assert_eq!(timed("dnsUs"), 3);
    for name in ["connectHostUs", "connectGuestUs", "firstByteUs", "dnsUs"] {
        let h = &now["histograms"][name];
        let of = |q: &str| h[q].as_u64().unwrap();
        assert!(of("max") > 0 && of("max") < PATIENCE.as_micros() as u64, "{name}: {h}");
        assert!(of("p50") <= of("p90") && of("p90") <= of("p99") && of("p999") <= of("max"), "{name}: {h}");
    }
    // Five of the guest's, three injected; each question of dig's has a port of its own.
    assert_eq!(more(&now, &["counters", "flowsOpened"]), 5 + 3 + 3);
    // Questions are forgotten after a while.
    assert!(now["live"]["relayTcp"] == 4 && number(&now, &["live", "dns"]) <= 3, "{now}");
    assert_eq!(now["live"]["tcp"], 5 + 3);
    drop((out, published));
    eventually("they are closed", || {
        stats(&world)["live"]["relayTcp"] == 0 && stats(&world)["live"]["tcp"] == 0
    });
    let now = stats(&world);
    let (opened, closed) =
        (number(&now, &["counters", "flowsOpened"]), number(&now, &["counters", "flowsClosed"]));
    assert_eq!(opened - closed, number(&now, &["live", "dns"]) + number(&now, &["live", "udp"]));
}

#[test]
fn the_ring_its_wake_ups_buffers_and_pipes_add_up() {
    let world = World::new();
    let guest = world.guest_with(&["-p", "8080:80"]);
    let inside = guest.place().tcp_listener((ANY, 80)).unwrap();
    let (near, far) = pair(world.lab.internet().tcp_connect((HOST[0], 8080)).unwrap(), &inside);
    carry(&near, &far, 128 << 20);
    carry(&far, &near, 128 << 20);
    let s = stats(&world);
    let of = |path: &[&str]| number(&s, path);
    let (submitted, told) = (of(&["ring", "submitted"]), of(&["histograms", "submittedPerWakeup", "sum"]));
    // What this batch has submitted so far is told with the next wake-up.
    assert!(told <= submitted && told + 64 > submitted, "{told} of {submitted}");
    let completed = of(&["histograms", "completedPerWakeup", "sum"]);
    assert!(completed > 0 && completed <= of(&["ring", "completed"]) + 1000, "{s}");
    assert!(of(&["histograms", "completedPerWakeup", "count"]) <= of(&["ring", "enters"]));
    assert!(of(&["histograms", "completedPerWakeup", "max"]) <= 64);
    assert!(of(&["pipes", "made"]) > 0 && of(&["pipes", "most"]) == 32, "{s}");
    eventually("what rests holds no pipe", || stats(&world)["pipes"]["lent"] == 0);
    let classes = ["tap", "host", "small", "relay", "message"];
    for class in classes {
        assert!(of(&["buffers", class, "held"]) <= of(&["buffers", class, "total"]));
    }
    let held = classes.map(|class| of(&["buffers", class, "held"])).iter().sum::<u64>();
    assert_eq!(held, of(&["counters", "buffersHeld"]));
    let looks = ringtap(&world, &["stats", "--watch", "0.2", "--count", "2"]);
    assert!(looks.matches("frames from the guest").count() == 2 && looks.contains("/s"), "{looks}");
}

#[test]
fn prometheus_gets_the_same_by_the_api_and_by_the_command() {
    let world = World::new();
    need("curl");
    let mut guest = world.guest_with(&["-p", "8080:80", "-p", "127.0.0.1:5353:53/udp"]);
    let inside = guest.place().tcp_listener((ANY, 80)).unwrap();
    let (near, far) = pair(world.lab.internet().tcp_connect((HOST[0], 8080)).unwrap(), &inside);
    carry(&near, &far, 5000);
    carry(&far, &near, 300);
    let pid = crate::pid(&mut guest);
    let socket = world.lab.dir().join(format!("user-run/ringtap/{pid}/api.sock"));
    let get = |path: &str| {
        let script = format!("curl -sS -i --unix-socket {} http://x{path}", socket.display());
        sh(world.lab.host(), &script).ok()
    };
    eventually("all is counted", || {
        get("/ringtap/v1/metrics").contains("port_bytes_from_guest_total{id=\"1\",port=\"8080:80/tcp\"} 300")
    });
    let text = get("/ringtap/v1/metrics");
    assert!(
        text.starts_with("HTTP/1.1 200") && text.contains("Content-Type: text/plain; version=0.0.4"),
        "{text}"
    );
    for line in [
        "ringtap_port_accepted_total{id=\"1\",port=\"8080:80/tcp\"} 1",
        "ringtap_port_open{id=\"1\",port=\"8080:80/tcp\"} 1",
        "ringtap_port_bytes_to_guest_total{id=\"1\",port=\"8080:80/tcp\"} 5000",
        "ringtap_port_accepted_total{id=\"2\",port=\"127.0.0.1:5353:53/udp\"} 0",
        "ringtap_connect_guest_seconds_count 1",
        "ringtap_flows{kind=\"relay_tcp\"} 1",
        "ringtap_drops_total{reason=\"policy\"} 0",
        concat!("ringtap_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
    ] {
        assert!(text.lines().any(|l| l.trim_end() == line), "{line}\n{text}");
    }
    let names = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|l| l.starts_with("ringtap_"));
        lines.map(|l| l.rsplit_once(' ').unwrap().0.to_owned()).collect()
    };
    let command = ringtap(&world, &["stats", "--prometheus"]);
    assert_eq!(names(&command), names(&text));
    let opened = json(&world, &["stats"])[0]["counters"]["flowsOpened"].clone();
    assert!(command.contains(&format!("\nringtap_flows_opened_total {opened}\n")), "{command}");
    // Whoever can reach the socket sees, and changes nothing by it.
    assert!(get("/ringtap/v1/flow?id=tcp:99.0").starts_with("HTTP/1.1 404"));
    assert!(get("/ringtap/v1/flow").starts_with("HTTP/1.1 400"));
    let mut post = Command::new("curl");
    post.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "-X", "POST", "--unix-socket"]).arg(&socket);
    let said = post.arg("http://x/ringtap/v1/stats").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout), "405");
    drop((near, far));
}
