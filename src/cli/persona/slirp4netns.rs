//! ringtap called as `slirp4netns`.
//!
//! The flags become the configuration that `ringtap attach` has, with upstream's defaults where they differ from ours: the
//! gateway stands for the host's loopback unless that is disabled, IPv6 is off unless enabled, and anybody may answer a
//! UDP mapping (endpoint-independent filtering). Errors are upstream's words on standard error and exit status 1; a usage
//! error is followed by the usage on standard output, as there. What upstream does and we refuse: `--target-type=bess`,
//! frames over a unix socket for User Mode Linux.

use super::common;
use super::slirp4netns_flags::Flags;
use super::slirp4netns_text::{HELP, banner, version};
use crate::cli::network_args::{addresses_of, check_ifname};
use crate::config::settings::{Caller, SettingsError};
use crate::config::{Filtering, Network, OutboundAddr, PortOptions, Settings};
use crate::control::Common;
use crate::control::api::Drivers;
use crate::control::slirp4netns::{Place, Slirp4netns, serve};
use crate::netns::process::adopt_fd;
use crate::plane;
use ipnet::Ipv4Net;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;

/// From its arguments to its exit status.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    let flags = match Flags::parse_from_words(arguments) {
        Ok(flags) => flags,
        Err(e) => return usage(&e),
    };
    if flags.help || flags.version {
        print!("{}", if flags.help { HELP.to_owned() } else { version() });
        return ExitCode::SUCCESS;
    }
    let settings = match settings_of(&flags) {
        Ok(settings) => settings,
        Err(e) => {
            eprintln!("slirp4netns: {e}");
            return ExitCode::FAILURE;
        }
    };
    let wanted = match wanted(flags, &settings) {
        Ok(wanted) => wanted,
        Err(e) => return usage(&e),
    };
    match serve(wanted, plane::main) {
        Ok(status) => ExitCode::from(status),
        Err(e) => {
            eprintln!("slirp4netns: {e}");
            ExitCode::FAILURE
        }
    }
}

fn usage(error: &str) -> ExitCode {
    eprintln!("{error}");
    print!("{HELP}");
    ExitCode::FAILURE
}

/// The settings that hold for a command line of slirp4netns.
///
/// # Errors
/// One line.
pub fn settings(arguments: Vec<OsString>) -> Result<Settings, String> {
    settings_of(&Flags::parse_from_words(arguments)?).map_err(|e| e.to_string())
}

/// What one that runs was told on its command line.
pub struct Told {
    /// The process whose namespace it serves.
    pub child: Option<u32>,
    /// A path to the namespace, as the process sees it; none if it was given an open tap.
    pub netns: Option<PathBuf>,
    /// The network that it asks for.
    pub network: Network,
}

/// What a running slirp4netns was told; none if it cannot have been started so.
pub fn told(arguments: Vec<OsString>) -> Option<Told> {
    let flags = Flags::parse_from_words(arguments).ok()?;
    let mut words = flags.words.iter();
    let first = words.next()?;
    let number = || first.to_str()?.parse::<u32>().ok();
    let (child, netns) = match flags.netns_type.as_deref().unwrap_or("pid") {
        "tapfd" => (None, None),
        "pid" => (number(), Some(PathBuf::from(format!("/proc/{}/ns/net", number()?)))),
        _ => (None, Some(PathBuf::from(first))),
    };
    let ifname = words.next().map_or_else(|| "tap0".into(), |name| name.to_string_lossy());
    let network = network(&flags, &settings_of(&flags).ok()?, &ifname).ok()?;
    Some(Told { child, netns, network })
}

fn settings_of(flags: &Flags) -> Result<Settings, SettingsError> {
    let mut settings = crate::cli::settings::load(Caller::Slirp4netns)?;
    ask(&mut settings, flags);
    Ok(settings)
}

/// What the caller asks for stays as it is.
fn ask(settings: &mut Settings, flags: &Flags) {
    if flags.disable_host_loopback || flags.no_host_loopback {
        settings.take_flag("policy.host-loopback", "--disable-host-loopback", vec!["false".to_owned()]);
    }
    let outbound: Vec<_> =
        [&flags.outbound_addr, &flags.outbound_addr6].into_iter().flatten().cloned().collect();
    if !outbound.is_empty() {
        let flag = if flags.outbound_addr.is_some() { "--outbound-addr" } else { "--outbound-addr6" };
        settings.take_flag("network.outbound-addr", flag, outbound);
    }
}

