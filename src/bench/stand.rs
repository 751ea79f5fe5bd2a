//! An entrant at work: its namespace, and where the load's two ends are.
//!
//! Out of the namespace the client is in the guest and one server for all is behind the link. For a published port each entrant has
//! a server in its guest and a port of its own, and the client is on the host's loopback, or at the far end of the impaired
//! link. Everything runs as an ordinary user. What an entrant says on standard error goes to a file, whose last line is told
//! when it fails.
//!
//! RootlessKit maps sub-ids and gives up without. Where the lab's user is a real one it has some; where the lab was made by an
//! ordinary user its `newuidmap` and `newgidmap` are two scripts that map the one id there is, which is all the same to a
//! network.

use super::entrant::{Entrant, Means};
use super::load::{Agent, AgentError, Role};
use super::plan::{Link, Path};
use crate::lab::contender::{Contender, Start};
use crate::lab::{Guest, Lab, LabError, Place, Running, addr};
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path as FilePath, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// Port of the server out there.
const PORT: u16 = 7100;
/// Port of the first entrant that publishes; the others' follow.
const FIRST: u16 = 5400;
/// How long an entrant may take to be ready.
const PATIENCE: Duration = Duration::from_secs(15);
/// What a launcher runs.
const COMMAND: [&str; 3] = ["sh", "-c", "echo ready; exec sleep infinity"];
/// What `newuidmap` and `newgidmap` are where there is one id: the first of three numbers is mapped.
const MAP_ONE: &str = "#!/bin/sh
case $0 in *newgidmap) echo deny >/proc/$1/setgroups 2>/dev/null; map=gid_map;; *) map=uid_map;; esac
echo \"$2 $3 1\" >/proc/$1/$map
";

/// The lab and what all entrants share.
pub struct Ground {
    /// The namespaces.
    pub lab: Lab,
    /// This program, as it is seen in the lab.
    pub own: PathBuf,
}

/// One path over one link with one MTU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Who is where.
    pub path: Path,
    /// What is between.
    pub link: Link,
    /// Of the guest's tap.
    pub mtu: u16,
}

impl Ground {
    /// A lab in which the program at `own` can be run by everyone.
    ///
    /// # Errors
    /// No namespaces; the text says why.
    pub fn new(own: &FilePath) -> Result<Self, LabError> {
        let lab = Lab::with_binds(&[(own, "ringtap")])?;
        // Clients leave tens of thousands of ports in TIME_WAIT, among which those after them would have to search.
        for place in [lab.host(), lab.internet()] {
            place.sysctl("net/ipv4/tcp_tw_reuse", "1")?;
        }
        let own = lab.bin("ringtap");
        let ids = lab.dir().join("ids");
        let script = |name: &str| -> io::Result<()> {
            fs::write(ids.join(name), MAP_ONE)?;
            fs::set_permissions(ids.join(name), fs::Permissions::from_mode(0o755))
        };
        fs::create_dir(&ids)
            .and_then(|()| fs::set_permissions(&ids, fs::Permissions::from_mode(0o755)))
            .and_then(|()| script("newuidmap"))
            .and_then(|()| script("newgidmap"))
            .map_err(|e| LabError::new("writing newuidmap", e))?;
        // Entrants run as another user and write their errors here.
        let logs = lab.dir().join("logs");
        fs::create_dir(&logs)
            .and_then(|()| fs::set_permissions(&logs, fs::Permissions::from_mode(0o777)))
            .map_err(|e| LabError::new("making a directory for logs", e))?;
        Ok(Self { lab, own })
    }

    /// The server of what goes out over `link`.
    ///
    /// # Errors
    /// [`AgentError`].
    pub fn server(&self, link: Link) -> Result<Agent, AgentError> {
        let role = Role::Serve { at: vec![server_at(link)] };
        Agent::start(self.lab.internet(), &self.own, &role, PATIENCE)
    }

    fn log(&self, entrant: &Entrant) -> PathBuf {
        self.lab.dir().join("logs").join(entrant.name.replace(['/', ' '], "-"))
    }

