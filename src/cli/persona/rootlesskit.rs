//! ringtap called as `rootlesskit`.
//!
//! The flags become what `ringtap run` does: namespaces, copy-up, a network behind our own data plane whatever it is called
//! (`slirp4netns`, `pasta`, `gvisor-tap-vsock`), published ports. A port driver says which way clients take: `builtin`
//! relays, with sockets of the namespace; `slirp4netns` and `gvisor-tap-vsock` have clients come by the tap; `implicit`
//! publishes whatever listens inside. Errors have RootlessKit's prefix and its exit status, 1; what became of COMMAND is
//! said and passed on as RootlessKit does (255 for any signal).
//!
//! What RootlessKit does and we refuse: `--net=vpnkit` and `--net=lxc-user-nic`, which are programs of others.

use super::common;
use super::go_flags::Parsed;
use super::rootlesskit_text::{FLAGS, VERSION, help, semver, version};
use crate::cli::network_args::check_ifname;
use crate::config::network::MTU_MIN_V6;
use crate::config::rootlesskit_spec::PROTOCOLS;
use crate::config::settings::{Caller, SettingsError};
use crate::config::{Filtering, Network, PortOptions, RootlessKitSpec, Settings, Via};
use crate::control::api::{Drivers, PortDriver};
use crate::control::ports::Asked;
use crate::control::run::{AsRootlessKit, Run, run};
use crate::control::state::StateError;
use crate::control::{Common, ControlError, Ended, Level};
use crate::netns::idmap::SubIds;
use crate::netns::mounts::{self, Propagation};
use crate::netns::place::Net;
use crate::plane;
use nix::sched::CloneFlags;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// MTU of the tap unless one is given, of all drivers that are served.
const MTU: u16 = 65520;

/// From its arguments to its exit status.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    let flags = match Parsed::of(&FLAGS, arguments) {
        Ok(flags) => flags,
        Err(e) => {
            print!("Incorrect Usage: {e}\n\n{}", help());
            return failed(&e);
        }
    };
    if flags.on("help") || flags.on("version") {
        print!("{}", if flags.on("help") { help() } else { version() });
        return ExitCode::SUCCESS;
    }
    if flags.last("print-semver").is_some() {
        return match semver(&flags.text("print-semver", "")) {
            Ok(text) => {
                print!("{text}");
                ExitCode::SUCCESS
            }
            Err(e) => failed(&e),
        };
    }
    let settings = match settings_of(&flags) {
        Ok(settings) => settings,
        Err(e) => return failed(&e.to_string()),
    };
    let log_level = common::start_log(&settings);
    let words: Vec<_> = flags.rest.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    match wanted(&flags, &settings, log_level)
        .and_then(|wanted| run(wanted, plane::main).map_err(|e| explain(&e)))
    {
        Ok(Ended::Exited(0)) => ExitCode::SUCCESS,
        Ok(ended) => {
            let (how, status) = match ended {
                Ended::Exited(status) => (format!("exit status {status}"), status),
                Ended::Signaled(signal) => (format!("signal: {}", name(signal)), u8::MAX),
            };
            eprintln!("[rootlesskit:child ] error: command [{}] exited: {how}", words.join(" "));
            failed(&format!("child exited: exit status {status}"));
            ExitCode::from(status)
        }
        Err(e) => failed(&e),
    }
}

fn failed(error: &str) -> ExitCode {
    eprintln!("[rootlesskit:parent] error: {error}");
    ExitCode::FAILURE
}

/// In RootlessKit's words where it has some.
fn explain(error: &ControlError) -> String {
    match error {
        ControlError::State(StateError::InUse(path)) => format!(
            "failed to lock {path}/lock, another RootlessKit is running with the same state directory?"
        ),
        e => e.to_string(),
    }
}