/// Checks everything and opens what is named by number.
fn wanted(flags: Flags, settings: &Settings) -> Result<Slirp4netns, String> {
    // First of all: descriptors that we open could get the number of one that was never passed.
    let ready_fd = flags.ready_fd.as_deref().map(|text| descriptor("ready-fd", text)).transpose()?;
    let exit_fd = flags.exit_fd.as_deref().map(|text| descriptor("exit-fd", text)).transpose()?;
    match flags.target_type.as_deref() {
        None | Some("netns") => {}
        Some("bess") => {
            return Err("--target-type=bess is not supported by ringtap; use slirp4netns itself for \
                        User Mode Linux, or pass a tap (--netns-type=tapfd)"
                .to_owned());
        }
        Some(other) => {
            return Err(format!("--target-type must be either \"netns\" or \"bess\", not {other:?}"));
        }
    }
    let (place, ifname) = place(&flags)?;
    let log_level = common::start_log(settings);
    for (old, new, given) in [
        ("--no-host-loopback", "--disable-host-loopback", flags.no_host_loopback),
        ("--create-sandbox", "--enable-sandbox", flags.create_sandbox),
    ] {
        if given {
            println!("WARNING: {old} is deprecated, use {new}");
        }
    }
    let network = network(&flags, settings, &ifname)?;
    let banner = banner(&network, flags.api_socket.as_deref());
    let common = Common {
        network,
        dns: common::dns(settings)?,
        ports: Vec::new(),
        port_defaults: PortOptions { source_ip: common::source_ip(settings), ..PortOptions::default() },
        relay_only: false,
        drivers: Drivers::default(),
        pcap: None,
        log_level,
        sandbox: common::sandbox(settings, flags.enable_sandbox || flags.create_sandbox),
        ready_fd,
    };
    Ok(Slirp4netns {
        common,
        place,
        configure: flags.configure,
        exit_fd,
        api_socket: flags.api_socket,
        sandbox: flags.enable_sandbox || flags.create_sandbox,
        seccomp: flags.enable_seccomp,
        banner,
    })
}

/// What the positional words name, and the name of the tap.
fn place(flags: &Flags) -> Result<(Place, String), String> {
    let kind = flags.netns_type.as_deref().unwrap_or("pid");
    let mut words = flags.words.iter();
    let Some(first) = words.next() else {
        return Err(match kind {
            "tapfd" => "the descriptor of a tap must be specified",
            "pid" => "PID must be specified",
            _ => "PATH must be specified",
        }
        .to_owned());
    };
    let text = first.to_string_lossy();
    let number = || text.parse::<i32>().ok().filter(|n| *n > 0);
    let (place, ifname) = match kind {
        "tapfd" => {
            let fd = text.parse().map_err(|_| format!("{text:?} is not the number of a descriptor"))?;
            let fd = adopt_fd(fd).map_err(|e| format!("tapfd {fd}: {e}; pass an open tap, 3 or higher"))?;
            (Place::Tap(fd), None)
        }
        "pid" => {
            let pid = number().ok_or("PID must be a positive integer")?;
            let netns = PathBuf::from(format!("/proc/{pid}/ns/net"));
            (Place::Namespace { netns, userns: flags.userns_path.clone() }, words.next())
        }
        // Upstream takes any other word for `path`; a misspelt one is then told by the path that is not there.
        _ => {
            let netns = PathBuf::from(first);
            if !netns.exists() {
                return Err(format!("{}: No such file or directory (netns path)", netns.display()));
            }
            (Place::Namespace { netns, userns: flags.userns_path.clone() }, words.next())
        }
    };
    if let Some(userns) = &flags.userns_path
        && !userns.exists()
    {
        return Err(format!("{}: No such file or directory (userns path)", userns.display()));
    }
    let ifname = match (&place, ifname) {
        (Place::Tap(_), _) => "tap0".to_owned(),
        (_, Some(name)) => {
            let name = name.to_string_lossy();
            // Upstream's buffer holds as many.
            check_ifname(&name.chars().take(15).collect::<String>()).map_err(|e| e.to_string())?
        }
        (_, None) => return Err("TAPNAME must be specified".to_owned()),
    };
    if words.next().is_some() {
        println!("WARNING: too many arguments");
    }
    Ok((place, ifname))
}

fn network(flags: &Flags, settings: &Settings, ifname: &str) -> Result<Network, String> {
    let defaults = Network::default();
    let mtu = match &flags.mtu {
        None => defaults.mtu,
        Some(text) => {
            let mtu = text.parse().ok().filter(|n: &u32| (1..=65521).contains(n));
            Network::check_mtu(mtu.ok_or("MTU must be a positive integer (< 65522)")?)
                .map_err(|e| format!("slirp_new failed: {e}"))?
        }
    };
    let mac = flags.macaddress.as_deref().map(parse_mac).transpose()?;
    if mac.is_some() && !flags.configure {
        return Err("--macaddr cannot be specified when --configure or -c is not specified".to_owned());
    }
    Ok(Network {
        v4: flags.cidr.as_deref().map_or(Ok(defaults.v4), parse_cidr)?,
        v6: defaults.v6.filter(|_| flags.enable_ipv6),
        mtu,
        ifname: ifname.to_owned(),
        policy: common::policy(settings)?,
        limits: common::limits(settings),
        outbound: match (&flags.outbound_addr, &flags.outbound_addr6) {
            (None, None) => common::source(settings)?,
            _ => outbound(flags)?,
        },
        filtering: Filtering::EndpointIndependent,
        mac,
        dns: !flags.disable_dns,
        sources: Network::any_source(),
    })
}

