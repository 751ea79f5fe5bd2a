//! Every condition that `doctor` must tell apart, on a host that has everything else.

use super::super::observe::{Inside, Peer};
use super::*;
use crate::config::Resolvers;
use crate::config::settings::SettingsError;
use crate::netns::{idmap, process};
use crate::ring::{Granted, Offer, Settings};
use crate::tap::TapError;
use nix::errno::Errno;
use std::io;

/// A host that has everything.
fn whole() -> Observations {
    let granted = Granted {
        entries: 128,
        cq_entries: 512,
        no_sq_array: true,
        frame_reads: FrameReads::Multishot,
        no_iowait: true,
    };
    Observations {
        kernel: "6.12.9-amd64".into(),
        arch: "x86_64",
        user: "alice".into(),
        ring_settings: Settings { disabled: Some(0), memlock: Some(8 << 20) },
        ring: Ok(Offer { granted, operations: vec![("IORING_OP_READ", true)] }),
        node: Ok(()),
        namespace_settings: process::Settings::default(),
        max_user_namespaces: Some(15_000),
        inside: Ok(Inside {
            tap: Ok(("csum tso4 tso6 tso-ecn uso".into(), true)),
            link: None,
            steering: [Steering::Full, Steering::Full],
        }),
        ids: idmap::Offer {
            any: false,
            helpers: ["/usr/bin/newuidmap", "/usr/bin/newgidmap"].map(|p| Some(p.into())),
            ids: [65_536, 65_536],
        },
        mapping: Ok(Vec::new()),
        memlock: Some(Limit { soft: 8 << 20, hard: 8 << 20 }),
        descriptors: Some(Limit { soft: 1024, hard: 1 << 20 }),
        pipe_pages: Some(16_384),
        page: 4096,
        ping_groups: Some((0, 2_147_483_647)),
        groups: vec![1000],
        port_start: Some(1024),
        resolvers: Some(Resolvers { servers: vec!["192.0.2.1:53".parse().unwrap()], ..Resolvers::default() }),
        apparmor: None,
        seccomp: false,
        no_new_privs: false,
        peers: vec![Peer { name: "pasta", path: "/usr/bin/pasta".into(), version: None }],
        state_dir: Ok("/run/user/1000/ringtap/7".into()),
        settings: Ok(vec!["policy.deny = [\"all\"] (env RINGTAP_POLICY_DENY)".into()]),
        environment: vec![("XDG_RUNTIME_DIR", "/run/user/1000".into())],
    }
}

/// What is wrong with a host, as (name, status, code, remedy), failures and warnings only.
fn wrong(seen: &Observations) -> Vec<(&'static str, Status, String, String)> {
    let bad = judge(seen).into_iter().filter(|line| line.status >= Status::Warn);
    bad.map(|l| (l.name, l.status, l.code.unwrap_or_default(), l.remedy.unwrap_or_default())).collect()
}

/// The one thing that is wrong, of that code, whose remedy has `word` in it.
#[track_caller]
fn only(seen: &Observations, status: Status, code: &str, word: &str) {
    let wrong = wrong(seen);
    let [(_, s, c, remedy)] = &wrong[..] else { panic!("{wrong:#?}") };
    assert_eq!((*s, c.as_str()), (status, code));
    assert!(remedy.contains(word), "{remedy}");
}

fn refused_ring(errno: Errno, disabled: Option<u32>) -> Observations {
    let ring_settings = Settings { disabled, memlock: Some(64 << 10) };
    let error = RingError::judge("io_uring_setup", errno, 8, 32, ring_settings);
    Observations { ring_settings, ring: Err(error), ..whole() }
}

fn refused_namespaces(errno: i32, clone: &str, apparmor: &str) -> Observations {
    let settings =
        process::Settings { unprivileged_userns_clone: clone.into(), apparmor_restrict: apparmor.into() };
    let error = process::judge(io::Error::from_raw_os_error(errno), &settings);
    Observations { namespace_settings: settings, inside: Err(error), ..whole() }
}