/// As Go names a signal.
fn name(number: i32) -> String {
    let named = match number {
        1 => "hangup",
        2 => "interrupt",
        3 => "quit",
        4 => "illegal instruction",
        5 => "trace/breakpoint trap",
        6 => "aborted",
        7 => "bus error",
        8 => "floating point exception",
        9 => "killed",
        10 => "user defined signal 1",
        11 => "segmentation fault",
        12 => "user defined signal 2",
        13 => "broken pipe",
        14 => "alarm clock",
        15 => "terminated",
        _ => return format!("signal {number}"),
    };
    named.to_owned()
}

/// The settings that hold for a command line of rootlesskit.
///
/// # Errors
/// One line.
pub fn settings(arguments: Vec<OsString>) -> Result<Settings, String> {
    settings_of(&Parsed::of(&FLAGS, arguments)?).map_err(|e| e.to_string())
}

fn settings_of(flags: &Parsed) -> Result<Settings, SettingsError> {
    let mut settings = crate::cli::settings::load(Caller::RootlessKit)?;
    ask(&mut settings, flags);
    Ok(settings)
}

/// What the caller asks for stays as it is.
fn ask(settings: &mut Settings, flags: &Parsed) {
    let mut take = |key: &str, flag: &str, text: &str| settings.take_flag(key, flag, vec![text.to_owned()]);
    if let Some(closed) = flags.last("disable-host-loopback") {
        take(
            "policy.host-loopback",
            "--disable-host-loopback",
            if closed == "true" { "false" } else { "true" },
        );
    }
    if let Some(shown) = flags.last("source-ip-transparent") {
        let whom = if shown == "true" { "preserve" } else { "gateway" };
        take("publish.source-ip", "--source-ip-transparent", whom);
    }
    if flags.on("debug") {
        take("log.level", "--debug", "debug");
    }
}

/// Checks everything.
fn wanted(flags: &Parsed, settings: &Settings, log_level: Level) -> Result<Run, String> {
    if flags.rest.is_empty() {
        return Err("no command specified".to_owned());
    }
    let (net, driver) = net(flags)?;
    let implicit = flags.text("port-driver", "") == "implicit";
    let ports = port_driver(flags, net)?;
    let detached = flags.on("detach-netns");
    let published = flags.list("publish");
    let [pidns, cgroupns] = ["pidns", "cgroupns"].map(|name| flags.on(name));
    for (what, wrong) in [
        ("detach-netns needs a network of its own (--net other than host)", detached && net == Net::Host),
        (
            "slirp4netns-sandbox=true cannot be with detach-netns",
            detached && flags.text("slirp4netns-sandbox", "") == "true",
        ),
        (
            "publish needs a port driver that is told what to publish (--port-driver=builtin)",
            !published.is_empty() && ports.is_none(),
        ),
        ("reaper=true needs pidns", flags.text("reaper", "") == "true" && !pidns),
    ] {
        if wrong {
            return Err(what.to_owned());
        }
    }
    for (name, values) in [
        ("slirp4netns-sandbox", &["auto", "true", "false"][..]),
        ("slirp4netns-seccomp", &["auto", "true", "false"]),
        ("reaper", &["auto", "true", "false"]),
        ("copy-up-mode", &["tmpfs+symlink"]),
    ] {
        let given = flags.text(name, values[0]);
        if !values.contains(&given.as_str()) {
            return Err(format!("{name} is one of {}, not {given:?}", values.join(", ")));
        }
    }
    let net = match net {
        Net::Loopback { .. } => Net::Loopback { ports: implicit || ports.is_some() },
        net => net,
    };
    let network = network(flags, settings, net)?;
    let copy_up: Vec<PathBuf> = flags.list("copy-up").into_iter().map(Into::into).collect();
    let namespaces = [
        (pidns, CloneFlags::CLONE_NEWPID),
        (cgroupns, CloneFlags::CLONE_NEWCGROUP),
        (flags.on("utsns"), CloneFlags::CLONE_NEWUTS),
        (flags.on("ipcns"), CloneFlags::CLONE_NEWIPC),
    ];
    Ok(Run {
        common: Common {
            network,
            dns: common::dns(settings)?,
            ports: published.iter().map(parse_port).collect::<Result<_, _>>()?,
            port_defaults: port_defaults(settings, ports.as_ref()),
            relay_only: matches!(net, Net::Loopback { .. }),
            drivers: Drivers { version: VERSION, network: driver, port: ports },
            pcap: None,
            sandbox: common::sandbox(settings, flags.text("slirp4netns-sandbox", "") == "true"),
            log_level,
            ready_fd: None,
        },
        net,
        detached,
        namespaces: namespaces.into_iter().filter_map(|(on, flag)| on.then_some(flag)).collect(),
        hostname: None,
        propagation: propagation(flags, &copy_up)?,
        copy_up,
        sub_ids: match flags.text("subid-source", "auto").as_str() {
            "auto" => SubIds::Auto,
            "dynamic" => SubIds::Dynamic,
            "static" => SubIds::Static,
            other => return Err(format!("subid-source is one of auto, dynamic, static, not {other:?}")),
        },
        mirror: implicit,
        evacuate: evacuate(flags, pidns && cgroupns)?,
        state_dir: flags.last("state-dir").map(PathBuf::from),
        rootlesskit: Some(AsRootlessKit { listen_pid: is_activated() }),
        command: flags.rest.clone(),
    })
}

