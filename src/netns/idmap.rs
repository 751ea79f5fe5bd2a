//! Id maps of a new user namespace: which ids of the caller's namespace are which inside.
//!
//! Three ways, best first. *Direct*: root (uid 0 with CAP_SETUID and CAP_SETGID) may map anything, and gets every id of
//! its own namespace under its own number; this is also what makes ringtap work inside itself. *Helpers*: a user with
//! subordinate ids (subuid(5): `/etc/subuid` and `/etc/subgid` by name or by number, or `getsubids` where
//! nsswitch.conf names another source) becomes 0, and the ranges follow from 1; the set-user-id programs newuidmap
//! and newgidmap write the maps, both at once. *Single*: the user becomes 0 and that is all; setgroups is denied, as
//! user_namespaces(7) demands. A way that fails falls back to the next with a warning. Which source of subordinate ids is
//! asked can be chosen ([`SubIds`]).
//!
//! Limits: 340 extents per map (kernel), 4 KiB of text.

use nix::unistd::{Gid, Pid, Uid, User};
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The kernel's `UID_GID_MAP_MAX_EXTENTS`.
const MAX_EXTENTS: usize = 340;

/// Ids cannot be mapped at all.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot map ids ({what}): {source}; {}",
    super::remedy(.source, "the user namespace is confined, check AppArmor and SELinux denials")
)]
pub struct IdMapError {
    what: &'static str,
    source: io::Error,
}

/// `count` ids from `inside` on are `outside` and following in the parent namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First id in the new namespace.
    pub inside: u32,
    /// First id in the parent namespace.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// Users or groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Uid,
    Gid,
}

impl Kind {
    const fn map_file(self) -> &'static str {
        match self {
            Self::Uid => "uid_map",
            Self::Gid => "gid_map",
        }
    }

    const fn helper(self) -> &'static str {
        match self {
            Self::Uid => "newuidmap",
            Self::Gid => "newgidmap",
        }
    }

    const fn sub_file(self) -> &'static str {
        match self {
            Self::Uid => "/etc/subuid",
            Self::Gid => "/etc/subgid",
        }
    }
}

/// Where subordinate ids are looked up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SubIds {
    /// In the files, then with getsubids if nsswitch.conf names another source.
    #[default]
    Auto,
    /// With getsubids.
    Dynamic,
    /// In the files.
    Static,
}

/// How one map will be written.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Way {
    Direct(Vec<Extent>),
    Helper(PathBuf, Vec<Extent>),
    Single,
}

/// What to write, decided before the namespace exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    uid: Way,
    gid: Way,
    own_uid: u32,
    own_gid: u32,
}

impl Plan {
    /// Looks at who we are and what we may map.
    pub fn for_caller(source: SubIds) -> Self {
        let (own_uid, own_gid) = (Uid::effective().as_raw(), Gid::effective().as_raw());
        let (uid, gid) = if own_uid == 0 && may_map_anything() {
            (Way::Direct(identity(Kind::Uid)), Way::Direct(identity(Kind::Gid)))
        } else {
            let name = User::from_uid(Uid::from_raw(own_uid)).ok().flatten().map(|u| u.name);
            let way =
                |kind, own| helper_way(source, kind, own, own_uid, name.as_deref()).unwrap_or(Way::Single);
            (way(Kind::Uid, own_uid), way(Kind::Gid, own_gid))
        };
        Self { uid, gid, own_uid, own_gid }
    }

    /// True if only the caller's own id will exist inside.
    pub fn is_single(&self) -> bool {
        self.uid == Way::Single
    }

    /// Begins to write both maps of the namespace whose first process is `pid`. Both helpers run at the same time, and
    /// beside whatever the caller does next; each takes a few milliseconds, mostly of program start.
    pub fn start(&self, pid: Pid) -> Mapping<'_> {
        Mapping { plan: self, pid, helpers: [start(&self.uid, pid), start(&self.gid, pid)] }
    }

    fn write_single(&self, pid: Pid, kind: Kind) -> Result<(), IdMapError> {
        let outside = match kind {
            Kind::Uid => self.own_uid,
            Kind::Gid => {
                // Without a privilege over the parent namespace the kernel wants this first; where it is denied
                // already, writing it again changes nothing.
                fs::write(format!("/proc/{pid}/setgroups"), "deny")
                    .map_err(|source| IdMapError { what: "setgroups", source })?;
                self.own_gid
            }
        };
        write_map(pid, kind, &[Extent { inside: 0, outside, count: 1 }])
            .map_err(|source| IdMapError { what: kind.map_file(), source })
    }
}

/// Maps that are being written.
#[derive(Debug)]
pub struct Mapping<'a> {
    plan: &'a Plan,
    pid: Pid,
    helpers: [Option<io::Result<std::process::Child>>; 2],
}

