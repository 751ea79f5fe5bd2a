//! What the end-to-end tests share: a world with servers, guests of the program under test, scripts inside them.
//!
//! Every test has a lab of its own, so tests run side by side. The program under test runs there as an ordinary user
//! without capabilities unless a test says otherwise; `cargo test` itself may be run by root or by anyone.
//!
//! `RINGTAP_TEST_PEER=direct` (or `slirp4netns`, `pasta`) puts that in ringtap's place where a test asks for a plain guest.
//! What fails then is what ringtap does better, what is not there without a gateway, or a test that demands the wrong
//! thing. `RINGTAP_TEST_OPTIONS="--pcap FILE --log-level debug"` adds options to every such guest.

#![allow(dead_code, reason = "each test program uses its part of this")]

pub mod crowd;

use ringtap::lab::contender::{Contender, Start, on_path, ready_on_3};
use ringtap::lab::dns::{DnsServer, default_names};
use ringtap::lab::serve::{judge, send_pattern};
use ringtap::lab::{Guest, Lab, Place, Running, Server, addr};
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long any one program of a test may take.
pub const PATIENCE: Duration = Duration::from_secs(60);
const PROGRAMS: &str = include_str!("../programs.txt");

/// Whether tests have the sizes that the project's bars ask for rather than the usual ones: `RINGTAP_TEST_FULL=1`.
pub fn full() -> bool {
    std::env::var_os("RINGTAP_TEST_FULL").is_some()
}

/// `usual`, or the full size.
pub fn size(usual: u64, full_size: u64) -> u64 {
    if full() { full_size } else { usual }
}

/// Fails with the remedy unless `program` is installed.
pub fn need(program: &str) {
    let package = PROGRAMS.lines().find_map(|l| l.split_once(' ').filter(|(p, _)| *p == program));
    let Some((_, package)) = package else { panic!("{program} is missing from tests/programs.txt") };
    let places = ["/usr/sbin", "/sbin"].map(|d| Path::new(d).join(program));
    let found = on_path(program) || places.iter().any(|p| p.is_file());
    assert!(found, "this test runs {program}, which is not installed: apt-get install {package}");
}

/// Sends bytes to an echo server and judges what comes back meanwhile.
pub fn both_ways(mut stream: TcpStream, bytes: u64) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut to = stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        send_pattern(&mut to, bytes).unwrap();
        to.shutdown(Shutdown::Write).unwrap();
    });
    assert_eq!(judge(&mut stream).unwrap(), format!("{bytes} bytes sound\n"));
    sender.join().unwrap();
}

/// By which the program under test is called.
const NAMES: [&str; 6] =
    ["ringtap", "slirp4netns", "rootlesskit", "rootlessctl", "docker-proxy", "rootlesskit-docker-proxy"];

/// A lab with a name server and a web server, on both addresses of the server.
pub struct World {
    /// The namespaces.
    pub lab: Lab,
    /// Asked at the server's IPv4 address.
    pub dns: DnsServer,
    /// At the server's IPv4 address, port 80.
    pub web: Server,
    more: (DnsServer, Server, Server, Server),
}

pub const SERVER: [IpAddr; 2] = [IpAddr::V4(addr::SERVER_V4), IpAddr::V6(addr::SERVER_V6)];
pub const HOST: [IpAddr; 2] = [IpAddr::V4(addr::HOST_V4), IpAddr::V6(addr::HOST_V6)];
pub const ECHO: u16 = 7;

/// A shell function: iperf3's client, again when its server is not done with the last one ("busy").
pub const IPERF3: &str = "
    iperf() {
        for i in $(seq 20); do
            said=$($c iperf3 \"$@\" --connect-timeout 5000 2>&1) && echo \"$said\" && return
            case $said in *busy*) sleep 0.2;; *) break;; esac
        done
        echo \"iperf3 $*: $said\" >&2; return 1
    }
";

impl World {
    pub fn new() -> Self {
        Self::with_files(None)
    }

