//! What a host has, as plain data: read, tried out, and not judged.
//!
//! Whatever can only be known by trying is tried as `ringtap run` would: a ring like the data plane's, a process in new
//! namespaces, its id maps, a tap there, the rules that keep clients' addresses. It all ends with the process, and nothing
//! else of the host is touched. Programs of others are asked for their versions.

use crate::bench::machine;
use crate::cli::{config, settings};
use crate::config::settings::{Caller, Origin, SettingsError};
use crate::config::{Network, Resolvers};
use crate::control::state::StateDir;
use crate::control::{resolvers, resolvers::RESOLV_CONF};
use crate::msg::{Channel, Steering};
use crate::netns::idmap::{self, Plan, SubIds};
use crate::netns::process::{self, SpawnError};
use crate::netns::{link, steer};
use crate::ring::{self, RingError};
use crate::tap::{self, Tap, TapError};
use nix::sched::CloneFlags;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::wait::waitpid;
use nix::unistd::{Uid, User, getegid, getgroups};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// Namespaces of `ringtap run`.
const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWUSER
    .union(CloneFlags::CLONE_NEWNS)
    .union(CloneFlags::CLONE_NEWNET)
    .union(CloneFlags::CLONE_NEWPID);
/// Programs whose place ringtap takes, or that stand on it.
const PEERS: [&str; 8] =
    ["rootlesskit", "slirp4netns", "pasta", "docker-proxy", "dockerd", "podman", "k3s", "nerdctl"];
/// Variables of the environment that change what ringtap does.
const VARIABLES: [&str; 4] = ["XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "GETSUBIDS", "ROOTLESSKIT_STATE_DIR"];

/// Why something was refused, in the words of the error that the real start would end with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// For scripts.
    pub code: String,
    /// What is wrong.
    pub cause: String,
    /// What to do.
    pub remedy: Option<String>,
}

impl From<&TapError> for Trouble {
    fn from(e: &TapError) -> Self {
        let code = match e {
            TapError::NoDriver(_) => "tun-missing",
            TapError::NoAccess(_) => "tun-denied",
            TapError::NotPermitted { .. } => "tap-not-permitted",
            _ => "tap",
        };
        Self { code: code.into(), cause: e.cause(), remedy: e.remedy().map(str::to_owned) }
    }
}

/// What was found in new namespaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inside {
    /// What a tap can take off our hands, and whether that is all there is; or why there is none.
    pub tap: Result<(String, bool), Trouble>,
    /// Why the tap was not configured as it should be.
    pub link: Option<String>,
    /// How far clients' addresses can be kept.
    pub steering: [Steering; 2],
}

/// A user's soft and hard limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// In force.
    pub soft: u64,
    /// To which it can be raised.
    pub hard: u64,
}

/// Another program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// What it is called.
    pub name: &'static str,
    /// The first of the name in `PATH`.
    pub path: PathBuf,
    /// What it says of itself.
    pub version: Option<String>,
}

/// Everything that was seen.
#[derive(Debug)]
pub struct Observations {
    /// As uname(2) has it.
    pub kernel: String,
    /// As the compiler calls it.
    pub arch: &'static str,
    /// Name, or number where there is no name.
    pub user: String,
    /// What explains a refused ring.
    pub ring_settings: ring::Settings,
    /// A ring like the data plane's.
    pub ring: Result<ring::Offer, RingError>,
    /// Opening /dev/net/tun.
    pub node: Result<(), TapError>,
    /// What explains refused namespaces.
    pub namespace_settings: process::Settings,
    /// `user.max_user_namespaces`.
    pub max_user_namespaces: Option<u64>,
    /// What was found in them.
    pub inside: Result<Inside, SpawnError>,
    /// What there is to map ids with.
    pub ids: idmap::Offer,
    /// How mapping them went, if there were namespaces: what did not work.
    pub mapping: Result<Vec<String>, String>,
    /// `RLIMIT_MEMLOCK` in bytes.
    pub memlock: Option<Limit>,
    /// `RLIMIT_NOFILE`.
    pub descriptors: Option<Limit>,
    /// `fs.pipe-user-pages-soft`: pages of pipes that a user may have at full size; 0 is no limit.
    pub pipe_pages: Option<u64>,
    /// Bytes in a page.
    pub page: u64,
    /// `net.ipv4.ping_group_range`.
    pub ping_groups: Option<(u64, u64)>,
    /// Our groups.
    pub groups: Vec<u32>,
    /// `net.ipv4.ip_unprivileged_port_start`.
    pub port_start: Option<u16>,
    /// /etc/resolv.conf, if there is one.
    pub resolvers: Option<Resolvers>,
    /// The AppArmor profile that we run under, where AppArmor is at work.
    pub apparmor: Option<String>,
    /// Filters of system calls that hold for us.
    pub seccomp: bool,
    /// Set-user-id programs do not gain anything when we start them.
    pub no_new_privs: bool,
    /// What else is installed.
    pub peers: Vec<Peer>,
    /// Where instances keep their state.
    pub state_dir: Result<PathBuf, String>,
    /// Settings that are not the defaults, each with where it came from; or what is wrong with one.
    pub settings: Result<Vec<String>, SettingsError>,
    /// Variables of the environment that count, as set.
    pub environment: Vec<(&'static str, String)>,
}

/// Looks at everything. The process must have one thread.
pub fn observe() -> Observations {
    let (inside, mapping) = inside();
    let own = Uid::effective();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).map(|v| v.trim().to_owned());
    Observations {
        kernel: sysctl("kernel/osrelease").unwrap_or_default(),
        arch: std::env::consts::ARCH,
        user: User::from_uid(own).ok().flatten().map_or_else(|| own.to_string(), |u| u.name),
        ring_settings: ring::Settings::read(),
        ring: ring::offer(),
        node: tap::node(),
        namespace_settings: process::Settings::read(),
        max_user_namespaces: number("user/max_user_namespaces"),
        inside,
        ids: idmap::offer(SubIds::Auto),
        mapping,
        memlock: limit(Resource::RLIMIT_MEMLOCK),
        descriptors: limit(Resource::RLIMIT_NOFILE),
        pipe_pages: number("fs/pipe-user-pages-soft"),
        page: page(),
        ping_groups: sysctl("net/ipv4/ping_group_range").and_then(|text| {
            let mut words = text.split_whitespace().map(str::parse);
            Some((words.next()?.ok()?, words.next()?.ok()?))
        }),
        groups: groups(),
        port_start: number("net/ipv4/ip_unprivileged_port_start").and_then(|n| u16::try_from(n).ok()),
        resolvers: Path::new(RESOLV_CONF).exists().then(resolvers::read),
        apparmor: apparmor(),
        seccomp: field("Seccomp:").is_some_and(|mode| mode != "0"),
        no_new_privs: field("NoNewPrivs:").is_some_and(|set| set != "0"),
        peers: peers(),
        state_dir: StateDir::create(None).map(|dir| dir.path().to_owned()).map_err(|e| e.to_string()),
        settings: settings::load(Caller::Run).map(|all| {
            let given = all.iter().filter(|value| value.origin != Origin::Default);
            given.map(|v| format!("{} = {} ({})", v.setting.key, config::shown(v), v.origin)).collect()
        }),
        environment: VARIABLES.iter().filter_map(|name| Some((*name, std::env::var(name).ok()?))).collect(),
    }
}

