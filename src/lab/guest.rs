//! The inside of a namespace that some program gives a network: where the clients of a test or a measurement run.
//!
//! A [`Guest`] is found from a process that lives in it, and joined as its root; its [`Place`] has everything the other
//! places of a lab have. So a test can connect from inside the guest in its own thread, without a program for it.

use super::{Lab, LabError, Place, Running};
use crate::netns::world::{NetNs, World};
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// A joined namespace, and the programs that make it, ended when dropped, last started first.
#[derive(Debug)]
pub struct Guest {
    world: World,
    net: NetNs,
    dir: PathBuf,
    running: Vec<Running>,
}

impl Lab {
    /// The namespaces of process `pid`. `running` ends with the guest.
    pub fn guest(&self, pid: u32, running: Vec<Running>) -> Result<Guest, LabError> {
        let (world, net) = World::of_process(pid).map_err(|e| LabError::new("joining the guest", e))?;
        Ok(Guest { world, net, dir: self.dir.clone(), running })
    }

    /// The guest that `running`, a launcher such as `ringtap run -- sleep infinity`, made: the namespaces of its
    /// descendant named `comm`, waited for during at most `patience`.
    pub fn guest_below(
        &self,
        mut running: Running,
        comm: &str,
        patience: Duration,
    ) -> Result<Guest, LabError> {
        let end = Instant::now() + patience;
        loop {
            if let Some(pid) =
                descendants(running.pid()).into_iter().find(|&p| name(p).as_deref() == Some(comm))
            {
                return self.guest(pid, vec![running]);
            }
            if let Ok(Some(status)) = running.child().try_wait() {
                let text = format!("the launcher ended: {status}");
                return Err(LabError::new("waiting for the guest", io::Error::other(text)));
            }
            if Instant::now() > end {
                return Err(LabError::new("waiting for the guest", io::ErrorKind::TimedOut.into()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Guest {
    /// Where its programs run.
    pub fn place(&self) -> Place<'_> {
        Place { world: &self.world, net: &self.net, dir: &self.dir }
    }

    /// Ids mapped in its user namespace.
    pub fn ids(&self) -> u32 {
        self.world.ids()
    }

    /// The programs that make it, in the order of their start.
    pub fn running(&mut self) -> &mut [Running] {
        &mut self.running
    }

    /// Process ids of these programs and of all their descendants.
    pub fn processes(&self) -> Vec<u32> {
        let own = self.running.iter().map(Running::pid);
        own.clone().chain(own.flat_map(descendants)).collect()
    }
}

/// What Docker does: a bridge, a namespace on it, forwarding, masquerading towards the tap. $0 is the MTU.
const BRIDGE: &str = "
    ip link add br0 type bridge; ip addr add 172.17.0.1/16 dev br0
    ip -6 addr add fd17::1/64 dev br0 nodad; ip link set br0 mtu $0 up
    unshare --net setpriv --pdeathsig KILL sleep infinity & pid=$!
    while [ \"$(readlink /proc/$pid/ns/net)\" = \"$(readlink /proc/self/ns/net)\" ]; do sleep 0.01; done
    ip link add v0 mtu $0 type veth peer name eth0 mtu $0 netns $pid; ip link set v0 master br0 up
    c=\"nsenter --target $pid --net\"
    $c ip link set lo up; $c ip link set eth0 mtu $0 up
    $c ip addr add 172.17.0.2/16 dev eth0; $c ip route add default via 172.17.0.1
    $c ip -6 addr add fd17::2/64 dev eth0 nodad; $c ip -6 route add default via fd17::1
    echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
    nft add table inet nat; nft 'add chain inet nat post { type nat hook postrouting priority 100; }'
    nft add rule inet nat post oifname tap0 masquerade
    echo $pid; wait
";

impl Guest {
    /// A network namespace on a bridge inside this guest, as a container's is. Needs `ip`, `nft` and nsenter; may be done
    /// once for a guest.
    pub fn behind_bridge(&self, lab: &Lab, mtu: u16) -> Result<Self, LabError> {
        let what = "building a bridge in the guest";
        let mut shell = self.place().command("sh")?;
        shell.args(["-ec", BRIDGE, &mtu.to_string()]).stdout(Stdio::piped());
        let mut running = self.place().spawn(&mut shell)?;
        let mut line = String::new();
        if let Some(out) = running.child().stdout.take() {
            BufReader::new(out).read_line(&mut line).map_err(|e| LabError::new(what, e))?;
        }
        let pid = line.trim().parse().map_err(|_| LabError::new(what, io::ErrorKind::InvalidData.into()))?;
        lab.guest(pid, vec![running])
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        while let Some(program) = self.running.pop() {
            drop(program);
        }
    }
}

fn name(pid: u32) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim_end().to_owned())
}

/// Parent of a process: the second field after the name, which may hold anything (proc_pid_stat(5)).
fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split_whitespace().nth(1)?.parse().ok()
}

/// All processes below `pid`, at this moment.
pub fn descendants(pid: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let all: Vec<(u32, u32)> = entries
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .filter_map(|p: u32| Some((p, parent(p)?)))
        .collect();
    let mut found = vec![pid];
    let mut at = 0;
    while let Some(&of) = found.get(at) {
        found.extend(
            all.iter()
                .filter(|(p, parent)| *parent == of && !found.contains(p))
                .map(|(p, _)| *p)
                .collect::<Vec<_>>(),
        );
        at += 1;
    }
    found.remove(0);
    found
}