    /// The web server shows the files below `root`.
    pub fn with_files(root: Option<PathBuf>) -> Self {
        // Shown in the lab's own directory, for the way to the built program may be closed to other users.
        // RINGTAP_PROGRAM is for a test program that was moved away from where it was built.
        let built = std::env::var_os("RINGTAP_PROGRAM").unwrap_or(env!("CARGO_BIN_EXE_ringtap").into());
        let lab = Lab::with_binds(&NAMES.map(|name| (Path::new(&built), name))).unwrap();
        let server = lab.internet();
        let [v4, v6] = SERVER;
        let dns = DnsServer::start(server, (v4, 53), default_names()).unwrap();
        let dns6 = DnsServer::start(server, (v6, 53), default_names()).unwrap();
        let web = |at: IpAddr| Server::http(server.tcp_listener((at, 80)).unwrap(), root.clone()).unwrap();
        let echo = |at: IpAddr| Server::tcp_echo(server.tcp_listener((at, ECHO)).unwrap()).unwrap();
        let (web, web6) = (web(v4), web(v6));
        let more = (dns6, web6, echo(v4), echo(v6));
        Self { lab, dns, web, more }
    }

    /// The program under test, to be run in the lab's host.
    pub fn ringtap(&self, as_user: bool) -> Command {
        let program = self.lab.bin("ringtap").to_string_lossy().into_owned();
        match as_user {
            true => self.lab.host().command_as_user(&program).unwrap(),
            false => self.lab.host().command(&program).unwrap(),
        }
    }

    /// A shell in the lab's host, with ringtap under all its names in PATH. It is an ordinary user's, or that of root of the
    /// lab where such a user would be no real one: it would have a single id, and each command a user namespace in which it
    /// could not see the next one's.
    pub fn shell(&self, script: &str) -> Command {
        let host = self.lab.host();
        let real = self.lab.users_are_real();
        let mut command = if real { host.command_as_user("sh") } else { host.command("sh") }.unwrap();
        let bin = self.lab.bin("ringtap");
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .args(["-c", script])
            .env("PATH", format!("{}:{path}:/usr/sbin:/sbin", bin.parent().unwrap().display()))
            .env_remove("ROOTLESSKIT_STATE_DIR")
            .stdin(Stdio::null());
        command
    }

    /// `ringtap run OPTIONS -- sh -ec SCRIPT` as an ordinary user.
    pub fn run(&self, options: &[&str], script: &str) -> Outcome {
        self.run_as(true, options, script)
    }

    /// As [`Self::run`], as a user or as the lab's root.
    pub fn run_as(&self, as_user: bool, options: &[&str], script: &str) -> Outcome {
        if peer().is_some() {
            return sh(self.guest_with(options).place(), script);
        }
        let mut command = self.ringtap(as_user);
        command.arg("run").args(options).args(["--", "sh", "-ec", script]);
        outcome(script, command)
    }

    /// A guest with the default options.
    pub fn guest(&self) -> Guest {
        self.guest_with(&[])
    }

    /// The guest of `ringtap run OPTIONS`, as an ordinary user.
    pub fn guest_with(&self, options: &[&str]) -> Guest {
        if let Some(peer) = peer() {
            let options = options.iter().map(|o| (*o).to_owned()).collect();
            return peer.start(&self.lab, &Start { options, ..Start::default() }).unwrap();
        }
        let mut command = self.ringtap(true);
        command.arg("run").args(options).args(further_options());
        command.args(["--", "sh", "-c", "echo ready; exec sleep infinity"]);
        let mut running = self.lab.host().spawn(command.stdout(Stdio::piped())).unwrap();
        wait_line(&mut running);
        self.lab.guest_below(running, "sleep", PATIENCE).unwrap()
    }

