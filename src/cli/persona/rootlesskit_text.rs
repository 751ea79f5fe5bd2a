//! The options of RootlessKit 3, and what it says about itself.
//!
//! Callers look for options in the help (`rootlesskit --help | grep -qw -- --detach-netns`), and for the version.

use super::go_flags::{Flag, describe};

/// The version that we stand in for: its options are accepted, and its API (1.1.2) is spoken.
pub const VERSION: &str = "3.1.0";

/// The options, in the order of the help.
pub static FLAGS: [Flag; 33] = [
    Flag::switch("debug", "say what is done"),
    Flag::value("print-semver", "", "print a part of the version: major, minor, patch"),
    Flag::value("state-dir", "", "where to keep state, instead of in a place of our own"),
    Flag::value("net", "host", "network: host, none, slirp4netns, pasta, gvisor-tap-vsock"),
    Flag::value("mtu", "65520", "MTU of the tap, up to 65521"),
    Flag::value("cidr", "10.0.2.0/24", "network inside"),
    Flag::value("ifname", "tap0", "name of the tap"),
    Flag::switch("disable-host-loopback", "the gateway's address does not stand for the host's 127.0.0.1"),
    Flag::switch("ipv6", "IPv6 inside"),
    Flag::switch(
        "detach-netns",
        "COMMAND stays in the host's network; $ROOTLESSKIT_STATE_DIR/netns is its own",
    ),
    Flag::value("slirp4netns-binary", "", "not used: ringtap is the network"),
    Flag::value("slirp4netns-sandbox", "false", "not used: there always is a sandbox (auto, true, false)"),
    Flag::value("slirp4netns-seccomp", "false", "not used: there always is a filter (auto, true, false)"),
    Flag::value("pasta-binary", "", "not used: ringtap is the network"),
    Flag::value("vpnkit-binary", "", "not used: there is no --net=vpnkit"),
    Flag::value("lxc-user-nic-binary", "", "not used: there is no --net=lxc-user-nic"),
    Flag::value("lxc-user-nic-bridge", "", "not used: there is no --net=lxc-user-nic"),
    Flag::value(
        "port-driver",
        "none",
        "published ports: none, builtin, slirp4netns, implicit, gvisor-tap-vsock, pesto",
    ),
    Flag::list("publish", "", "publish a port: [PARENTIP]:PARENTPORT:[CHILDIP:]CHILDPORT/PROTO").or("p"),
    Flag::switch("source-ip-transparent", "servers see their clients' own addresses (on unless =false)"),
    Flag::value("source-ip-transparent-backend", "", "not used: one that needs no program"),
    Flag::list("copy-up", "", "make a directory writable inside: a tmpfs with symlinks to what it holds"),
    Flag::value("copy-up-mode", "tmpfs+symlink", "the only one"),
    Flag::value("propagation", "rprivate", "mounts of the host: rprivate, rslave, rshared"),
    Flag::switch("pidns", "a pid namespace"),
    Flag::switch("cgroupns", "a cgroup namespace"),
    Flag::switch("utsns", "a UTS namespace"),
    Flag::switch("ipcns", "an IPC namespace"),
    Flag::value("reaper", "auto", "collect what COMMAND's children leave (always done): auto, true, false"),
    Flag::value(
        "evacuate-cgroup2",
        "",
        "name of a control group to move everything to; needs --pidns --cgroupns",
    ),
    Flag::value(
        "subid-source",
        "auto",
        "where subordinate ids are: auto, dynamic (getsubids), static (files)",
    ),
    Flag::switch("help", "show this").or("h"),
    Flag::switch("version", "print the version").or("v"),
];

/// `--help`.
pub fn help() -> String {
    format!(
        "NAME:\n   rootlesskit - namespaces with a network, without root (this is ringtap)\n\n\
         USAGE:\n   rootlesskit [global options] COMMAND [arguments...]\n\n\
         VERSION:\n   {VERSION}\n\n\
         GLOBAL OPTIONS:\n{}",
        describe(&FLAGS)
    )
}

/// `--version`.
pub fn version() -> String {
    format!("rootlesskit version {VERSION}\n")
}

/// `--print-semver`.
///
/// # Errors
/// There is no such part.
pub fn semver(part: &str) -> Result<String, String> {
    let at = ["major", "minor", "patch"].iter().position(|name| *name == part);
    let number = at.and_then(|at| VERSION.split('.').nth(at));
    number
        .map(|number| format!("{number}\n"))
        .ok_or_else(|| format!("expected \"major\", \"minor\" or \"patch\", got {part:?}"))
}