impl Mapping<'_> {
    /// Waits until both maps are written. Returns warnings: ways that did not work and were replaced by a lesser one.
    ///
    /// # Errors
    /// [`IdMapError`] if not even the caller's own id can be mapped.
    pub fn finish(self) -> Result<Vec<String>, IdMapError> {
        let Self { plan, pid, helpers: [uid_helper, gid_helper] } = self;
        let mut warnings = Vec::new();
        for (kind, way, helper) in [(Kind::Uid, &plan.uid, uid_helper), (Kind::Gid, &plan.gid, gid_helper)] {
            let outcome = match (way, helper) {
                (Way::Direct(extents), _) => write_map(pid, kind, extents).map_err(|e| e.to_string()),
                (Way::Helper(..), Some(helper)) => finish(helper),
                (Way::Single, _) | (_, None) => {
                    plan.write_single(pid, kind)?;
                    Ok(())
                }
            };
            if let Err(why) = outcome {
                warnings.push(format!("only one id is mapped: {}: {why}", kind.helper()));
                plan.write_single(pid, kind)?;
            }
        }
        Ok(warnings)
    }
}

/// What there is to map ids with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// Root, who needs neither of the following.
    pub any: bool,
    /// newuidmap and newgidmap.
    pub helpers: [Option<PathBuf>; 2],
    /// Subordinate user and group ids that are ours.
    pub ids: [u64; 2],
}

/// Looks at who we are and what we may map, for a person to read.
pub fn offer(source: SubIds) -> Offer {
    let own_uid = Uid::effective().as_raw();
    let name = User::from_uid(Uid::from_raw(own_uid)).ok().flatten().map(|u| u.name);
    let ids = |kind| {
        sub_ids(source, kind, own_uid, name.as_deref()).iter().map(|(_, count)| u64::from(*count)).sum()
    };
    Offer {
        any: own_uid == 0 && may_map_anything(),
        helpers: [Kind::Uid, Kind::Gid].map(|kind| find_program(kind.helper())),
        ids: [Kind::Uid, Kind::Gid].map(ids),
    }
}

/// Effective CAP_SETUID, CAP_SETGID (capability.h: 7 and 6); the kernel wants them in the namespace we are in.
fn may_map_anything() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|l| l.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    effective & 0b1100_0000 == 0b1100_0000
}

/// Every id of our own namespace, under its own number.
fn identity(kind: Kind) -> Vec<Extent> {
    let text = fs::read_to_string(format!("/proc/self/{}", kind.map_file())).unwrap_or_default();
    parse_map(&text).into_iter().map(|e| Extent { outside: e.inside, ..e }).collect()
}

/// Reads the text of a uid_map or gid_map.
pub(super) fn parse_map(text: &str) -> Vec<Extent> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace().map(|w| w.parse().ok());
            Some(Extent { inside: words.next()??, outside: words.next()??, count: words.next()?? })
        })
        .collect()
}

fn helper_way(source: SubIds, kind: Kind, own_id: u32, own_uid: u32, name: Option<&str>) -> Option<Way> {
    let helper = find_program(kind.helper())?;
    let ranges = sub_ids(source, kind, own_uid, name);
    let here = parse_map(&fs::read_to_string(format!("/proc/self/{}", kind.map_file())).unwrap_or_default());
    let extents = lay_out(own_id, &ranges, &here);
    (extents.len() > 1).then_some(Way::Helper(helper, extents))
}

/// First id and number of each range that is ours.
fn sub_ids(source: SubIds, kind: Kind, own_uid: u32, name: Option<&str>) -> Vec<(u32, u32)> {
    let from_file = || parse_sub_ids(&fs::read_to_string(kind.sub_file()).unwrap_or_default(), own_uid, name);
    match source {
        SubIds::Static => from_file(),
        SubIds::Dynamic => dynamic_sub_ids(kind, own_uid, name),
        // Without such a line getsubids reads the files that we have read already.
        SubIds::Auto => match from_file() {
            ranges if ranges.is_empty() && names_a_source() => dynamic_sub_ids(kind, own_uid, name),
            ranges => ranges,
        },
    }
}

/// subuid(5): `name-or-uid:start:count`. Lines that are not that are passed over, as the shadow tools do.
fn parse_sub_ids(text: &str, uid: u32, name: Option<&str>) -> Vec<(u32, u32)> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().splitn(3, ':');
            let owner = fields.next()?;
            let range = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            (Some(owner) == name || owner.parse() == Ok(uid)).then_some(range)
        })
        .collect()
}

/// Whether nsswitch.conf names a source of subordinate ids other than the files.
fn names_a_source() -> bool {
    let switch = fs::read_to_string("/etc/nsswitch.conf").unwrap_or_default();
    switch.lines().any(|l| l.trim_start().starts_with("subid:"))
}