fn sysctl(name: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/sys/{name}")).ok().map(|text| text.trim().to_owned())
}

fn number(name: &str) -> Option<u64> {
    sysctl(name)?.parse().ok()
}

fn limit(what: Resource) -> Option<Limit> {
    getrlimit(what).ok().map(|(soft, hard)| Limit { soft, hard })
}

fn page() -> u64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|n| u64::try_from(n).ok()).unwrap_or(4096)
}

fn groups() -> Vec<u32> {
    let mut all: Vec<u32> =
        getgroups().unwrap_or_default().into_iter().map(nix::unistd::Gid::as_raw).collect();
    all.push(getegid().as_raw());
    all
}

fn apparmor() -> Option<String> {
    let enabled = fs::read_to_string("/sys/module/apparmor/parameters/enabled").ok()?;
    let profile = || {
        let own = "/proc/self/attr/apparmor/current";
        fs::read_to_string(own).or_else(|_| fs::read_to_string("/proc/self/attr/current"))
    };
    enabled.starts_with('Y').then(|| profile().unwrap_or_default().trim_end_matches(['\n', '\0']).to_owned())
}

fn peers() -> Vec<Peer> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = |name: &'static str| {
        let path = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|p| p.is_file())?;
        let version = machine::version(&path.to_string_lossy());
        Some(Peer { name, path, version })
    };
    PEERS.into_iter().filter_map(found).collect()
}

/// What new namespaces have to offer, and how mapping ids went.
fn inside() -> (Result<Inside, SpawnError>, Result<Vec<String>, String>) {
    let (ours, theirs) = match Channel::pair() {
        Ok(pair) => pair,
        Err(e) => return (Err(SpawnError::Fork(std::io::Error::other(e))), Ok(Vec::new())),
    };
    let spawned = process::spawn(NAMESPACES, || {
        process::die_with_parent();
        // The end of file tells the parent that we are gone.
        process::close_copies(&[std::os::fd::AsFd::as_fd(&ours)]);
        // Ids first: settings of the namespace are root's.
        if theirs.recv::<bool>().is_ok() {
            let _ = theirs.send(&look(), &[]);
        }
        0
    });
    let process = match spawned {
        Ok(process) => process,
        Err(e) => return (Err(e), Ok(Vec::new())),
    };
    drop(theirs);
    let mapping = Plan::for_caller(SubIds::Auto).start(process.pid).finish().map_err(|e| e.to_string());
    let found = ours.send(&true, &[]).and_then(|()| ours.recv::<Inside>());
    drop(ours);
    let _ = waitpid(process.pid, None);
    let gone = |e| SpawnError::Fork(std::io::Error::other(format!("the process in new namespaces: {e}")));
    (found.map(|(inside, _)| inside).map_err(gone), mapping)
}

/// Inside: a tap, configured, and the rules that keep clients' addresses.
fn look() -> Inside {
    let network = Network::default();
    let tap = Tap::create(&network.ifname);
    let linked = link::loopback_up().and_then(|()| match &tap {
        Ok(_) => link::configure_tap(&network),
        Err(_) => Ok(None),
    });
    Inside {
        tap: tap
            .as_ref()
            .map(|tap| (tap.offloads.to_string(), tap.offloads.is_full()))
            .map_err(Trouble::from),
        link: linked.unwrap_or_else(|e| Some(e.to_string())),
        steering: steer::both(),
    }
}