#[test]
fn a_host_that_has_everything_has_no_remedies_but_for_low_ports() {
    assert_eq!(wrong(&whole()), []);
    let with_remedy: Vec<_> =
        judge(&whole()).into_iter().filter(|l| l.remedy.is_some()).map(|l| l.name).collect();
    assert_eq!(with_remedy, ["low ports"]);
    let every_line = judge(&whole());
    assert!(
        every_line.iter().all(|line| !line.found.contains('\n') && !line.found.is_empty()),
        "{every_line:#?}"
    );
}

#[test]
fn the_kernel_is_too_old() {
    let old = |release: &str| Observations { kernel: release.into(), ..whole() };
    only(&old("5.15.0-91-generic"), Status::Fail, "kernel-too-old", "6.1");
    only(&old("6.0.19"), Status::Fail, "kernel-too-old", "6.1");
    assert_eq!(wrong(&old("6.1.0-18-amd64")), []);
    assert_eq!(wrong(&old("10.0-rc1")), []);
    // A kernel with a new name and an old ring.
    let seen =
        Observations { ring: Err(RingError::TooOld { lacking: "IORING_SETUP_DEFER_TASKRUN" }), ..whole() };
    only(&seen, Status::Fail, "kernel-too-old", "6.1");
}

#[test]
fn io_uring_switched_off_is_told_from_io_uring_blocked() {
    only(
        &refused_ring(Errno::EPERM, Some(2)),
        Status::Fail,
        "io-uring-disabled",
        "sysctl kernel.io_uring_disabled=0",
    );
    only(&refused_ring(Errno::EPERM, Some(1)), Status::Fail, "io-uring-disabled", "io_uring_group");
    only(
        &refused_ring(Errno::EPERM, Some(0)),
        Status::Fail,
        "io-uring-blocked",
        "allow the io_uring system calls",
    );
    only(&refused_ring(Errno::EACCES, None), Status::Fail, "io-uring-blocked", "profile");
    only(&refused_ring(Errno::ENOSYS, None), Status::Fail, "io-uring-missing", "io_uring_setup");
}

#[test]
fn locked_memory_is_too_low_or_low() {
    let wrong_here = wrong(&refused_ring(Errno::ENOMEM, Some(0)));
    assert_eq!(wrong_here.len(), 2);
    assert!(wrong_here.iter().all(|(_, status, code, remedy)| {
        *status == Status::Fail && code == "memlock-too-low" && remedy.contains("ulimit -l")
    }));
    let mut seen = whole();
    if let Ok(offer) = &mut seen.ring {
        offer.granted.entries = 32;
    }
    only(&seen, Status::Warn, "ring-small", "LimitMEMLOCK=");
}

#[test]
fn no_tun_node_is_told_from_one_that_may_not_be_opened() {
    let node = |errno| {
        let error = TapError::of_node(errno);
        let mut seen = Observations { node: Err(error.clone()), ..whole() };
        // The namespace meets the same.
        if let Ok(inside) = &mut seen.inside {
            inside.tap = Err((&error).into());
        }
        seen
    };
    only(&node(Errno::ENOENT), Status::Fail, "tun-missing", "modprobe tun");
    only(&node(Errno::ENODEV), Status::Fail, "tun-missing", "modprobe tun");
    only(&node(Errno::EACCES), Status::Fail, "tun-denied", "chmod 0666 /dev/net/tun");
}

#[test]
fn namespaces_that_are_off_are_told_from_apparmors_restriction() {
    only(&refused_namespaces(libc::ENOSPC, "", ""), Status::Fail, "userns-off", "user.max_user_namespaces");
    only(
        &refused_namespaces(libc::EPERM, "0", ""),
        Status::Fail,
        "userns-off",
        "unprivileged_userns_clone=1",
    );
    only(&refused_namespaces(libc::EPERM, "1", ""), Status::Fail, "userns-off", "seccomp profile");
    only(&refused_namespaces(libc::EINVAL, "", ""), Status::Fail, "userns-off", "CONFIG_USER_NS");
    only(&refused_namespaces(libc::EPERM, "1", "1"), Status::Fail, "apparmor", "userns,");
    only(&refused_namespaces(libc::EACCES, "", "1"), Status::Fail, "apparmor", "apparmor_restrict");
    only(&refused_namespaces(libc::EAGAIN, "", ""), Status::Fail, "no-process", "ulimit -u");
}