    /// A network namespace without a network: `ringtap attach`'s raw material. The command runs in it first.
    pub fn bare(&self, prepare: &str) -> Running {
        let mut command = self.lab.host().command_as_user("unshare").unwrap();
        command.args(["--user", "--map-root-user", "--mount", "--net", "sh", "-ec"]);
        command.arg(format!("ip link set lo up\n{prepare}\necho ready\nexec sleep infinity"));
        let mut running = self.lab.host().spawn(command.stdout(Stdio::piped())).unwrap();
        wait_line(&mut running);
        running
    }

    /// `ringtap attach OPTIONS PID [IFNAME]` to `bare`, ready.
    pub fn attach(&self, bare: Running, options: &[&str], ifname: Option<&str>) -> Guest {
        let pid = bare.pid();
        let mut command = ready_on_3(self.lab.host().command_as_user("sh").unwrap());
        command
            .arg(self.lab.bin("ringtap"))
            .args(["attach", "--ready-fd", "3"])
            .args(options)
            .arg(pid.to_string())
            .args(ifname);
        let mut running = self.lab.host().spawn(command.stdout(Stdio::piped())).unwrap();
        let mut byte = [0];
        let out = running.child().stdout.as_mut().unwrap();
        assert_eq!(out.read(&mut byte).unwrap(), 1, "ringtap attach ended before it was ready");
        self.lab.guest(pid, vec![bare, running]).unwrap()
    }

    /// An iperf3 server for one test at `address`, port 5201. Bound, for its UDP answers would come from another address.
    pub fn iperf3_server(&self, address: IpAddr) -> Running {
        need("iperf3");
        let mut command = self.lab.internet().command("iperf3").unwrap();
        command.args(["--server", "--forceflush", "--bind", &address.to_string()]);
        let mut running = self.lab.internet().spawn(command.stdout(Stdio::piped())).unwrap();
        let mut out = BufReader::new(running.child().stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("listening") {
            line.clear();
            assert!(out.read_line(&mut line).unwrap() > 0, "iperf3 --server ended");
        }
        // Its reports must not fill the pipe.
        std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
        running
    }
}

fn further_options() -> Vec<String> {
    let options = std::env::var("RINGTAP_TEST_OPTIONS").unwrap_or_default();
    options.split_whitespace().map(str::to_owned).collect()
}

fn peer() -> Option<Contender> {
    let name = std::env::var("RINGTAP_TEST_PEER").ok()?;
    [Contender::Direct, Contender::Slirp4netns, Contender::Pasta].into_iter().find(|c| c.name() == name)
}

fn wait_line(running: &mut Running) {
    let mut bytes = [0; 6];
    let out = running.child().stdout.as_mut().unwrap();
    out.read_exact(&mut bytes).expect("the program ended before its command ran");
    assert_eq!(&bytes, b"ready\n");
}

/// How a program ended and what it said.
#[derive(Debug)]
pub struct Outcome {
    what: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// Its output, if it succeeded; otherwise the test fails with everything it said.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.status.success(), "{self:#?}");
        self.stdout
    }

    /// Both outputs, if it failed.
    #[track_caller]
    pub fn failed(self) -> String {
        assert!(!self.status.success(), "{self:#?}");
        self.stdout + &self.stderr
    }
}

/// Runs `sh -ec SCRIPT` in `place`.
pub fn sh(place: Place<'_>, script: &str) -> Outcome {
    let mut command = place.command("sh").unwrap();
    command.args(["-ec", script]);
    outcome(script, command)
}

/// Runs `command` to its end, for at most [`PATIENCE`].
pub fn outcome(what: &str, mut command: Command) -> Outcome {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let read = |mut from: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = from.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let out = read(Box::new(child.stdout.take().unwrap()));
    let err = read(Box::new(child.stderr.take().unwrap()));
    let end = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > end {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!(
                "still running after {PATIENCE:?}: {what}\n{}\n{}",
                out.join().unwrap(),
                err.join().unwrap()
            );
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    Outcome { what: what.to_owned(), status, stdout: out.join().unwrap(), stderr: err.join().unwrap() }
}
