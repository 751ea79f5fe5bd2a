//! `ringtap port`.

use crate::common::World;
use crate::{V4, V6, listens, ringtap, start};

#[test]
fn add_list_remove() {
    let world = World::new();
    let said = ringtap(&world, &["port", "ls"]).failed();
    assert!(
        said.starts_with("ringtap: no instance of yours is running; ") && said.lines().count() == 1,
        "{said}"
    );
    let instance = start(&world, &["--source-ip", "gateway"]);
    assert_eq!(ringtap(&world, &["port", "ls", "--json"]).ok(), "");
    let out = ringtap(
        &world,
        &["port", "add", "8080:80", "127.0.0.1:8081:81,source=preserve,proxy=v2", "8082:82/udp"],
    )
    .ok();
    assert_eq!(out, "1 8080:80/tcp\n2 127.0.0.1:8081:81/tcp\n3 8082:82/udp\n");
    assert!(listens(&world, V4, 8080) && listens(&world, V6, 8080));
    assert!(listens(&world, V4, 8081) && !listens(&world, V6, 8081));
    let table = ringtap(&world, &["port", "ls"]).ok();
    let rows: Vec<Vec<&str>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(rows[0][..5], ["ID", "PORT", "VIA", "SOURCE", "PROXY"]);
    assert_eq!(rows[1][..5], ["1", "8080:80/tcp", "relay", "gateway", "-"]);
    assert_eq!(rows[2][..5], ["2", "127.0.0.1:8081:81/tcp", "relay", "preserve", "v2"]);
    assert_eq!(rows[3][..2], ["3", "8082:82/udp"]);
    let json = ringtap(&world, &["port", "ls", "--json"]).ok();
    let second: serde_json::Value = serde_json::from_str(json.lines().nth(1).unwrap()).unwrap();
    assert_eq!(
        (&second["hostIP"], &second["hostPort"], &second["id"]),
        (&"127.0.0.1".into(), &8081.into(), &2.into())
    );
    assert_eq!(ringtap(&world, &["port", "rm", "1", "3", "--keep-connections"]).ok(), "1\n3\n");
    assert!(!listens(&world, V4, 8080) && listens(&world, V4, 8081));
    assert_eq!(ringtap(&world, &["port", "rm", "1"]).failed(), "ringtap: unknown id: 1\n");
    let said = ringtap(&world, &["port", "add", "127.0.0.1:8081:99"]).failed();
    assert_eq!(said, "ringtap: conflict with ID 2\n");
    // The second is wrong, so the first is not published either.
    let said = ringtap(&world, &["port", "add", "8090:90", "8091:x"]).failed();
    assert!(
        said.starts_with("ringtap: SPEC: \"8091:x\": \"x\" is not a port") && said.lines().count() == 1,
        "{said}"
    );
    assert!(!listens(&world, V4, 8090));
    let dir = instance.dir.display().to_string();
    let picked = ringtap(&world, &["port", "--state-dir", &dir, "add", "--json", "90"]).ok();
    let picked: serde_json::Value = serde_json::from_str(&picked).unwrap();
    assert_eq!(picked["picked"], true);
    assert!(listens(&world, V6, picked["hostPort"].as_u64().unwrap().try_into().unwrap()));
}

#[test]
fn instances_are_told_apart() {
    let world = World::new();
    let (one, two) = (start(&world, &[]), start(&world, &[]));
    let said = ringtap(&world, &["port", "ls"]).failed();
    assert!(said.contains("several instances") && said.contains(&one.running.pid().to_string()), "{said}");
    let control = two.running.pid().to_string();
    ringtap(&world, &["port", "add", "--instance", &control, "8080:80"]).ok();
    let child = std::fs::read_to_string(two.dir.join("child_pid")).unwrap();
    assert!(ringtap(&world, &["port", "ls", "--instance", &child]).ok().contains("8080:80/tcp"));
    let child = std::fs::read_to_string(one.dir.join("child_pid")).unwrap();
    assert!(!ringtap(&world, &["port", "ls", "--instance", &child]).ok().contains("8080:80/tcp"));
    // One instance's port is in the other's way.
    let said = ringtap(&world, &["port", "add", "--instance", &child, "8080:80"]).failed();
    assert!(
        said.starts_with("ringtap: listen tcp :8080: bind: address already in use; something else has it"),
        "{said}"
    );
    let said = ringtap(&world, &["port", "ls", "--instance", "1"]).failed();
    assert!(said.starts_with("ringtap: no instance 1 of yours"), "{said}");
}

#[test]
fn attach_publishes_too() {
    let world = World::new();
    let bare = world.bare("");
    let pid = bare.pid();
    let guest = world.attach(bare, &["-p", "8080:80", "--source-ip", "gateway"], None);
    assert!(listens(&world, V4, 8080));
    let json = ringtap(&world, &["port", "ls", "--json"]).ok();
    let port: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&port["spec"], &port["sourceIP"]), (&"8080:80/tcp".into(), &"gateway".into()));
    let dir = std::fs::read_dir(crate::base(&world)).unwrap().next().unwrap().unwrap().path();
    let stream = std::os::unix::net::UnixStream::connect(dir.join("api.sock")).unwrap();
    let info = crate::Talk::new(stream).ask("GET", "/v1/info", "").1;
    assert!(info.contains(&format!("\"childPID\":{pid},")), "{info}");
    drop(guest);
    crate::eventually("the port goes with the instance", || !listens(&world, V4, 8080));
}