fn parse_cidr(text: &str) -> Result<Ipv4Net, String> {
    let invalid = || format!("invalid CIDR: {text}");
    let (address, prefix) = text.split_once('/').ok_or_else(invalid)?;
    let address: Ipv4Addr = address.parse().map_err(|_| invalid())?;
    let prefix: u32 = prefix.parse().map_err(|_| invalid())?;
    let net = u8::try_from(prefix).ok().filter(|n| (1..=25).contains(n));
    let net = net.and_then(|n| Ipv4Net::new(address, n).ok()).ok_or("prefix length needs to be 1-25")?;
    Network::check_v4(net).map_err(|e| {
        format!("CIDR needs to be a network address like 10.0.2.0/24, not like 10.0.2.100/24 ({e})")
    })
}

/// Six bytes in hex, with colons. None that is a group's: the kernel would refuse it later, with less of a reason.
fn parse_mac(text: &str) -> Result<[u8; 6], String> {
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|b| u8::from_str_radix(b, 16).ok().filter(|_| (1..=2).contains(&b.len())))
        .collect();
    let mac = bytes.and_then(|b| <[u8; 6]>::try_from(b).ok()).filter(|m| m[0] & 1 == 0 && *m != [0; 6]);
    mac.ok_or_else(|| {
        format!("--macaddress: {text:?} is no address of an interface, as in 02:00:00:00:00:01")
    })
}

fn outbound(flags: &Flags) -> Result<OutboundAddr, String> {
    let find = |option: &str, text: &Option<String>, v4: bool| -> Result<Option<IpAddr>, String> {
        let Some(text) = text else { return Ok(None) };
        let all = match text.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => addresses_of(text).map_err(|e| format!("{option}: {e}"))?,
        };
        let family = if v4 { "IPv4" } else { "IPv6" };
        let found = all.into_iter().find(|a| a.is_ipv4() == v4);
        found.map(Some).ok_or_else(|| format!("{option}: {text:?} has no {family} address to send from"))
    };
    let v4 = find("--outbound-addr", &flags.outbound_addr, true)?;
    let v6 = find("--outbound-addr6", &flags.outbound_addr6, false)?;
    Ok(OutboundAddr {
        v4: v4.and_then(|a| if let IpAddr::V4(a) = a { Some(a) } else { None }),
        v6: v6.and_then(|a| if let IpAddr::V6(a) = a { Some(a) } else { None }),
    })
}

