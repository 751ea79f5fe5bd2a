//! Who one is inside.

use crate::{Bench, run};

fn words(text: &str) -> Vec<Vec<u32>> {
    text.lines().map(|l| l.split_whitespace().map(|w| w.parse().unwrap()).collect()).collect()
}

#[test]
fn a_user_is_root_and_has_its_sub_ids() {
    let bench = Bench::new();
    let said = run(bench.user(&["run", "sh", "-c", "id -u; id -g; cat /proc/self/uid_map"]));
    assert_eq!(said.status, 0, "{said:?}");
    let map = said.out.strip_prefix("0\n0\n").expect("uid and gid 0");
    let map = words(map);
    if bench.lab.users_are_real() {
        assert_eq!((map.len(), &map[1][2..]), (2, &[65536][..]), "{map:?}");
        assert_eq!(map[1][0], 1);
    } else {
        assert_eq!(map.len(), 1, "{map:?}");
    }
    assert_eq!((map[0][0], map[0][2]), (0, 1));
}

#[test]
fn root_keeps_every_id_under_its_own_number() {
    let bench = Bench::new();
    let outer = run(bench.root_shell("cat /proc/self/uid_map"));
    let inner = run(bench.root(&["run", "cat", "/proc/self/uid_map"]));
    let identity: Vec<_> = words(&outer.out).into_iter().map(|e| vec![e[0], e[0], e[2]]).collect();
    assert_eq!(words(&inner.out), identity, "{inner:?}");
}

#[test]
fn without_sub_ids_there_is_one() {
    let bench = Bench::new();
    if bench.lab.ids() == 1 {
        // There is no second user to be here: the one that runs this has no sub-ids and is the case itself.
        let said = run(bench.user(&["run", "cat", "/proc/self/uid_map"]));
        assert_eq!(words(&said.out).len(), 1, "{said:?}");
        return;
    }
    let script = "chmod 777 \"$XDG_RUNTIME_DIR\"; exec setpriv --reuid 5 --regid 5 --clear-groups \
                  env -u XDG_RUNTIME_DIR \"$R\" run sh -c 'id -u; cat /proc/self/uid_map; cat /proc/self/setgroups'";
    let said = run(bench.root_shell(script));
    assert_eq!(said.status, 0, "{said:?}");
    let (map, setgroups) = said.out.strip_prefix("0\n").unwrap().split_once('\n').unwrap();
    assert_eq!(words(map), [[0, 5, 1]]);
    assert_eq!(setgroups, "deny\n");
}

#[test]
fn the_link_is_configured() {
    let bench = Bench::new();
    let args = ["run", "--cidr", "10.9.0.0/16", "--cidr6", "fd07::/64", "--mtu", "9000", "--ifname", "net7"];
    let script = "cat /sys/class/net/net7/mtu; cat /proc/net/fib_trie /proc/net/if_inet6 /proc/net/route /proc/net/ipv6_route";
    let said = run(bench.user(&[&args[..], &["sh", "-c", script]].concat()));
    assert!(said.out.starts_with("9000\n"), "{said:?}");
    assert!(said.out.contains("|-- 10.9.0.100\n") && said.out.contains("|-- 127.0.0.1\n"), "{said:?}");
    assert!(said.out.contains("fd070000000000000000000000000100"), "{said:?}");
    // Default routes through .2 and fe80::2.
    assert!(said.out.lines().any(|l| l.starts_with("net7\t00000000\t0200090A")), "{said:?}");
    let v6 = format!("{} 00 {} 00 fe800000000000000000000000000002", "0".repeat(32), "0".repeat(32));
    assert!(said.out.contains(&v6), "{said:?}");
}

#[test]
fn the_ipv6_route_outlives_forwarding() {
    let bench = Bench::new();
    let script = "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding; cat /proc/net/ipv6_route";
    let said = run(bench.user(&["run", "sh", "-c", script]));
    assert!(said.out.contains("fe800000000000000000000000000002"), "{said:?}");
    let said = run(bench.user(&["run", "--no-ipv6", "cat", "/proc/net/if_inet6"]));
    assert!(!said.out.contains("tap0"), "{said:?}");
}

#[test]
fn every_group_may_ping() {
    let bench = Bench::new();
    let said = run(bench.user(&["run", "cat", "/proc/sys/net/ipv4/ping_group_range"]));
    let range = &words(&said.out)[0];
    assert_eq!(range[0], 0, "{said:?}");
    if bench.lab.users_are_real() {
        assert_eq!(range[1], 65536);
    }
}

#[test]
fn namespaces_are_new_or_shared_as_asked() {
    let bench = Bench::new();
    let ns = |args: &[&str]| {
        let script =
            "readlink /proc/self/ns/pid /proc/self/ns/uts /proc/self/ns/ipc /proc/self/ns/cgroup; uname -n";
        let said = run(bench.user(&[&["run"], args, &["sh", "-c", script]].concat()));
        assert_eq!(said.status, 0, "{said:?}");
        said.out.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let outer =
        run(bench
            .shell("readlink /proc/self/ns/pid /proc/self/ns/uts /proc/self/ns/ipc /proc/self/ns/cgroup"));
    let outer: Vec<_> = outer.out.lines().map(str::to_owned).collect();
    let default = ns(&[]);
    assert_ne!(default[0], outer[0]);
    assert_eq!(default[1..4], outer[1..4]);
    let all = ns(&["--no-pidns", "--hostname", "inside", "--ipcns", "--cgroupns"]);
    assert_eq!(all[0], outer[0]);
    assert!((1..4).all(|i| all[i] != outer[i]), "{all:?}");
    assert_eq!(all[4], "inside");
}
