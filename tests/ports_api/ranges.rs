//! Ranges of thousands of ports.

use crate::common::World;
use crate::{V4, V6, listens, ringtap, shell, start};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

const COUNT: u16 = 10_000;

#[test]
fn ten_thousand_ports_are_one_object() {
    let hard = getrlimit(Resource::RLIMIT_NOFILE).unwrap().1;
    assert!(
        hard > u64::from(COUNT) + 1000,
        "this test needs a hard limit of 11,000 open files, and has {hard}"
    );
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let world = World::new();
    let instance = start(&world, &["-p", "1500:1500"]);
    let mut talk = crate::Talk::new(instance.connect());
    let (status, body) = talk.ask("POST", "/ringtap/v1/ports", r#"{"spec":"20000-29999:30000-39999"}"#);
    assert_eq!(status, 201, "{body}");
    for port in [20_000, 20_127, 20_128, 25_000, 29_999] {
        assert!(listens(&world, V4, port) && listens(&world, V6, port), "{port}");
    }
    let ports = instance.ask_json("GET", "/ringtap/v1/ports", "").1;
    assert_eq!((ports.as_array().unwrap().len(), &ports[1]["count"]), (2, &COUNT.into()));
    let single = instance.ask_json("GET", "/v1/ports", "").1;
    assert_eq!(single.as_array().unwrap().len(), usize::from(COUNT) + 1);
    assert_eq!(single[10_000]["spec"]["childPort"], 39_999);
    // One in the middle is taken: all or nothing.
    let said = ringtap(&world, &["port", "add", "10000-20000:10000-20000"]).failed();
    assert_eq!(said, "ringtap: conflict with ID 2\n");
    assert!(!listens(&world, V4, 10_000));
    ringtap(&world, &["port", "rm", "2"]).ok();
    assert!(!listens(&world, V4, 20_000) && !listens(&world, V6, 29_999) && listens(&world, V4, 1500));
    assert_eq!(talk.ask("POST", "/ringtap/v1/ports", r#"{"spec":"20000-29999:30000-39999"}"#).0, 201);
}

#[test]
fn more_ports_than_open_files_are_refused_with_the_remedy() {
    let world = World::new();
    let said = shell(&world, "ulimit -n 600; exec \"$R\" run -p 2000-2999:2000-2999 true").failed();
    assert!(said.contains("the limit is 600; raise the hard limit") && said.lines().count() == 1, "{said}");
    // The soft limit is ours to raise.
    let script = "ulimit -Sn 300; exec \"$R\" run -p 2000-2999:2000-2999 -- sh -c 'ulimit -Sn'";
    assert_eq!(shell(&world, script).ok(), "300\n");
}