/// A descriptor that the caller passed by number; of the standard ones a copy.
fn descriptor(option: &str, text: &str) -> Result<OwnedFd, String> {
    let number: i32 = text
        .parse()
        .ok()
        .filter(|n| *n >= 0)
        .ok_or_else(|| format!("{option} must be a non-negative integer"))?;
    let opened = match number {
        0 => std::io::stdin().as_fd().try_clone_to_owned(),
        1 => std::io::stdout().as_fd().try_clone_to_owned(),
        2 => std::io::stderr().as_fd().try_clone_to_owned(),
        _ => adopt_fd(number),
    };
    opened
        .map_err(|e| format!("{option} {number}: {e}; pass a descriptor that is open, as in `{number}>file`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SandboxMode;
    use crate::control::Level;

    fn of(line: &str) -> Result<Slirp4netns, String> {
        with("", line)
    }

    fn with(file: &str, line: &str) -> Result<Slirp4netns, String> {
        let flags = Flags::parse_from_words(line.split_whitespace().map(Into::into).collect())?;
        let mut settings = Settings::new(Caller::Slirp4netns);
        settings.take_file("/c.toml".as_ref(), file).map_err(|e| e.to_string())?;
        ask(&mut settings, &flags);
        wanted(flags, &settings)
    }

    #[test]
    fn settings_hold_where_the_caller_has_said_nothing() {
        let file = "sandbox = \"off\"\nlog.level = \"info\"\n[policy]\ndeny = [\"192.0.2.0/24\"]\nhost-loopback = true\n\
                    [network]\noutbound-addr = [\"127.0.0.1\"]\ndns = [\"192.0.2.1:5353\"]";
        let common = with(file, "12 tap0").unwrap().common;
        assert_eq!(common.network.policy.rules.len(), 1);
        assert!(common.network.policy.allow_host_loopback);
        assert_eq!(common.network.outbound.v4, Some("127.0.0.1".parse().unwrap()));
        assert_eq!(common.dns, ["192.0.2.1:5353".parse().unwrap()]);
        assert_eq!((common.sandbox, common.log_level), (SandboxMode::Off, Level::Info));
        let line = "--disable-host-loopback --outbound-addr 127.0.0.2 --enable-sandbox 12 tap0";
        let common = with(file, line).unwrap().common;
        assert!(!common.network.policy.allow_host_loopback);
        assert_eq!(common.network.outbound.v4, Some("127.0.0.2".parse().unwrap()));
        assert_eq!(common.sandbox, SandboxMode::On);
        let closed = with("policy.host-loopback = false", "12 tap0").unwrap();
        assert!(!closed.common.network.policy.allow_host_loopback);
    }

    fn refused(line: &str) -> String {
        of(line).map(|_| ()).unwrap_err()
    }

    #[test]
    fn defaults_are_upstreams() {
        let wanted = of("12 tap0").unwrap();
        let network = &wanted.common.network;
        assert!(network.policy.allow_host_loopback && network.dns && network.v6.is_none());
        assert_eq!((network.mtu, network.filtering), (1500, Filtering::EndpointIndependent));
        assert!(!wanted.configure && !wanted.sandbox && !wanted.seccomp);
        assert!(
            matches!(wanted.place, Place::Namespace { netns, userns: None } if netns == *"/proc/12/ns/net")
        );
        assert!(!of("--no-host-loopback 12 tap0").unwrap().common.network.policy.allow_host_loopback);
    }

    #[test]
    fn what_rootlesskit_and_podman_say_is_understood() {
        let line = "--mtu 65520 -r 0 --disable-host-loopback --api-socket /tmp/s --enable-sandbox --enable-seccomp \
                    --enable-ipv6 12 tap0";
        let wanted = of(line).unwrap();
        assert!(wanted.sandbox && wanted.seccomp && wanted.common.network.v6.is_some());
        assert_eq!(wanted.common.network.mtu, 65520);
        let line = "--disable-host-loopback --mtu=65520 --enable-sandbox --enable-seccomp --enable-ipv6 -c -e 0 -r 1 \
                    --netns-type=path /proc/self/ns/net tap0";
        let wanted = of(line).unwrap();
        assert!(wanted.configure && wanted.exit_fd.is_some() && wanted.common.ready_fd.is_some());
    }

    #[test]
    fn errors_begin_with_upstreams_words() {
        for (line, words) in [
            ("--cidr 24 1 tap0", "invalid CIDR"),
            ("--cidr foo 1 tap0", "invalid CIDR"),
            ("--cidr 10.0.2.0 1 tap0", "invalid CIDR"),
            (
                "--cidr 10.0.2.100/24 1 tap0",
                "CIDR needs to be a network address like 10.0.2.0/24, not like 10.0.2.100/24",
            ),
            ("--cidr 10.0.2.100/26 1 tap0", "prefix length needs to be 1-25"),
            ("--cidr 10.0.2.0/0 1 tap0", "prefix length needs to be 1-25"),
            ("--mtu 65522 1 tap0", "MTU must be a positive integer"),
            ("--mtu 67 1 tap0", "slirp_new failed"),
            ("-r -1 1 tap0", "ready-fd must be a non-negative integer"),
            ("-e x 1 tap0", "exit-fd must be a non-negative integer"),
            ("x tap0", "PID must be a positive integer"),
            ("0 tap0", "PID must be a positive integer"),
            ("1", "TAPNAME must be specified"),
            ("", "PID must be specified"),
            ("--macaddress 02:00:00:00:00:01 1 tap0", "--macaddr cannot be specified when"),
            ("-c --macaddress 03:00:00:00:00:01 1 tap0", "--macaddress: "),
            ("-c --macaddress 02:00:00:00:00 1 tap0", "--macaddress: "),
            ("--target-type bess /tmp/x", "--target-type=bess is not supported by ringtap"),
            ("--outbound-addr no-such-if 1 tap0", "--outbound-addr: "),
            ("--outbound-addr6 192.0.2.1 1 tap0", "--outbound-addr6: "),
            ("--netns-type path /no/such/path tap0", "/no/such/path: No such file"),
            ("--userns-path /no/such/path 1 tap0", "/no/such/path: No such file"),
        ] {
            let said = refused(line);
            assert!(said.starts_with(words) && !said.contains('\n'), "{line}: {said}");
        }
    }

    #[test]
    fn long_names_are_cut_and_further_words_only_warned_of() {
        let wanted = of("1 abcdefghijklmnopqrs extra").unwrap();
        assert_eq!(wanted.common.network.ifname, "abcdefghijklmno");
    }
}
