//! rootlessctl, and what the API says in RootlessKit's place.

use crate::common::{World, need};
use crate::sh;

const START: &str =
    "exec rootlesskit --state-dir=$XDG_RUNTIME_DIR/rk --disable-host-loopback --net=slirp4netns";

#[test]
fn ports_are_added_listed_and_removed() {
    let world = World::new();
    let script = format!(
        "{START} --port-driver=builtin -p 127.0.0.1:8079:79/tcp sh -c '\
         rootlessctl add-ports 127.0.0.1:8080:80/tcp :8081:81/udp; \
         rootlessctl add-ports --json 127.0.0.1:8082:10.0.2.100:80/tcp4; \
         rootlessctl list-ports; rootlessctl remove-ports 2 4; rootlessctl list-ports --json'"
    );
    assert_eq!(
        sh(&world, &script).ok(),
        "2\n3\n\
         {\"id\":4,\"spec\":{\"proto\":\"tcp4\",\"parentIP\":\"127.0.0.1\",\"parentPort\":8082,\"childPort\":80,\"childIP\":\"10.0.2.100\"}}\n\
         ID    PROTO    PARENTIP     PARENTPORT    CHILDIP       CHILDPORT    \n\
         1     tcp      127.0.0.1    8079                        79           \n\
         2     tcp      127.0.0.1    8080                        80           \n\
         3     udp                   8081                        81           \n\
         4     tcp4     127.0.0.1    8082          10.0.2.100    80           \n\
         2\n4\n\
         {\"id\":1,\"spec\":{\"proto\":\"tcp\",\"parentIP\":\"127.0.0.1\",\"parentPort\":8079,\"childPort\":79}}\n\
         {\"id\":3,\"spec\":{\"proto\":\"udp\",\"parentPort\":8081,\"childPort\":81}}\n"
    );
}

#[test]
fn info_is_that_of_the_drivers_asked_for() {
    let world = World::new();
    for (driver, protocols) in
        [("builtin", "tcp tcp4 tcp6 udp udp4 udp6"), ("slirp4netns", "tcp tcp4 udp udp4")]
    {
        let script =
            format!("{START} --port-driver={driver} sh -c 'rootlessctl info; rootlessctl info --json'");
        let said = sh(&world, &script).ok();
        let expected = format!(
            "- Network Driver: slirp4netns\n  - DNS: [10.0.2.3]\n  - IP: 10.0.2.100\n- Port Driver: {driver}\n  \
             - Supported protocols: [{protocols}]\n{{\n    \"apiVersion\": \"1.1.2\",\n    \"version\": \"3.1.0\",\n"
        );
        assert!(said.contains(&expected), "{said}");
        assert_eq!(said.contains("\"disallowLoopbackChildIP\": true"), driver == "slirp4netns", "{said}");
    }
}

#[test]
fn errors_are_one_line_with_the_prefix() {
    let world = World::new();
    let script = format!(
        "{START} --port-driver=builtin sh -c 'rootlessctl add-ports bad; rootlessctl remove-ports 7; \
         rootlessctl add-ports :8080:80/sctp; unset ROOTLESSKIT_STATE_DIR; rootlessctl info; echo $?'"
    );
    let said = sh(&world, &script);
    let errors: Vec<_> = said.stderr.lines().collect();
    assert!(errors[0].starts_with("error: ") && errors[0].contains("bad"), "{said:?}");
    assert_eq!(
        errors[1..],
        [
            "error: unknown id: 7",
            "error: unsupported port protocol sctp",
            "error: please specify --socket or set $ROOTLESSKIT_STATE_DIR"
        ]
    );
    assert_eq!(said.ok(), "1\n");
}

#[test]
fn without_a_port_driver_there_are_no_ports_and_without_a_network_no_network_driver() {
    let world = World::new();
    let script = format!("{START} rootlessctl list-ports");
    assert!(sh(&world, &script).failed().contains("error: no PortDriver is available\n"));
    let said = sh(&world, "exec rootlesskit rootlessctl info").ok();
    assert!(said.lines().count() == 4 && !said.contains("Driver"), "{said}");
}

#[test]
fn the_rootlessctl_of_debian_understands_us() {
    need("rootlesskit");
    let world = World::new();
    let theirs = "PATH=/usr/bin:/bin rootlessctl";
    let script = format!(
        "{START} --port-driver=builtin sh -c '{theirs} add-ports 127.0.0.1:8080:80/tcp; {theirs} list-ports; {theirs} info; \
         {theirs} remove-ports 1; echo ==; rootlessctl add-ports 127.0.0.1:8080:80/tcp; rootlessctl list-ports; \
         rootlessctl info; rootlessctl remove-ports 2'"
    );
    let mut command = world.shell(&script);
    command.env("LANG", "C.UTF-8");
    let said = crate::outcome(&script, command).ok();
    let (theirs, ours) = said.split_once("==\n").unwrap();
    let without_ids = |text: &str| {
        let ids = ["1", "2"];
        let lines = text.lines().filter(|line| !ids.contains(line));
        lines.map(|line| line.trim_start_matches(['1', '2']).to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(without_ids(theirs), without_ids(ours));
}
