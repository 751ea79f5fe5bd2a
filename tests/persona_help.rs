//! `--help` of every persona: callers search it for the options that they may use, and take words on standard error for a
//! failure. How long it takes is measured by `perf/run --only help`.

mod common;

use common::{World, outcome};
use std::os::unix::process::CommandExt;

/// Every option of the programs' last versions (slirp4netns 1.3, RootlessKit 3.1, Docker 29), by whole words as
/// `grep -w` finds them.
const OPTIONS: [(&str, &str); 5] = [
    (
        "slirp4netns",
        "configure exit-fd ready-fd mtu enable-ipv6 api-socket cidr disable-host-loopback netns-type userns-path \
         enable-sandbox enable-seccomp outbound-addr outbound-addr6 disable-dns macaddress target-type help version",
    ),
    (
        "rootlesskit",
        "debug print-semver state-dir net mtu cidr ifname disable-host-loopback ipv6 detach-netns slirp4netns-binary \
         slirp4netns-sandbox slirp4netns-seccomp pasta-binary vpnkit-binary lxc-user-nic-binary lxc-user-nic-bridge \
         port-driver publish source-ip-transparent source-ip-transparent-backend copy-up copy-up-mode propagation pidns \
         cgroupns utsns ipcns reaper evacuate-cgroup2 subid-source help version",
    ),
    ("rootlessctl", "debug socket help version list-ports add-ports remove-ports info"),
    ("docker-proxy", "proto host-ip host-port container-ip container-port use-listen-fd help version"),
    (
        "rootlesskit-docker-proxy",
        "proto host-ip host-port container-ip container-port use-listen-fd help version",
    ),
];

#[test]
fn help_has_every_option_by_name_exits_0_and_is_silent_on_standard_error() {
    let world = World::new();
    for (name, options) in OPTIONS {
        for form in ["--help", "-h"] {
            let mut command = world.ringtap(true);
            command.arg0(name).arg(form);
            let said = outcome(name, command);
            assert_eq!((said.status.code(), said.stderr.as_str()), (Some(0), ""), "{name} {form}");
            // A word ends where a letter, a digit or an underscore does not follow (grep -w); a dash would be another option.
            let words = said.stdout.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'));
            let words: Vec<_> = words.map(|word| word.strip_prefix("--").unwrap_or(word)).collect();
            for option in options.split_whitespace() {
                assert!(words.contains(&option), "{name} {form} does not have {option}:\n{}", said.stdout);
            }
        }
    }
}
