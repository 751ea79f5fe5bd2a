//! What slirp4netns says about itself, in the words that its callers search for.
//!
//! `--help` is how RootlessKit, Podman and Docker find out what a slirp4netns can do (a word of it for each option);
//! `podman info` shows `--version`, and upstream's tests read `SLIRP_CONFIG_VERSION_MAX` from it.

use crate::config::Network;
use std::fmt::Write;
use std::path::Path;

/// `--help`.
pub const HELP: &str = "\
Usage: slirp4netns [OPTION]... PID|PATH|FD [TAPNAME]
User-mode networking for unprivileged network namespaces (this is ringtap).

-c, --configure          bring up the interface: address, default route
-e, --exit-fd=FD         end when anything happens on FD, such as its other end closing
-r, --ready-fd=FD        write 1 to FD and close it when the network works
-m, --mtu=MTU            MTU (default=1500, max=65521)
-6, --enable-ipv6        enable IPv6
-a, --api-socket=PATH    listen for requests at PATH
--cidr=CIDR              IPv4 network inside (default=10.0.2.0/24)
--disable-host-loopback  prohibit connecting to 127.0.0.1:* of the host at the gateway's address
--netns-type=TYPE        what names the namespace ([path|pid|tapfd], default=pid)
--userns-path=PATH       user namespace to enter
--enable-sandbox         hide the file system and drop all capabilities but CAP_NET_BIND_SERVICE
--enable-seccomp         refuse system calls that serve only an intruder
--outbound-addr=IPv4     source of outgoing IPv4 traffic: an address, or an interface that has one
--outbound-addr6=IPv6    source of outgoing IPv6 traffic: an address, or an interface that has one
--disable-dns            do not answer at the DNS address (10.0.2.3)
--macaddress=MAC         hardware address of the tap (only with -c)
--target-type=TYPE       what is served ([netns], default=netns; bess is not supported)
-h, --help               show this help and exit
-v, --version            show version and exit
";

/// `--version`. The first line is of the form that runc has made a custom.
pub fn version() -> String {
    let ours = env!("CARGO_PKG_VERSION");
    format!(
        "slirp4netns version 1.3.2\ncommit: ringtap-{ours}\nlibslirp: 4.9.3\nSLIRP_CONFIG_VERSION_MAX: 6\n\
         libseccomp: 2.5.4\nringtap: {ours} (in place of slirp4netns; none of the libraries above is used)\n"
    )
}

/// What a start says on standard output.
pub fn banner(network: &Network, api_socket: Option<&Path>) -> String {
    let mut text = String::from("Starting slirp\n");
    let (first, last) = network.dhcp_pool();
    let mut line = |name: &str, value: &dyn std::fmt::Display| {
        let width = 17 - name.len().min(16);
        let _ = writeln!(text, "* {name}:{:width$}{value}", "");
    };
    line("MTU", &network.mtu);
    line("Network", &network.v4.network());
    line("Netmask", &network.v4.netmask());
    line("Gateway", &network.gateway_v4());
    line("DNS", &network.dns_v4());
    line("DHCP begin", &first);
    line("DHCP end", &last);
    line("Recommended IP", &network.guest_v4());
    if let Some(path) = api_socket {
        line("API Socket", &path.display());
    }
    if let Some(address) = network.outbound.v4 {
        line("Outbound IPv4", &address);
    }
    if let Some(address) = network.outbound.v6 {
        line("Outbound IPv6", &address);
    }
    if let Some([a, b, c, d, e, f]) = network.mac {
        line("MAC address", &format_args!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"));
    }
    if network.policy.allow_host_loopback {
        let gateway = network.gateway_v4();
        let _ = writeln!(
            text,
            "WARNING: 127.0.0.1:* on the host is accessible as {gateway} (set --disable-host-loopback to prohibit connecting to 127.0.0.1:*)"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::persona::slirp4netns_flags::Flags;
    use clap::CommandFactory;

    #[test]
    fn callers_find_the_words_they_search_for() {
        // All that are accepted, but for the names from before 0.4, which upstream's has not either.
        let flags = Flags::command();
        let names = flags.get_arguments().filter_map(|arg| arg.get_long());
        let names: Vec<_> =
            names.filter(|name| !matches!(*name, "no-host-loopback" | "create-sandbox")).collect();
        assert_eq!(names.len(), 19);
        for name in names {
            let is_it =
                |word: &str| word.strip_prefix("--").is_some_and(|w| w.split('=').next() == Some(name));
            let found = HELP.split([' ', '\n', ',']).any(is_it);
            assert!(found, "{name}");
        }
        let version = version();
        let keys: Vec<_> = version.lines().filter_map(|l| l.split_once(": ")).map(|(k, _)| k).collect();
        assert_eq!(keys, ["commit", "libslirp", "SLIRP_CONFIG_VERSION_MAX", "libseccomp", "ringtap"]);
        assert!(version.starts_with("slirp4netns version 1.3.2\n"));
    }

    #[test]
    fn the_banner_names_the_addresses() {
        let mut network = Network::default();
        network.policy.allow_host_loopback = true;
        let text = banner(&network, None);
        for line in
            ["* MTU:              1500", "* Gateway:          10.0.2.2", "* Recommended IP:   10.0.2.100"]
        {
            assert!(text.lines().any(|l| l == line), "{line:?} in {text}");
        }
        assert!(text.contains("WARNING: 127.0.0.1:*") && text.contains("* DHCP end:         10.0.2.30\n"));
    }
}
