//! What command lines of RootlessKit become.

use super::*;
use crate::config::{SandboxMode, SourceIp};

fn of(line: &str) -> Result<Run, String> {
    with("", line)
}

fn with(file: &str, line: &str) -> Result<Run, String> {
    let flags = Parsed::of(&FLAGS, line.split_whitespace().map(Into::into).collect())?;
    let mut settings = Settings::new(Caller::RootlessKit);
    settings.take_file("/c.toml".as_ref(), file).map_err(|e| e.to_string())?;
    ask(&mut settings, &flags);
    wanted(&flags, &settings, Level::Warn)
}

#[test]
fn settings_hold_where_the_caller_has_said_nothing() {
    let file = "sandbox = \"off\"\n[policy]\ndeny = [\"192.0.2.0/24\"]\nexpose-host = [\"5432\"]\nhost-loopback = true\n\
                [publish]\nsource-ip = \"gateway\"\n[network]\noutbound-addr = [\"127.0.0.1\"]\ndns = [\"192.0.2.1\"]";
    let common = with(file, "--net=slirp4netns --port-driver=builtin true").unwrap().common;
    let policy = &common.network.policy;
    assert_eq!((policy.rules.len(), policy.exposed.len(), policy.allow_host_loopback), (1, 1, true));
    assert_eq!(common.network.outbound.v4, Some("127.0.0.1".parse().unwrap()));
    assert_eq!(common.dns, ["192.0.2.1:53".parse().unwrap()]);
    assert_eq!(common.port_defaults.source_ip, Some(SourceIp::Gateway));
    assert_eq!(common.sandbox, SandboxMode::Off);
    let line =
        "--net=slirp4netns --disable-host-loopback --source-ip-transparent --slirp4netns-sandbox=true true";
    let common = with(file, line).unwrap().common;
    assert!(!common.network.policy.allow_host_loopback);
    assert_eq!((common.port_defaults.source_ip, common.sandbox), (None, SandboxMode::On));
    let open =
        with("policy.host-loopback = false", "--net=slirp4netns --disable-host-loopback=false true").unwrap();
    assert!(open.common.network.policy.allow_host_loopback);
}

fn refused(line: &str) -> String {
    of(line).map(|_| ()).unwrap_err()
}

#[test]
fn defaults_are_rootlesskits() {
    let run = of("true").unwrap();
    assert_eq!((run.net, run.propagation, run.detached), (Net::Host, Propagation::Private, false));
    assert!(run.namespaces.is_empty() && run.common.drivers.network.is_none() && run.copy_up.is_empty());
    let run = of("--net=slirp4netns true").unwrap();
    let network = &run.common.network;
    assert_eq!((network.mtu, network.v6, network.filtering), (65520, None, Filtering::EndpointIndependent));
    assert!(network.policy.allow_host_loopback && network.policy.rules.is_empty());
    assert!(run.common.drivers.port.is_none());
}

#[test]
fn what_docker_says_is_understood() {
    let run = of(
        "--state-dir=/run/user/1001/dockerd-rootless --net=slirp4netns --mtu=65520 --slirp4netns-sandbox=auto \
         --slirp4netns-seccomp=auto --disable-host-loopback --port-driver=builtin --copy-up=/etc --copy-up=/run \
         --propagation=rslave --detach-netns dockerd-rootless.sh --debug",
    )
    .unwrap();
    assert_eq!(run.copy_up, ["/etc", "/run"].map(PathBuf::from));
    assert_eq!((run.net, run.propagation, run.detached), (Net::Tap, Propagation::Slave, true));
    assert_eq!(run.command, ["dockerd-rootless.sh", "--debug"]);
    assert!(!run.common.network.policy.allow_host_loopback);
    let driver = run.common.drivers.port.unwrap();
    assert_eq!((driver.driver.as_str(), driver.protos.len()), ("builtin", 6));
    assert_eq!(run.common.port_defaults, PortOptions::default());
}