    /// The last line that an entrant wrote to standard error.
    pub fn last_words(&self, entrant: &Entrant) -> Option<String> {
        let text = fs::read(self.log(entrant)).ok()?;
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().rev().find(|l| !l.trim().is_empty())?;
        Some(line.trim().chars().take(200).collect())
    }
}

fn server_at(link: Link) -> SocketAddr {
    let ip = match link {
        Link::Plain => addr::SERVER_V4,
        Link::Impaired => addr::IMPAIRED_V4,
    };
    (ip, PORT).into()
}

/// An entrant at work; it ends when dropped.
pub struct Stand<'a> {
    ground: &'a Ground,
    setting: Setting,
    /// Where the client dials.
    pub at: SocketAddr,
    // Before the guest, whose namespace it uses.
    server: Option<Agent>,
    guest: Option<Guest>,
    /// Of the guest's processes the first so many hold the namespace and are not the entrant's.
    holders: usize,
}

impl<'a> Stand<'a> {
    /// Starts an entrant, the `number`th of its setting.
    ///
    /// # Errors
    /// It does not start, or says nothing for 15 s.
    pub fn start(
        ground: &'a Ground,
        setting: Setting,
        entrant: &Entrant,
        number: u16,
    ) -> Result<Self, AgentError> {
        let _ = fs::remove_file(ground.log(entrant));
        let port = FIRST + number;
        let (guest, holders) = match setting.path {
            Path::Outbound => (attach(ground, setting, entrant)?, 1),
            Path::Published => publish(ground, setting, entrant, port)?,
        };
        let mut stand = Self { ground, setting, at: server_at(setting.link), server: None, guest, holders };
        if setting.path == Path::Published {
            let dialled = match setting.link {
                Link::Plain => Ipv4Addr::LOCALHOST,
                // The host's end of it.
                Link::Impaired => Ipv4Addr::from(u32::from(addr::IMPAIRED_V4) - 1),
            };
            stand.at = (dialled, port).into();
            let role = Role::Serve { at: vec![(Ipv4Addr::UNSPECIFIED, port).into()] };
            let place = stand.guest.as_ref().map_or(ground.lab.host(), Guest::place);
            stand.server = Some(Agent::start(place, &ground.own, &role, PATIENCE)?);
        }
        if let Some(guest) = &stand.guest {
            guest.place().sysctl("net/ipv4/tcp_tw_reuse", "1").map_err(AgentError::Lab)?;
        }
        Ok(stand)
    }

    /// Where clients run.
    pub fn clients(&self) -> Place<'_> {
        let lab = &self.ground.lab;
        match (self.setting.path, self.setting.link) {
            (Path::Outbound, _) => self.guest.as_ref().map_or(lab.host(), Guest::place),
            (Path::Published, Link::Plain) => lab.host(),
            (Path::Published, Link::Impaired) => lab.internet(),
        }
    }

    /// Its own server, where it has one.
    pub fn server(&self) -> Option<&Agent> {
        self.server.as_ref()
    }

    /// Its processes now; none for the direct path.
    pub fn processes(&self) -> Vec<u32> {
        let all = self.guest.as_ref().map(Guest::processes).unwrap_or_default();
        match self.holders {
            0 => all,
            // The holder's own descendants are none.
            n => all.get(n..).map(<[u32]>::to_vec).unwrap_or_default(),
        }
    }
}

fn how(ground: &Ground, setting: Setting, entrant: &Entrant) -> Start {
    Start {
        mtu: setting.mtu,
        as_user: true,
        program: entrant.program.as_ref().map(|p| p.path.clone()),
        log: Some(ground.log(entrant)),
        ..Start::default()
    }
}

fn attach(ground: &Ground, setting: Setting, entrant: &Entrant) -> Result<Option<Guest>, LabError> {
    let Some(contender) = entrant.contender() else { return Ok(None) };
    contender.start(&ground.lab, &how(ground, setting, entrant)).map(Some)
}

