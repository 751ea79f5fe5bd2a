//! Instances are listed with what they are, and named in any way.

use crate::common::World;
use crate::{eventually, fails, json, may_look, pid, ringtap};
use serde_json::Value;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;

fn inode(path: String) -> u64 {
    std::fs::metadata(&path).unwrap_or_else(|e| panic!("{path}: {e}")).ino()
}

#[test]
fn every_instance_is_listed_with_its_processes_namespaces_addresses_and_ports() {
    let world = World::new();
    assert_eq!(ringtap(&world, &["ps"]).lines().count(), 1);
    assert!(json(&world, &["ps"]).is_empty());
    let base = world.lab.dir().join("user-run");
    let dir = base.join("web").display().to_string();
    let mut web = world.guest_with(&[
        "--state-dir",
        &dir,
        "-p",
        "8080:80",
        "-p",
        "5353:53/udp",
        "--cidr",
        "10.9.0.0/24",
    ]);
    let bare = world.bare("");
    let inside = bare.pid();
    let mut attached = world.attach(bare, &["--no-ipv6"], None);
    let all = json(&world, &["ps"]);
    let of = |verb: &str| {
        let mut found = all.iter().filter(|one| one["verb"] == verb);
        found.next().unwrap_or_else(|| panic!("no {verb}: {all:#?}")).clone()
    };
    let run = of("run");
    let child = run["childPID"].as_u64().unwrap();
    assert_eq!((&run["name"], &run["stateDir"]), (&"web".into(), &Value::from(dir.clone())));
    assert_eq!(run["pid"], pid(&mut web));
    let plane = std::fs::read_to_string(format!("{dir}/plane_pid")).unwrap();
    assert_eq!(run["planePID"].to_string(), plane);
    assert_eq!(run["network"]["addresses"], serde_json::json!(["10.9.0.100/24", "fd00::100/64"]));
    let specs: Vec<_> =
        run["ports"].as_array().unwrap().iter().map(|p| p["spec"].as_str().unwrap()).collect();
    assert_eq!(specs, ["8080:80/tcp", "5353:53/udp"]);
    for kind in ["net", "user", "mnt", "pid"].into_iter().filter(|_| may_look(&world)) {
        assert_eq!(run["namespaces"][kind], inode(format!("/proc/{child}/ns/{kind}")), "{kind}");
    }
    assert!(run["uptimeMs"].as_u64().unwrap() < 60_000);
    let attach = of("attach");
    assert_eq!((&attach["childPID"], &attach["pid"]), (&inside.into(), &attached.running()[1].pid().into()));
    assert!(
        !may_look(&world) || attach["namespaces"]["net"] == inode(format!("/proc/{inside}/ns/net")),
        "{attach}"
    );
    assert_eq!(attach["network"]["addresses"], serde_json::json!(["10.0.2.100/24"]));
    let table = ringtap(&world, &["ps"]);
    let line = table.lines().find(|l| l.starts_with("web ")).unwrap();
    for word in ["run", "10.9.0.100/24", "8080:80/tcp", &dir, &child.to_string()] {
        assert!(line.contains(word), "{word}: {line}");
    }

    // All verbs take it in any of these ways.
    let control = pid(&mut web).to_string();
    for name in ["web", &dir, &control, &child.to_string()] {
        for args in [&["port", "ls"][..], &["flows"], &["stats"]] {
            let args: Vec<_> = args.iter().copied().chain(["--instance", name]).collect();
            ringtap(&world, &args);
        }
        assert!(ringtap(&world, &["port", "ls", "--instance", name]).contains("8080:80/tcp"), "{name}");
        assert!(ringtap(&world, &["explain", "8080", "--instance", name]).contains("8080"), "{name}");
    }
    ringtap(&world, &["flows", "--state-dir", &dir]);
    for args in [&["flows"][..], &["stats"], &["explain", "8080"]] {
        let said = fails(&world, args);
        assert!(said.contains("several instances of yours are running") && said.contains("(web)"), "{said}");
    }
    assert!(
        fails(&world, &["flows", "--instance", "nobody"]).contains("no instance nobody of yours is running")
    );

    // With one running none is named.
    drop(attached);
    eventually("the other one is gone", || json(&world, &["ps"]).len() == 1);
    assert!(ringtap(&world, &["explain", "8080"]).contains("nobody is connected"));
    drop(web);
    eventually("none is left", || json(&world, &["ps"]).is_empty());
    // What a killed one has left is swept by the next start, whatever it was called.
    let third = world.guest();
    let left: Vec<_> =
        std::fs::read_dir(base.join("ringtap")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 1, "{left:?}");
    drop(third);
}

#[test]
fn those_under_another_name_are_listed_and_named_to_whoever_asks_them() {
    let world = World::new();
    let bare = world.bare("");
    // A program that is called so without being ours is none.
    let other = world.lab.dir().join("slirp4netns");
    std::fs::copy("/bin/sleep", &other).unwrap();
    let _other = world.lab.host().spawn(&mut world.shell(&format!("exec {} 1000", other.display()))).unwrap();
    let inside = bare.pid();
    for (kind, place) in [("pid", inside.to_string()), ("path", format!("/proc/{inside}/ns/net"))] {
        let script = format!(
            "exec slirp4netns -c -r 3 --cidr 10.7.0.0/24 --mtu 4000 --netns-type {kind} {place} {kind}0 3>&1 >/dev/null"
        );
        let mut running = world.lab.host().spawn(world.shell(&script).stdout(Stdio::piped())).unwrap();
        let mut said = String::new();
        running.child().stdout.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(said, "1", "{kind}");
        if !may_look(&world) {
            continue;
        }
        let all = json(&world, &["ps"]);
        assert_eq!(all.len(), 1, "{all:#?}");
        let told = ["verb", "pid", "childPID", "stateDir", "ports"].map(|name| all[0][name].clone());
        let should =
            ["slirp4netns".into(), running.pid().into(), inside.into(), "".into(), serde_json::json!([])];
        assert_eq!(told, should, "{kind}");
        let plane = all[0]["planePID"].as_u64().unwrap();
        let status = std::fs::read_to_string(format!("/proc/{plane}/status")).unwrap();
        assert!(status.contains(&format!("PPid:\t{}\n", running.pid())), "{status}");
        assert_eq!(all[0]["namespaces"]["net"], inode(format!("/proc/{inside}/ns/net")));
        let network = &all[0]["network"];
        assert_eq!((&network["addresses"][0], &network["mtu"]), (&"10.7.0.100/24".into(), &4000.into()));
        assert_eq!(network["ifname"], format!("{kind}0"));
        assert!(ringtap(&world, &["ps"]).contains("slirp4netns"));
        // Nothing else can be said of it, and whoever asks is told so, by any of its processes' ids or by none.
        for name in [running.pid().to_string(), inside.to_string(), plane.to_string()] {
            assert!(fails(&world, &["flows", "--instance", &name]).contains("no API"), "{name}");
        }
        assert!(fails(&world, &["capture"]).contains("no API"));
        assert!(fails(&world, &["flows", "--instance", "1"]).contains("no instance of yours"));
    }
    eventually("it has ended", || !may_look(&world) || json(&world, &["ps"]).is_empty());
}