#[test]
fn a_port_driver_is_a_path() {
    let defaults = |line: &str| of(line).unwrap().common.port_defaults;
    for driver in ["slirp4netns", "gvisor-tap-vsock"] {
        let line = format!("--net={driver} --port-driver={driver} -p :80:80/tcp true");
        assert_eq!(defaults(&line).via, Some(Via::Tap));
    }
    let run = of("--net=pasta --port-driver=implicit true").unwrap();
    assert!(run.mirror && run.common.drivers.port.is_none());
    let line = "--net=none --port-driver=builtin --source-ip-transparent=false true";
    assert_eq!(defaults(line).source_ip, Some(SourceIp::Gateway));
    assert!(of(line).unwrap().common.relay_only);
    assert_eq!(of(line).unwrap().net, Net::Loopback { ports: true });
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (line, words) in [
        ("", "no command specified"),
        ("--net=host", "no command specified"),
        ("--net=foo true", "unknown network mode: foo"),
        ("--net=vpnkit true", "network mode vpnkit is not served by ringtap; use --net=slirp4netns"),
        ("--net=lxc-user-nic true", "network mode lxc-user-nic is not served by ringtap"),
        ("--net=slirp4netns --mtu=65522 true", "mtu: "),
        ("--net=slirp4netns --mtu=x true", "mtu: "),
        ("--net=slirp4netns --mtu=1000 --ipv6 true", "ipv6 needs an MTU of 1280"),
        ("--net=slirp4netns --cidr=10.0.2.100/24 true", "cidr: "),
        ("--net=slirp4netns --ifname=a/b true", "IFNAME: "),
        ("--ifname=eth0 true", "ifname needs a tap"),
        ("--port-driver=builtin true", "port driver builtin needs a network"),
        ("--net=none --port-driver=slirp4netns true", "port driver slirp4netns needs a tap"),
        ("--port-driver=implicit true", "port driver implicit needs a network"),
        ("--net=pasta --port-driver=implicit -p :80:80/tcp true", "publish needs a port driver"),
        ("--net=pasta --port-driver=socat true", "unknown port driver: socat"),
        ("--net=slirp4netns -p :80:80/tcp true", "publish needs a port driver"),
        ("--net=slirp4netns --port-driver=builtin -p 80:80/tcp true", "publish: unexpected PortSpec"),
        ("--detach-netns true", "detach-netns needs"),
        ("--net=pasta --detach-netns --slirp4netns-sandbox=true true", "slirp4netns-sandbox=true"),
        ("--slirp4netns-seccomp=maybe true", "slirp4netns-seccomp is one of"),
        ("--propagation=rshared --copy-up=/etc true", "propagation rshared cannot be with copy-up"),
        ("--propagation=none true", "propagation is one of"),
        ("--reaper=true true", "reaper=true needs pidns"),
        ("--copy-up-mode=overlay true", "copy-up-mode is one of tmpfs+symlink"),
        ("--evacuate-cgroup2=x --pidns true", "evacuate-cgroup2 needs cgroupns and pidns"),
        ("--evacuate-cgroup2=a/b --pidns --cgroupns true", "evacuate-cgroup2 is the name"),
        ("--subid-source=ldap true", "subid-source is one of"),
    ] {
        let said = refused(line);
        assert!(said.starts_with(words) && !said.contains('\n'), "{line}: {said}");
    }
}

#[test]
fn the_help_names_every_option_and_the_version_has_parts() {
    let text = help();
    for flag in &FLAGS {
        assert!(text.contains(&format!("--{}", flag.name)), "{}", flag.name);
    }
    assert_eq!(version(), "rootlesskit version 3.1.0\n");
    assert_eq!(["major", "minor", "patch"].map(|p| semver(p).unwrap()), ["3\n", "1\n", "0\n"]);
    assert!(semver("x").is_err());
}
