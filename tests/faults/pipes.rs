//! The user's budget of pipe memory is used up by somebody else.

use crate::Instance;
use crate::common::{HOST, World, both_ways};
use nix::fcntl::{FcntlArg, fcntl};
use ringtap::lab::{Server, USER};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

const HOG: &str = "RINGTAP_TEST_PIPE_HOG";

/// Not a test by itself: another process of the lab's user that takes all pipe memory that an ordinary user may have
/// (pipe(7), `pipe-user-pages-soft`), says so, and waits for its end.
#[test]
fn hog() {
    if std::env::var_os(HOG).is_none() {
        return;
    }
    let mut pipes = Vec::new();
    // Beyond the soft limit a new pipe has two pages and none may grow.
    while let Ok((reader, writer)) = std::io::pipe() {
        let grown = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(1 << 20));
        let size = fcntl(&writer, FcntlArg::F_GETPIPE_SZ).unwrap();
        pipes.push((reader, writer));
        if grown.is_err() && size <= 8192 {
            break;
        }
    }
    println!("\nHOGGED");
    let _ = std::io::stdin().read(&mut [0]);
}

struct Hog(Child);

impl Hog {
    fn start() -> Self {
        // By its descriptor's name, for the way to this program may be closed to other users.
        let own = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
        let path = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&own));
        let copy = std::env::temp_dir().join(format!("ringtap-hog-{}", std::process::id()));
        std::fs::copy(path, &copy).unwrap();
        std::fs::set_permissions(&copy, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let mut command = Command::new(&copy);
        command.args(["--exact", "pipes::hog", "--nocapture"]).env(HOG, "1").uid(USER.1).gid(USER.1);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut hog = Self(child.unwrap());
        let mut said = String::new();
        let mut byte = [0];
        while !said.contains("HOGGED") {
            assert_eq!(hog.0.stdout.as_mut().unwrap().read(&mut byte).unwrap(), 1, "{said}");
            said.push(char::from(byte[0]));
        }
        let _ = std::fs::remove_file(copy);
        hog
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn bulk_through_a_published_port_goes_on_without_pipes() {
    const BYTES: u64 = 64 << 20;
    let world = World::new();
    // Where the lab's user is whoever runs the tests, his pipes are those of every other test.
    let hog = world.lab.users_are_real().then(Hog::start);
    let instance = Instance::run(&world, &["-p", "8080:80"]);
    let _server = Server::tcp_echo(instance.guest.place().tcp_listener(([0, 0, 0, 0], 80)).unwrap());
    both_ways(world.lab.internet().tcp_connect((HOST[0], 8080)).unwrap(), BYTES);
    assert_eq!(instance.said(), "");
    drop(hog);
}
