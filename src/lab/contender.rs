//! Programs that give a namespace a network, started alike: ringtap and its peers, and no program at all.
//!
//! [`Contender::start`] makes a user, mount and network namespace in the lab's host, attaches the program to it, waits until
//! it says that it is ready, and returns the [`Guest`]. Every contender gets the same namespace, addresses (10.0.2.100)
//! and resolv.conf, so that differences are the program's own. Direct means that the host itself is the guest.

use super::{Guest, Lab, LabError, Running, addr};
use std::fs::{self, OpenOptions};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Who carries the packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contender {
    /// Nobody: the programs run in the host.
    Direct,
    /// `ringtap attach`, this program.
    Ringtap(PathBuf),
    /// slirp4netns from PATH.
    Slirp4netns,
    /// pasta from PATH.
    Pasta,
}

/// How it is started.
#[derive(Clone, Debug)]
pub struct Start {
    /// MTU of the guest's tap.
    pub mtu: u16,
    /// As an ordinary user rather than as the lab's root.
    pub as_user: bool,
    /// Further options of the program.
    pub options: Vec<String>,
    /// The program, instead of the one that PATH has.
    pub program: Option<PathBuf>,
    /// Where its standard error goes, instead of ours.
    pub log: Option<PathBuf>,
}

impl Default for Start {
    fn default() -> Self {
        Self { mtu: 1500, as_user: false, options: Vec::new(), program: None, log: None }
    }
}

const PATIENCE: Duration = Duration::from_secs(15);
const PATIENCE_V6: Duration = Duration::from_secs(1);

impl Contender {
    /// A word for tables.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Ringtap(_) => "ringtap",
            Self::Slirp4netns => "slirp4netns",
            Self::Pasta => "pasta",
        }
    }

    /// Whether its program is there.
    pub fn installed(&self) -> bool {
        match self {
            Self::Direct => true,
            Self::Ringtap(program) => program.is_file(),
            Self::Slirp4netns | Self::Pasta => on_path(self.name()),
        }
    }

    /// Starts it in `lab`'s host; its standard error goes to ours, unless `how` says where.
    pub fn start(&self, lab: &Lab, how: &Start) -> Result<Guest, LabError> {
        let command = |program: &str| how.command(lab, program);
        if *self == Self::Direct {
            // Nobody's namespace is its own: only root of the lab may join it.
            let holder = lab.host().spawn(lab.host().command("sleep")?.arg("infinity"))?;
            return lab.guest(holder.pid(), vec![holder]);
        }
        let holder = how.bare(lab)?;
        let pid = holder.pid();
        let (mtu, target) = (how.mtu.to_string(), pid.to_string());
        let running = match self {
            Self::Direct => return Err(LabError::new("direct", io::ErrorKind::Unsupported.into())),
            Self::Ringtap(program) => {
                let mut network = ready_on_3(command("sh")?);
                network.arg(program).args(["attach", "--mtu", &mtu, "--ready-fd", "3"]);
                start_ready(lab, network.args(&how.options).arg(&target))?
            }
            Self::Slirp4netns => {
                let mut network = ready_on_3(command("sh")?);
                network.arg(how.program("slirp4netns"));
                network.args(["-r", "3", "-c", "-6", "--disable-host-loopback", "--mtu", &mtu]);
                start_ready(lab, network.args(&how.options).args([&target, "tap0"]))?
            }
            Self::Pasta => {
                let mut network = command(&how.program("pasta").to_string_lossy())?;
                network.args([
                    "--foreground",
                    "--quiet",
                    "--config-net",
                    "--no-map-gw",
                    "--ns-ifname",
                    "tap0",
                ]);
                network.args(["--mtu", &mtu, "--address", "10.0.2.100", "--netmask", "24"]);
                network.args(["--gateway", "10.0.2.2", "--dns-forward", "10.0.2.3"]);
                for published in ["-t", "-u"] {
                    // It takes such an option once.
                    if !how.options.iter().any(|o| o == published) {
                        network.args([published, "none"]);
                    }
                }
                network.args(["-T", "none", "-U", "none"]).args(&how.options);
                lab.host().spawn(network.arg(&target))?
            }
        };
        let guest = lab.guest(pid, vec![holder, running])?;
        wait_for_route(&guest)?;
        Ok(guest)
    }
}

impl Start {
    fn program(&self, name: &str) -> PathBuf {
        self.program.clone().unwrap_or_else(|| name.into())
    }

    /// A command in the lab's host, as whom and with the log that was asked for.
    pub fn command(&self, lab: &Lab, program: &str) -> Result<Command, LabError> {
        let mut command = match self.as_user {
            true => lab.host().command_as_user(program),
            false => lab.host().command(program),
        }?;
        if let Some(path) = &self.log {
            let log = OpenOptions::new().append(true).create(true).open(path);
            command.stderr(log.map_err(|e| LabError::new("opening a log", e))?);
        }
        Ok(command)
    }

    /// A process that holds a user, mount and network namespace with no network but loopback.
    pub fn bare(&self, lab: &Lab) -> Result<Running, LabError> {
        let resolv = lab.dir().join("guest-resolv.conf");
        fs::write(&resolv, "nameserver 10.0.2.3\n").map_err(|e| LabError::new("writing resolv.conf", e))?;
        let mut unshare = self.command(lab, "unshare")?;
        unshare.args(["--user", "--map-root-user", "--mount", "--net", "sh", "-ec"]).arg(format!(
            "mount --bind {} /etc/resolv.conf; echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad; \
             ip link set lo up; echo 1; exec sleep infinity",
            resolv.display()
        ));
        start_ready(lab, &mut unshare)
    }
}

/// Whether `program` is in a directory of PATH.
pub fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Makes `shell` run the program that its further arguments name, with descriptor 3 leading to our pipe and standard output
/// to where errors go.
pub fn ready_on_3(mut shell: Command) -> Command {
    shell.args(["-c", "exec \"$@\" 3>&1 1>&2", "sh"]);
    shell
}

/// Waits until the guest has a default route of both families: pasta says nothing when it is ready, and slirp4netns
/// leaves IPv6 to a router advertisement. Without IPv6 after a second there is none.
fn wait_for_route(guest: &Guest) -> Result<(), LabError> {
    let start = Instant::now();
    let routed = |own: IpAddr, server: IpAddr| {
        let socket = guest.place().udp_socket((own, 0));
        socket.is_ok_and(|s| s.connect((server, 9)).is_ok())
    };
    while !routed(Ipv4Addr::UNSPECIFIED.into(), addr::SERVER_V4.into()) {
        if start.elapsed() > PATIENCE {
            return Err(LabError::new("waiting for a route in the guest", io::ErrorKind::TimedOut.into()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    while !routed(Ipv6Addr::UNSPECIFIED.into(), addr::SERVER_V6.into()) && start.elapsed() < PATIENCE_V6 {
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Starts a program and waits until it has written a byte to its standard output.
fn start_ready(lab: &Lab, command: &mut Command) -> Result<Running, LabError> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut running = lab.host().spawn(command.stdout(Stdio::piped()))?;
    running.first_byte(PATIENCE).map_err(|e| LabError::new(&name, e))?;
    Ok(running)
}