/// Which network, and the name under which the API knows it.
fn net(flags: &Parsed) -> Result<(Net, Option<&'static str>), String> {
    let asked = flags.text("net", "host");
    Ok(match asked.as_str() {
        "host" => (Net::Host, None),
        "none" => (Net::Loopback { ports: false }, Some("none")),
        "slirp4netns" => (Net::Tap, Some("slirp4netns")),
        "pasta" => (Net::Tap, Some("pasta")),
        "gvisor-tap-vsock" => (Net::Tap, Some("gvisor-tap-vsock")),
        "vpnkit" | "lxc-user-nic" => {
            return Err(format!(
                "network mode {asked} is not served by ringtap; use --net=slirp4netns, which ringtap serves itself"
            ));
        }
        other => return Err(format!("unknown network mode: {other}")),
    })
}

/// How ports are published, as the API shows it.
fn port_driver(flags: &Parsed, net: Net) -> Result<Option<PortDriver>, String> {
    // Docker gives an address inside for each family to what may listen on the loopback, and the IPv4 one to what may not.
    let both = |driver| PortDriver::new(driver, &PROTOCOLS, false);
    let by_the_tap = |driver| PortDriver::new(driver, &["tcp", "tcp4", "udp", "udp4"], true);
    let asked = flags.text("port-driver", "none");
    let driver = match asked.as_str() {
        "none" => return Ok(None),
        "implicit" if net == Net::Host => {
            return Err("port driver implicit needs a network of its own (--net other than host)".to_owned());
        }
        // The API knows of none, by which Docker knows that it need not ask.
        "implicit" => return Ok(None),
        "builtin" => both("builtin"),
        "pesto" => both("pesto"),
        "slirp4netns" => by_the_tap("slirp4netns"),
        "gvisor-tap-vsock" => by_the_tap("gvisor-tap-vsock"),
        other => return Err(format!("unknown port driver: {other}")),
    };
    match net {
        Net::Host => Err(format!("port driver {asked} needs a network of its own (--net other than host)")),
        Net::Loopback { .. } if driver.disallow_loopback_child_ip => {
            Err(format!("port driver {asked} needs a tap, which --net=none has not; use builtin"))
        }
        _ => Ok(Some(driver)),
    }
}

fn port_defaults(settings: &Settings, ports: Option<&PortDriver>) -> PortOptions {
    PortOptions {
        via: ports.filter(|driver| driver.disallow_loopback_child_ip).map(|_| Via::Tap),
        source_ip: common::source_ip(settings),
        proxy_protocol: None,
    }
}

fn parse_port(text: &OsString) -> Result<Asked, String> {
    let spec: RootlessKitSpec = text.to_string_lossy().parse().map_err(|e| format!("publish: {e}"))?;
    Ok(Asked::RootlessKit(spec))
}

