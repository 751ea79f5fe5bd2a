//! What is seen, judged: a line for each thing, and a remedy for each that fails.
//!
//! A pure function of [`Observations`], so that every case can be told in a test whatever the host is like. Errors of the
//! real start bring their own words and remedies. *Fail* keeps ringtap from starting; *warn* takes something that many
//! want; *info* is neither good nor bad.

use super::observe::{Limit, Observations, Trouble};
use crate::cli::settings::FILE_VARIABLE;
use crate::config::SandboxMode;
use crate::msg::Steering;
use crate::netns::process::{APPARMOR, SpawnError};
use crate::ring::{FrameReads, RingConfig, RingError};
use serde::Serialize;

/// The oldest kernel.
const FLOOR: (u32, u32) = (6, 1);
/// Fewer descriptors than this are noticed by more than a few users of a published port.
const DESCRIPTORS: u64 = 4096;
/// Bytes of the pool's pipes, and as much for others.
const PIPES: u64 = 16 << 20;

/// How a thing stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Neither good nor bad.
    Info,
    /// Something will be missing or slow.
    Warn,
    /// ringtap does not start.
    Fail,
}

/// One thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// What it is about.
    pub name: &'static str,
    /// How it stands.
    pub status: Status,
    /// What was found, on one line.
    pub found: String,
    /// Why, for scripts; if it is not as it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Line {
    fn new(name: &'static str, status: Status, found: impl Into<String>) -> Self {
        Self { name, status, found: found.into(), code: None, remedy: None }
    }

    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Status::Ok, found)
    }

    fn because(mut self, code: &str, remedy: impl Into<String>) -> Self {
        self.code = Some(code.to_owned());
        self.remedy = Some(remedy.into());
        self
    }
}

/// Judges everything, in the order in which a start would meet it.
pub fn judge(seen: &Observations) -> Vec<Line> {
    let mut lines = vec![kernel(seen)];
    ring(seen, &mut lines);
    lines.push(memlock(seen));
    lines.push(match &seen.node {
        Ok(()) => Line::ok("tun", "/dev/net/tun can be opened"),
        Err(e) => of_trouble("tun", &e.into()),
    });
    namespaces(seen, &mut lines);
    lines.push(sub_ids(seen));
    lines.push(descriptors(seen));
    lines.push(pipes(seen));
    lines.push(ping(seen));
    lines.push(low_ports(seen));
    lines.push(resolvers(seen));
    lines.push(confinement(seen));
    settings(seen, &mut lines);
    lines
}

fn of_trouble(name: &'static str, trouble: &Trouble) -> Line {
    let line = Line::new(name, Status::Fail, &trouble.cause);
    Line { code: Some(trouble.code.clone()), remedy: trouble.remedy.clone(), ..line }
}

/// Major and minor number of a release such as `6.1.0-18-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn kernel(seen: &Observations) -> Line {
    let found = format!("Linux {}, {}", seen.kernel, seen.arch);
    match version(&seen.kernel) {
        Some(version) if version < FLOOR => Line::new("kernel", Status::Fail, found)
            .because("kernel-too-old", "ringtap needs Linux 6.1 or later: upgrade the kernel"),
        _ => Line::ok("kernel", found),
    }
}

