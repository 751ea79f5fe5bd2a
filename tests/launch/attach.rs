//! A network for a namespace that exists.

use crate::{Bench, eventually, read_until, run};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringtap::lab::descendants;
use std::io::Read;
use std::process::{Child, Command, Stdio};

/// A shell of the lab's user, or of its root where each command of the user has a user namespace of its own: one of
/// them could not see the next one's.
fn shell(bench: &Bench, script: &str) -> Command {
    if bench.lab.users_are_real() { bench.shell(script) } else { bench.root_shell(script) }
}

/// A process in namespaces of its own.
struct Holder(Child);

impl Holder {
    fn new(bench: &Bench) -> Self {
        let mut command = shell(bench, "exec unshare -rn sh -c 'echo up; exec cat'");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        read_until(child.stdout.as_mut().unwrap(), "up\n");
        Self(child)
    }

    fn net(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/net/{file}", self.0.id())).unwrap()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `ringtap attach ARGS`, once it has said on its `--ready-fd` that the network works.
fn attached(bench: &Bench, args: &str) -> Child {
    let script = format!("exec \"$R\" attach --ready-fd 3 {args} 3>&1 >/dev/null");
    let mut child = shell(bench, &script).stdout(Stdio::piped()).spawn().unwrap();
    // Exactly one byte, and then the descriptor is closed.
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "1");
    child
}

fn told_to_end(mut child: Child) {
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn by_process_id() {
    let bench = Bench::new();
    let holder = Holder::new(&bench);
    let child = attached(&bench, &holder.0.id().to_string());
    assert!(holder.net("dev").contains("tap0:"));
    assert!(holder.net("fib_trie").contains("|-- 10.0.2.100\n"));
    assert!(holder.net("if_inet6").contains("fd000000000000000000000000000100"));
    told_to_end(child);
    assert!(!holder.net("dev").contains("tap0:"));
}

#[test]
fn by_path_under_another_name_and_address() {
    let bench = Bench::new();
    let holder = Holder::new(&bench);
    let pid = holder.0.id();
    for userns in [String::new(), format!("--userns /proc/{pid}/ns/user")] {
        let child = attached(&bench, &format!("--cidr 10.8.0.0/24 --netns /proc/{pid}/ns/net {userns} net9"));
        assert!(holder.net("dev").contains("net9:"));
        assert!(holder.net("fib_trie").contains("|-- 10.8.0.100\n"));
        told_to_end(child);
    }
}

#[test]
fn without_configuration_there_is_only_the_tap() {
    let bench = Bench::new();
    let holder = Holder::new(&bench);
    let child = attached(&bench, &format!("--no-configure {}", holder.0.id()));
    assert!(holder.net("dev").contains("tap0:"));
    assert!(!holder.net("fib_trie").contains("10.0.2.100"));
    told_to_end(child);
}

#[test]
fn it_ends_with_the_process() {
    let bench = Bench::new();
    let holder = Holder::new(&bench);
    let mut child = attached(&bench, &holder.0.id().to_string());
    drop(holder);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn it_ends_when_the_exit_descriptor_is_closed() {
    let bench = Bench::new();
    let holder = Holder::new(&bench);
    let script =
        format!("exec \"$R\" attach --ready-fd 3 --exit-fd 4 {} 4<&0 3>&1 >/dev/null", holder.0.id());
    let mut child = shell(&bench, &script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    read_until(child.stdout.as_mut().unwrap(), "1");
    assert!(child.try_wait().unwrap().is_none());
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_name_that_is_taken_is_refused() {
    let bench = Bench::new();
    let holder = Holder::new(&bench);
    let child = attached(&bench, &holder.0.id().to_string());
    let said = run(shell(&bench, &format!("exec \"$R\" attach {}", holder.0.id())));
    assert_eq!(said.status, 1);
    assert!(said.err.contains("in use") && said.err.lines().count() == 1, "{said:?}");
    told_to_end(child);
}

#[test]
fn a_killed_one_takes_its_tap_along() {
    let bench = Bench::new();
    let holder = Holder::new(&bench);
    let mut child = attached(&bench, &holder.0.id().to_string());
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("the end of the tap", || !holder.net("dev").contains("tap0:"));
}

/// The process that `attach` has left in the namespace of `holder`.
fn left_inside(attach: &Child, holder: &Holder) -> u32 {
    let net = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/net"));
    let of_holder = net(holder.0.id()).unwrap();
    // Its plane is in the host's.
    let inside = descendants(attach.id()).into_iter().filter(|&p| net(p).is_ok_and(|n| n == of_holder));
    let inside: Vec<_> = inside.collect();
    assert_eq!(inside.len(), 1, "{inside:?}");
    inside[0]
}

#[test]
fn a_process_stays_inside_that_holds_next_to_nothing_and_ends_with_it() {
    let bench = Bench::new();
    let holder = Holder::new(&bench);
    for killed in [false, true] {
        let mut child = attached(&bench, &holder.0.id().to_string());
        let inside = left_inside(&child, &holder);
        // Standard streams and the channel to control. The network may work before it has let go of the tap.
        let fds = || std::fs::read_dir(format!("/proc/{inside}/fd")).unwrap().count();
        eventually("it lets go of the tap", || fds() == 4);
        if killed {
            child.kill().unwrap();
            child.wait().unwrap();
        } else {
            told_to_end(child);
        }
        let alive = || std::path::Path::new(&format!("/proc/{inside}")).exists();
        eventually("the end of the process inside", || !alive());
        eventually("the end of the tap", || !holder.net("dev").contains("tap0:"));
    }
}

#[test]
fn the_network_outlives_the_process_inside() {
    let bench = Bench::new();
    let holder = Holder::new(&bench);
    let child = attached(&bench, &holder.0.id().to_string());
    let inside = left_inside(&child, &holder);
    kill(Pid::from_raw(inside.cast_signed()), Signal::SIGKILL).unwrap();
    eventually("the end of the process inside", || descendants(child.id()).iter().all(|&p| p != inside));
    assert!(holder.net("dev").contains("tap0:"));
    told_to_end(child);
}

#[test]
fn run_says_when_it_is_ready() {
    let bench = Bench::new();
    let script = "exec \"$R\" run --ready-fd 3 sh -c 'cat >/dev/null' 3>&1 >/dev/null";
    let mut child = bench.shell(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "1");
    assert!(child.try_wait().unwrap().is_none());
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn systemd_is_told() {
    let bench = Bench::new();
    let path = bench.lab.dir().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&path, mode).unwrap();
    let mut command = bench.user(&["run", "true"]);
    assert_eq!(
        run({
            command.env("NOTIFY_SOCKET", &path);
            command
        })
        .status,
        0
    );
    socket.set_nonblocking(true).unwrap();
    let mut text = [0; 64];
    let length = socket.recv(&mut text).unwrap();
    assert_eq!(&text[..length], b"READY=1\n");
}

#[test]
fn a_notification_that_nobody_takes_is_a_warning() {
    let bench = Bench::new();
    for nobody in ["@ringtap-nobody", "/no/such/socket"] {
        let mut command = bench.user(&["run", "true"]);
        command.env("NOTIFY_SOCKET", nobody);
        let said = run(command);
        assert_eq!(said.status, 0, "{said:?}");
        assert!(said.err.contains("NOTIFY_SOCKET") && said.err.lines().count() == 1, "{said:?}");
    }
}