#[test]
fn apparmor_that_lets_a_namespace_be_made_and_takes_what_it_is_for() {
    let restricted = || Observations {
        namespace_settings: process::Settings {
            apparmor_restrict: "1".into(),
            ..process::Settings::default()
        },
        ..whole()
    };
    let mut seen = restricted();
    if let Ok(inside) = &mut seen.inside {
        inside.tap = Err((&TapError::NotPermitted { name: "tap0".into() }).into());
    }
    only(&seen, Status::Fail, "apparmor", "userns,");
    only(
        &Observations { mapping: Err("cannot map ids".into()), ..restricted() },
        Status::Fail,
        "apparmor",
        "userns,",
    );
    only(
        &Observations { mapping: Err("cannot map ids".into()), ..whole() },
        Status::Fail,
        "no-id-map",
        "denials",
    );
    // With a profile of its own, the setting alone does not matter.
    assert_eq!(wrong(&restricted()), []);
}

#[test]
fn sub_ids_and_the_programs_that_map_them() {
    let ids = |helpers: [Option<std::path::PathBuf>; 2], ids| Observations {
        ids: idmap::Offer { any: false, helpers, ids },
        ..whole()
    };
    let both = || whole().ids.helpers;
    only(
        &ids(both(), [0, 0]),
        Status::Warn,
        "no-sub-ids",
        "--add-subuids 100000-165535 --add-subgids 100000-165535 alice",
    );
    only(&ids(both(), [65_536, 0]), Status::Warn, "no-sub-ids", "usermod");
    only(&ids([None, None], [65_536, 65_536]), Status::Warn, "no-newuidmap", "uidmap");
    let refused = || Ok(vec!["only one id is mapped: newuidmap: no".to_owned()]);
    only(&Observations { mapping: refused(), ..whole() }, Status::Warn, "sub-ids", "set-user-id");
    let seen = Observations { mapping: refused(), no_new_privs: true, ..whole() };
    only(&seen, Status::Warn, "no-new-privs", "NoNewPrivileges");
    let root = Observations { ids: idmap::Offer { any: true, ..idmap::Offer::default() }, ..whole() };
    assert_eq!(wrong(&root), []);
}

#[test]
fn budgets_and_settings_that_take_something() {
    let few = Some(Limit { soft: 256, hard: 256 });
    only(&Observations { descriptors: few, ..whole() }, Status::Warn, "descriptors-few", "LimitNOFILE=");
    only(
        &Observations { pipe_pages: Some(64), ..whole() },
        Status::Warn,
        "pipes-few",
        "pipe-user-pages-soft",
    );
    assert_eq!(wrong(&Observations { pipe_pages: Some(0), ..whole() }), []);
    only(&Observations { ping_groups: Some((1, 0)), ..whole() }, Status::Warn, "no-ping", "ping_group_range");
    let seen = Observations { ping_groups: Some((5, 10)), groups: vec![4, 11, 7], ..whole() };
    assert_eq!(wrong(&seen), []);
    only(&Observations { resolvers: None, ..whole() }, Status::Warn, "no-resolvers", "--dns");
    let settings = Err(SettingsError { place: "/c.toml:3".into(), cause: "deny is no setting".into() });
    only(&Observations { settings, ..whole() }, Status::Fail, "settings", "mend it");
    assert!(judge(&whole()).iter().any(|line| line.found.contains("; set: policy.deny = [\"all\"] (env ")));
    let foreign = "state directory /tmp/x is not ours alone; remove it".to_owned();
    only(&Observations { state_dir: Err(foreign), ..whole() }, Status::Fail, "state-dir", "remove it");
    let mut seen = whole();
    if let Ok(inside) = &mut seen.inside {
        inside.steering[1] =
            Steering::LocalTcp("nf_tables for IPv6: EPERM; on the host: modprobe nf_tables".into());
    }
    only(&seen, Status::Warn, "no-nf-tables", "modprobe nf_tables");
}