/// A guest that publishes `port`, TCP and UDP, on every address; and how many of its processes hold the namespace.
fn publish(
    ground: &Ground,
    setting: Setting,
    entrant: &Entrant,
    port: u16,
) -> Result<(Option<Guest>, usize), LabError> {
    let Some(program) = &entrant.program else { return Ok((None, 0)) };
    let (lab, how) = (&ground.lab, how(ground, setting, entrant));
    let launch = |args: &[String]| -> Result<(Option<Guest>, usize), LabError> {
        let mut command = how.command(lab, &program.path.to_string_lossy())?;
        if !lab.users_are_real() {
            let path = std::env::var("PATH").unwrap_or_default();
            command.env("PATH", format!("{}:{path}", lab.dir().join("ids").display()));
        }
        command.args(args).args(COMMAND).stdout(Stdio::piped());
        let mut running = lab.host().spawn(&mut command)?;
        running.first_byte(PATIENCE).map_err(|e| LabError::new(&entrant.name, e))?;
        Ok((Some(lab.guest_below(running, "sleep", PATIENCE)?), 0))
    };
    match entrant.means {
        Means::Direct | Means::Attached => Ok((None, 0)),
        Means::Relay | Means::Injected => {
            let via = if entrant.means == Means::Injected { "tap" } else { "relay" };
            let ports = [format!("{port}:{port}"), format!("{port}:{port}/udp")];
            let mut args = vec!["run".to_owned(), "--via".to_owned(), via.to_owned()];
            args.extend(ports.into_iter().flat_map(|p| ["-p".to_owned(), p]));
            args.push("--".to_owned());
            launch(&args)
        }
        Means::Builtin | Means::SlirpDriver => {
            let driver = if entrant.means == Means::Builtin { "builtin" } else { "slirp4netns" };
            let mut args = vec!["--net=slirp4netns".to_owned(), "--disable-host-loopback".to_owned()];
            args.push(format!("--port-driver={driver}"));
            for protocol in ["tcp", "udp"] {
                args.push(format!("--publish=0.0.0.0:{port}:{port}/{protocol}"));
            }
            launch(&args)
        }
        Means::PastaPorts => {
            let port = port.to_string();
            let options = ["-t", &port, "-u", &port].map(str::to_owned).to_vec();
            Ok((Some(Contender::Pasta.start(lab, &Start { options, ..how })?), 1))
        }
        Means::Socat => {
            let holder = how.bare(lab)?;
            let socket = lab.dir().join("user-run").join(format!("socat-{port}"));
            let bare = lab.guest(holder.pid(), vec![])?;
            let mut inner = bare.place().command(&program.path.to_string_lossy())?;
            inner.arg(format!("UNIX-LISTEN:{},fork,unlink-early,mode=666,backlog=4096", socket.display()));
            inner.arg(format!("TCP4:127.0.0.1:{port}"));
            let inner = bare.place().spawn(inner.stderr(Stdio::null()))?;
            let mut outer = how.command(lab, &program.path.to_string_lossy())?;
            outer.arg(format!("TCP4-LISTEN:{port},fork,reuseaddr,backlog=4096"));
            outer.arg(format!("UNIX-CONNECT:{}", socket.display()));
            let outer = lab.host().spawn(&mut outer)?;
            let pid = holder.pid();
            let mut running = vec![holder, inner, outer];
            wait_for(&socket, &mut running)?;
            Ok((Some(lab.guest(pid, running)?), 1))
        }
    }
}

/// Waits until `path` is there, while all of `running` run.
fn wait_for(path: &FilePath, running: &mut [Running]) -> Result<(), LabError> {
    let start = std::time::Instant::now();
    while !path.exists() {
        for program in running.iter_mut() {
            if let Ok(Some(status)) = program.child().try_wait() {
                return Err(LabError::new("socat", io::Error::other(format!("ended: {status}"))));
            }
        }
        if start.elapsed() > PATIENCE {
            return Err(LabError::new("socat", io::ErrorKind::TimedOut.into()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
