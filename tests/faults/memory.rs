//! Memory that runs out: limits of the address space, of locked memory, and of a control group.

use crate::common::{SERVER, World, outcome, sh};
use crate::{Instance, echo, eventually, marked, marker};
use std::fs;
use std::path::PathBuf;

/// A start under `limit` (a line of shell): it works, or ends with one line that says what to raise, and nothing is left.
fn start_under(world: &World, limit: &str) -> bool {
    let marker = marker();
    let mut command = world.lab.host().command_as_user("sh").unwrap();
    let script = format!(
        "{limit}; exec \"{}\" run -p 8080:80 -- sh -ec 'curl -sS --max-time 20 http://{}/peer; : {marker}'",
        world.lab.bin("ringtap").display(),
        SERVER[0],
    );
    command.args(["-c", &script]);
    let said = outcome(limit, command);
    eventually("the end of every process", || marked(&marker).is_empty());
    if said.status.success() {
        return true;
    }
    assert!(!said.stderr.contains("panicked") && !said.stderr.contains("memory allocation of"), "{said:#?}");
    // The guest's own programs may fail under the limit as well, when the start has succeeded.
    if said.status.code() == Some(1) && said.stderr.lines().any(|l| l.starts_with("ringtap: ")) {
        let ours: Vec<_> = said.stderr.lines().filter(|l| l.starts_with("ringtap: ")).collect();
        assert_eq!(ours.len(), 1, "{said:#?}");
        assert!(ours[0].contains("ulimit"), "it says what to raise: {}", ours[0]);
    }
    false
}

#[test]
fn less_and_less_address_space() {
    let world = World::new();
    // In KiB: from what is too little for the program's own start to what is enough.
    let worked: Vec<bool> = [40_000, 60_000, 80_000, 100_000, 140_000, 1_000_000]
        .iter()
        .map(|kib| start_under(&world, &format!("ulimit -v {kib}")))
        .collect();
    assert!(worked.last() == Some(&true) && !worked[0], "{worked:?}");
}

#[test]
fn less_and_less_locked_memory() {
    let world = World::new();
    let worked: Vec<bool> =
        [0, 8, 64, 256, 8192].iter().map(|kib| start_under(&world, &format!("ulimit -l {kib}"))).collect();
    assert!(worked.last() == Some(&true), "{worked:?}");
}

/// A control group for one test, where this machine lets the test make one.
struct Group(PathBuf, &'static str);

impl Group {
    fn new(limit: u64) -> Option<Self> {
        let name = format!("ringtap-test-{}", std::process::id());
        for (base, file) in
            [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")]
        {
            let dir = PathBuf::from(base).join(&name);
            if fs::create_dir(&dir).is_err() {
                continue;
            }
            let group = Self(dir, file);
            if group.limit(limit) {
                return Some(group);
            }
        }
        None
    }

    fn limit(&self, bytes: u64) -> bool {
        fs::write(self.0.join(self.1), bytes.to_string()).is_ok()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// The kernel kills the plane for want of memory, in mid-traffic: another one takes its place.
#[test]
fn a_plane_that_is_killed_for_memory_is_replaced() {
    // Without a group of our own there is nothing to run out of: RLIMIT_AS refuses, and does not kill (above).
    let Some(group) = Group::new(64 << 20) else { return };
    let world = World::new();
    let instance = Instance::run(&world, &[]);
    let first = instance.plane();
    fs::write(group.0.join("cgroup.procs"), first.to_string()).unwrap();
    // Pages that it had before are not charged here: what it touches from now on is.
    let _ = group.limit(64 << 10);
    let bulk = format!("curl -sS --max-time 20 -o /dev/null http://{}/bytes/50000000", SERVER[0]);
    let mut rounds = 0;
    while instance.plane() == first && rounds < 20 {
        let _ = sh(instance.guest.place(), &bulk);
        rounds += 1;
    }
    assert!(instance.plane() != first, "it was not killed");
    eventually("a new connection", || echo(&instance.guest).is_some());
    sh(instance.guest.place(), &bulk).ok();
    let said = instance.said();
    assert!(
        said.contains("the data plane ended (killed by SIGKILL); another one serves the same tap now"),
        "{said}"
    );
}