fn ring(seen: &Observations, lines: &mut Vec<Line>) {
    let sysctl = match seen.ring_settings.disabled {
        Some(level) => format!("kernel.io_uring_disabled={level}"),
        None => "no kernel.io_uring_disabled".to_owned(),
    };
    let offer = match &seen.ring {
        Ok(offer) => offer,
        Err(e) => {
            let code = match e {
                RingError::Missing => "io-uring-missing",
                RingError::Disabled { .. } => "io-uring-disabled",
                RingError::Forbidden(_) => "io-uring-blocked",
                RingError::TooOld { .. } => "kernel-too-old",
                RingError::Memory { .. } => "memlock-too-low",
                RingError::Descriptors(_) => "descriptors-too-few",
                RingError::Arena { .. } | RingError::Other { .. } => "io-uring",
            };
            let line = Line::new("io_uring", Status::Fail, e.cause());
            lines.push(Line { code: Some(code.into()), remedy: e.remedy().map(str::to_owned), ..line });
            return;
        }
    };
    let wanted = RingConfig::default();
    let line = Line::ok("io_uring", format!("{}; {sysctl}", offer.granted));
    lines.push(match offer.granted.entries < wanted.entries {
        true => Line { status: Status::Warn, ..line }.because(
            "ring-small",
            format!(
                "rings of {}/{} entries are wanted, and memory for so many is not left: raise the limit of locked memory \
                 (`ulimit -l`, LimitMEMLOCK=)",
                wanted.entries, wanted.cq_entries
            ),
        ),
        false => line,
    });
    let (known, unknown): (Vec<_>, Vec<_>) = offer.operations.iter().partition(|(_, known)| *known);
    let names = |list: &[&(&'static str, bool)]| {
        let short = list.iter().map(|(name, _)| name.trim_start_matches("IORING_OP_").to_lowercase());
        short.collect::<Vec<_>>().join(" ")
    };
    lines.push(match offer.granted.frame_reads {
        FrameReads::Multishot => Line::ok("operations", names(&known)),
        FrameReads::Single => {
            Line::new("operations", Status::Info, format!("{}; not {}", names(&known), names(&unknown)))
                .because("no-multishot-reads", "Linux 6.7 or later reads frames with fewer submissions")
        }
    });
}

fn memlock(seen: &Observations) -> Line {
    let Some(limit) = seen.memlock else { return Line::new("memlock", Status::Info, "unknown") };
    let kib =
        |n: u64| if n == libc::RLIM_INFINITY { "unlimited".to_owned() } else { format!("{} KiB", n / 1024) };
    let found = format!(
        "{} of locked memory for all rings of {} (hard limit {})",
        kib(limit.soft),
        seen.user,
        kib(limit.hard)
    );
    match &seen.ring {
        Err(e @ RingError::Memory { .. }) => Line::new("memlock", Status::Fail, found)
            .because("memlock-too-low", e.remedy().unwrap_or_default()),
        _ => Line::ok("memlock", found),
    }
}

fn namespaces(seen: &Observations, lines: &mut Vec<Line>) {
    let apparmor = seen.namespace_settings.apparmor_restricts();
    let inside = match &seen.inside {
        Ok(inside) => inside,
        Err(SpawnError::Refused { cause, remedy }) => {
            let code = if cause == APPARMOR.0 { "apparmor" } else { "userns-off" };
            lines.push(
                Line::new("namespaces", Status::Fail, format!("cannot be created: {cause}"))
                    .because(code, *remedy),
            );
            return;
        }
        Err(e) => {
            lines.push(
                Line::new("namespaces", Status::Fail, e.to_string())
                    .because("no-process", "check the limits of processes (ulimit -u) and memory"),
            );
            return;
        }
    };
    let most = seen.max_user_namespaces.map_or(String::new(), |n| format!(" (user.max_user_namespaces={n})"));
    match &seen.mapping {
        // What AppArmor's profile for unprivileged namespaces leaves is a namespace without a capability in it.
        Err(cause) if apparmor => {
            let found = format!("{}: {cause}", APPARMOR.0);
            lines.push(Line::new("namespaces", Status::Fail, found).because("apparmor", APPARMOR.1));
        }
        Err(cause) => lines.push(Line::new("namespaces", Status::Fail, cause).because(
            "no-id-map",
            "the user namespace is confined: look for denials of a security module (dmesg)",
        )),
        Ok(_) => {
            lines.push(Line::ok("namespaces", format!("user, mount, network and process namespaces{most}")));
        }
    }
    match &inside.tap {
        Err(trouble) if trouble.code == "tap-not-permitted" && apparmor => {
            lines.push(Line::new("tap", Status::Fail, APPARMOR.0).because("apparmor", APPARMOR.1));
        }
        // Said already.
        Err(_) if seen.node.is_err() => {}
        Err(trouble) => lines.push(of_trouble("tap", trouble)),
        Ok((offloads, true)) => lines.push(Line::ok("tap", format!("offloads {offloads}"))),
        Ok((offloads, false)) => lines.push(
            Line::new("tap", Status::Info, format!("offloads {offloads}"))
                .because("offloads", "Linux 6.2 or later leaves the segmentation of datagrams to us as well"),
        ),
    }
    if let Some(cause) = &inside.link {
        lines.push(Line::new("tap", Status::Warn, cause).because("tap-link", "see `dmesg` for denials"));
    }
    for (name, steering) in ["IPv4 clients", "IPv6 clients"].into_iter().zip(&inside.steering) {
        lines.push(match steering {
            Steering::Full => Line::ok(name, "nf_tables: relayed, and seen inside under their own addresses"),
            Steering::LocalTcp(why) | Steering::Off(why) => {
                let (cause, remedy) = why.rsplit_once("; ").unwrap_or((why, "see the cause"));
                let found = format!("{cause}: published ports go through the tap instead");
                Line::new(name, Status::Warn, found).because("no-nf-tables", remedy)
            }
        });
    }
}

fn sub_ids(seen: &Observations) -> Line {
    let ids = &seen.ids;
    if ids.any {
        return Line::ok("sub-ids", "root maps every id");
    }
    let one = "only your own id will exist inside";
    let remedy_ids =
        format!("as root, `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {}`", seen.user);
    let missing: Vec<&str> = ["newuidmap", "newgidmap"]
        .into_iter()
        .zip(&ids.helpers)
        .filter(|(_, at)| at.is_none())
        .map(|(n, _)| n)
        .collect();
    let warn = |found: String| Line::new("sub-ids", Status::Warn, found);
    let refused = seen.mapping.as_ref().ok().and_then(|warnings| warnings.first());
    match (ids.ids, &missing[..], refused) {
        ([users, groups], ..) if users == 0 || groups == 0 => {
            warn(format!("{users} user and {groups} group ids in /etc/subuid and /etc/subgid: {one}"))
                .because("no-sub-ids", remedy_ids)
        }
        (_, [_, ..], _) => warn(format!("no {}: {one}", missing.join(", ")))
            .because("no-newuidmap", "install newuidmap and newgidmap (Debian: `apt-get install uidmap`)"),
        (_, _, Some(why)) if seen.no_new_privs => warn(why.clone()).because(
            "no-new-privs",
            "programs gain nothing by set-user-id here (no_new_privs): start from a session without it \
             (NoNewPrivileges=no)",
        ),
        (_, _, Some(why)) => warn(why.clone()).because(
            "sub-ids",
            "make newuidmap and newgidmap set-user-id root, and check /etc/subuid and /etc/subgid",
        ),
        ([users, groups], [], None) => {
            Line::ok("sub-ids", format!("{users} users, {groups} groups; newuidmap, newgidmap"))
        }
    }
}

fn descriptors(seen: &Observations) -> Line {
    let Some(Limit { soft, hard }) = seen.descriptors else {
        return Line::new("descriptors", Status::Info, "unknown");
    };
    let found = format!("{hard} (soft limit {soft}): one for each flow, listener and end of a pipe");
    if hard < DESCRIPTORS {
        return Line::new("descriptors", Status::Warn, found)
            .because("descriptors-few", "raise the hard limit: `ulimit -Hn`, systemd's LimitNOFILE=");
    }
    Line::ok("descriptors", found)
}

fn pipes(seen: &Observations) -> Line {
    match seen.pipe_pages {
        None => Line::new("pipes", Status::Info, "unknown"),
        Some(0) => Line::ok("pipes", "no limit for a user's pipes"),
        Some(pages) => {
            let bytes = pages.saturating_mul(seen.page);
            let found = format!(
                "{} MiB for all pipes of {} (fs.pipe-user-pages-soft={pages})",
                bytes >> 20,
                seen.user
            );
            if bytes >= PIPES {
                return Line::ok("pipes", found);
            }
            Line::new("pipes", Status::Warn, found).because(
                "pipes-few",
                "bulk is copied without pipes; as root, `sysctl fs.pipe-user-pages-soft=16384`",
            )
        }
    }
}

fn ping(seen: &Observations) -> Line {
    let Some((from, to)) = seen.ping_groups else { return Line::new("ping", Status::Info, "unknown") };
    let found = format!("net.ipv4.ping_group_range={from} {to}");
    if seen.groups.iter().any(|group| (from..=to).contains(&u64::from(*group))) {
        return Line::ok("ping", found);
    }
    Line::new("ping", Status::Warn, format!("{found}: no answers to pings from inside")).because(
        "no-ping",
        "as root, `sysctl net.ipv4.ping_group_range=\"0 2147483647\"` (and in /etc/sysctl.d for after the next boot)",
    )
}

fn low_ports(seen: &Observations) -> Line {
    match seen.port_start {
        None => Line::new("low ports", Status::Info, "unknown"),
        Some(0 | 1) => Line::ok("low ports", "all ports can be published"),
        Some(first) => Line::new(
            "low ports",
            Status::Info,
            format!("ports below {first} cannot be published"),
        )
        .because(
            "low-ports",
            "to publish port 80, as root `sysctl net.ipv4.ip_unprivileged_port_start=80`, or give ringtap \
             `setcap cap_net_bind_service=ep`",
        ),
    }
}

fn resolvers(seen: &Observations) -> Line {
    match &seen.resolvers {
        None => Line::new(
            "resolvers",
            Status::Warn,
            "no /etc/resolv.conf: resolvers on 127.0.0.1 and ::1 are asked",
        )
        .because("no-resolvers", "make one, or name resolvers: `--dns ADDR`"),
        Some(found) => {
            let list: Vec<String> = found.servers.iter().map(ToString::to_string).collect();
            Line::ok("resolvers", list.join(" "))
        }
    }
}

fn confinement(seen: &Observations) -> Line {
    let mut found = Vec::new();
    found.push(match &seen.apparmor {
        Some(profile) => format!("AppArmor profile {profile}"),
        None => "no AppArmor".to_owned(),
    });
    if seen.namespace_settings.apparmor_restricts() {
        found.push("AppArmor restricts user namespaces of programs without a profile".to_owned());
    }
    if seen.seccomp {
        found.push("a seccomp filter holds".to_owned());
    }
    if seen.no_new_privs {
        found.push("no_new_privs is set".to_owned());
    }
    Line::new("confinement", Status::Info, found.join("; "))
}

fn settings(seen: &Observations, lines: &mut Vec<Line>) {
    let peers: Vec<String> = seen
        .peers
        .iter()
        .map(|peer| match &peer.version {
            Some(version) => format!("{} ({version})", peer.path.display()),
            None => peer.path.display().to_string(),
        })
        .collect();
    let none = || "none of those that ringtap takes the place of or serves".to_owned();
    lines.push(Line::new("peers", Status::Info, if peers.is_empty() { none() } else { peers.join(", ") }));
    lines.push(match &seen.state_dir {
        Ok(dir) => Line::ok("state", format!("below {}", dir.parent().unwrap_or(dir).display())),
        Err(e) => {
            let (cause, remedy) = e.rsplit_once("; ").unwrap_or((e, "name one (--state-dir)"));
            Line::new("state", Status::Fail, cause).because("state-dir", remedy)
        }
    });
    let given = match &seen.settings {
        Ok(given) => given.join(", "),
        Err(e) => {
            let remedy = format!("mend it: nothing starts until then; `{FILE_VARIABLE}=` leaves a file out");
            lines.push(Line::new("settings", Status::Fail, e.to_string()).because("settings", remedy));
            return;
        }
    };
    let set: Vec<String> = seen.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let network = crate::config::Network::default();
    let v6 = network.v6.map_or(String::new(), |net| format!(", {net}"));
    lines.push(Line::new(
        "settings",
        Status::Info,
        format!(
            "unless told otherwise: {}{v6}, MTU {}, sandbox {}{}{given}{}{}",
            network.v4,
            network.mtu,
            match SandboxMode::default() {
                SandboxMode::On => "on",
                SandboxMode::Off => "off",
                SandboxMode::Require => "require",
            },
            if given.is_empty() { "" } else { "; set: " },
            if set.is_empty() { "" } else { "; from the environment: " },
            set.join(" ")
        ),
    ));
}

#[cfg(test)]
mod tests;