/// Asks `getsubids` (or what `$GETSUBIDS` names), which knows the sources that nsswitch.conf may name.
fn dynamic_sub_ids(kind: Kind, uid: u32, name: Option<&str>) -> Vec<(u32, u32)> {
    let named = std::env::var_os("GETSUBIDS").filter(|path| !path.is_empty()).map(PathBuf::from);
    let Some(program) = named.or_else(|| find_program("getsubids")) else { return Vec::new() };
    let mut command = Command::new(program);
    if kind == Kind::Gid {
        command.arg("-g");
    }
    command.arg(name.map_or_else(|| uid.to_string(), str::to_owned));
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output();
    // One line per range: `0: user 100000 65536`.
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace().skip(2);
            Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
        })
        .collect()
}

/// Puts the own id at 0 and the ranges after it, without what the kernel would refuse: ranges that overlap one
/// another or the own id, and ranges that do not exist in our own namespace (`here`).
fn lay_out(own_id: u32, ranges: &[(u32, u32)], here: &[Extent]) -> Vec<Extent> {
    let mut extents = vec![Extent { inside: 0, outside: own_id, count: 1 }];
    for &(start, count) in ranges {
        let end = u64::from(start) + u64::from(count);
        let overlaps = extents.iter().any(|e| {
            u64::from(start) < u64::from(e.outside) + u64::from(e.count) && u64::from(e.outside) < end
        });
        let exists =
            here.iter().any(|e| start >= e.inside && end <= u64::from(e.inside) + u64::from(e.count));
        let inside = extents.last().map_or(0, |e| u64::from(e.inside) + u64::from(e.count));
        let Ok(inside) = u32::try_from(inside) else { break };
        if count == 0 || overlaps || !exists || u32::MAX - inside < count || extents.len() == MAX_EXTENTS {
            continue;
        }
        extents.push(Extent { inside, outside: start, count });
    }
    extents
}

fn start(way: &Way, pid: Pid) -> Option<io::Result<std::process::Child>> {
    let Way::Helper(program, extents) = way else { return None };
    let mut command = Command::new(program);
    command.arg(pid.to_string());
    for e in extents {
        command.args([e.inside, e.outside, e.count].map(|n| n.to_string()));
    }
    Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn())
}

fn finish(helper: io::Result<std::process::Child>) -> Result<(), String> {
    let output = helper.and_then(std::process::Child::wait_with_output).map_err(|e| e.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(format!("{text} ({}); is it set-user-id, and are /etc/subuid and /etc/subgid right?", output.status))
}

fn write_map(pid: Pid, kind: Kind, extents: &[Extent]) -> io::Result<()> {
    let mut text = String::new();
    for e in extents {
        let _ = writeln!(text, "{} {} {}", e.inside, e.outside, e.count);
    }
    fs::write(format!("/proc/{pid}/{}", kind.map_file()), text)
}

/// Looks for a program in PATH, then where distributions put it.
fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/bin", "/usr/sbin", "/bin"].map(PathBuf::from))
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|candidate| Path::is_file(candidate))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Extent; 1] = [Extent { inside: 0, outside: 0, count: u32::MAX }];

    #[test]
    fn sub_ids_are_found_by_name_and_by_number() {
        let text = "alice:100000:65536\n1001:300000:10\nbob:200000:65536\nbroken\nalice:x:y\n";
        assert_eq!(parse_sub_ids(text, 1001, Some("alice")), [(100_000, 65_536), (300_000, 10)]);
        assert_eq!(parse_sub_ids(text, 7, Some("bob")), [(200_000, 65_536)]);
        assert!(parse_sub_ids(text, 7, None).is_empty());
    }

    #[test]
    fn ranges_follow_the_own_id_and_what_the_kernel_refuses_is_left_out() {
        let extents =
            lay_out(1001, &[(100_000, 65_536), (100_010, 5), (1000, 10), (300_000, 0), (400_000, 2)], &ALL);
        assert_eq!(
            extents,
            [
                Extent { inside: 0, outside: 1001, count: 1 },
                Extent { inside: 1, outside: 100_000, count: 65_536 },
                Extent { inside: 65_537, outside: 400_000, count: 2 },
            ]
        );
    }

    #[test]
    fn ranges_that_do_not_exist_here_are_left_out() {
        let here = [
            Extent { inside: 0, outside: 1001, count: 1 },
            Extent { inside: 1, outside: 100_000, count: 65_536 },
        ];
        assert_eq!(lay_out(0, &[(100_000, 65_536)], &here).len(), 1);
        assert_eq!(lay_out(0, &[(1000, 100)], &here).len(), 2);
    }

    #[test]
    fn a_huge_range_does_not_overflow() {
        assert_eq!(lay_out(5, &[(10, u32::MAX), (u32::MAX, u32::MAX)], &ALL).len(), 1);
    }

    #[test]
    fn map_text_is_read_as_the_kernel_writes_it() {
        let text = "         0       1001          1\n         1     100000      65536\n";
        assert_eq!(parse_map(text)[1], Extent { inside: 1, outside: 100_000, count: 65_536 });
    }
}