fn network(flags: &Parsed, settings: &Settings, net: Net) -> Result<Network, String> {
    let defaults = Network::default();
    let given = |name: &str| flags.last(name).map(|value| value.to_string_lossy().into_owned());
    if net != Net::Tap {
        if given("ifname").is_some() {
            return Err("ifname needs a tap (--net=slirp4netns)".to_owned());
        }
        for name in ["mtu", "cidr", "ipv6", "disable-host-loopback"] {
            if given(name).is_some_and(|value| value != "0") {
                tracing::warn!("--{name} means nothing without a tap (--net=slirp4netns)");
            }
        }
        return Ok(Network { v6: None, dns: false, ..defaults });
    }
    let mtu = given("mtu").unwrap_or_else(|| "0".to_owned());
    let mtu = match mtu.parse() {
        Ok(0) => MTU,
        Ok(mtu) => Network::check_mtu(mtu).map_err(|e| format!("mtu: {e}"))?,
        Err(_) => return Err(format!("mtu: {mtu:?} is not a number; use 0 (the default) to 65521")),
    };
    let v4 = match given("cidr") {
        None => defaults.v4,
        Some(text) => {
            let net = text.parse().map_err(|_| format!("cidr: {text:?} is not of the form 10.0.2.0/24"))?;
            Network::check_v4(net).map_err(|e| format!("cidr: {e}"))?
        }
    };
    let v6 = defaults.v6.filter(|_| flags.on("ipv6"));
    if v6.is_some() && mtu < MTU_MIN_V6 {
        return Err(format!("ipv6 needs an MTU of {MTU_MIN_V6} or more"));
    }
    let network = Network {
        v4,
        v6,
        mtu,
        ifname: check_ifname(&flags.text("ifname", "tap0")).map_err(|e| e.to_string())?,
        policy: common::policy(settings)?,
        limits: common::limits(settings),
        outbound: common::source(settings)?,
        filtering: Filtering::EndpointIndependent,
        sources: Network::any_source(),
        ..defaults
    };
    if network.policy.allow_host_loopback {
        tracing::warn!(
            "the host's 127.0.0.1 can be reached at {} inside; --disable-host-loopback closes it",
            network.gateway_v4()
        );
    }
    Ok(network)
}

fn propagation(flags: &Parsed, copy_up: &[PathBuf]) -> Result<Propagation, String> {
    let asked = flags.text("propagation", "rprivate");
    let propagation = match asked.as_str() {
        "" | "private" | "rprivate" => Propagation::Private,
        "slave" | "rslave" => Propagation::Slave,
        "shared" | "rshared" => Propagation::Shared,
        other => {
            return Err(format!(
                "propagation is one of private, rprivate, slave, rslave, shared, rshared, not {other:?}"
            ));
        }
    };
    if propagation == Propagation::Shared && !copy_up.is_empty() {
        return Err(format!("propagation {asked} cannot be with copy-up; use rslave or rprivate"));
    }
    if propagation != Propagation::Private && !mounts::root_is_shared() {
        tracing::warn!(
            "--propagation={asked}: the host's / is not a shared mount, so mounts that the host makes later do not appear \
             inside; as root on the host, mount --make-rshared /"
        );
    }
    Ok(propagation)
}

fn evacuate(flags: &Parsed, has_namespaces: bool) -> Result<Option<String>, String> {
    let name = flags.text("evacuate-cgroup2", "");
    if name.is_empty() {
        return Ok(None);
    }
    if !has_namespaces {
        return Err("evacuate-cgroup2 needs cgroupns and pidns".to_owned());
    }
    if name.contains('/') || matches!(name.as_str(), "." | "..") {
        return Err(format!("evacuate-cgroup2 is the name of a control group, without '/', not {name:?}"));
    }
    Ok(Some(name))
}

/// Whether sockets were passed to us by systemd's protocol (sd_listen_fds(3)). They are open at 3 and following, and nothing
/// here closes them or marks them close-on-exec, so COMMAND has them at the same numbers.
fn is_activated() -> bool {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    number("LISTEN_PID") == Some(std::process::id()) && number("LISTEN_FDS").is_some_and(|n| n > 0)
}

#[cfg(test)]
mod tests;
