//! Each part, in a forked child that may be ruined.

use super::filter::{Calls, Violation, install};
use super::{Lack, landlock, privileges, space};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork, getpid};
use std::io;
use std::os::unix::fs::DirBuilderExt;

/// What becomes of a child that does `what`; it exits with 0 if that holds.
fn child(what: impl FnOnce() -> bool) -> WaitStatus {
    // SAFETY: the copy uses nothing that another thread of the test runner may have held but the allocator, which the C
    // library keeps consistent over fork(2), and leaves by _exit.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => waitpid(child, None).unwrap(),
        ForkResult::Child => {
            let held = what();
            // SAFETY: _exit is always sound.
            unsafe { libc::_exit(i32::from(!held)) }
        }
    }
}

#[track_caller]
fn holds(what: impl FnOnce() -> bool) {
    assert!(matches!(child(what), WaitStatus::Exited(_, 0)));
}

/// A system call by number.
fn call(number: i64, args: [i64; 4]) -> Result<i64, Errno> {
    let [a, b, c, d] = args;
    // SAFETY: the addresses among the arguments are null or of kernel memory, or the call fails before it reads them.
    Errno::result(unsafe { libc::syscall(number, a, b, c, d, 0i64, 0i64) })
}

fn refused(number: i64, args: [i64; 4]) -> bool {
    call(number, args) == Err(Errno::EPERM)
}

const STREAM: i64 = libc::SOCK_STREAM as i64;
const DGRAM: i64 = libc::SOCK_DGRAM as i64;
const INET: i64 = libc::AF_INET as i64;

/// Calls that would each fail otherwise than by `EPERM`, or succeed.
fn forbidden() -> Vec<(&'static str, i64, [i64; 4])> {
    let cwd = i64::from(libc::AT_FDCWD);
    let inet6 = i64::from(libc::AF_INET6);
    let socket = |family: i32, kind: i32, protocol| {
        (libc::SYS_socket, [i64::from(family), i64::from(kind), protocol, 0])
    };
    let mut all = vec![
        ("execve", libc::SYS_execve, [0; 4]),
        ("execveat", libc::SYS_execveat, [-1, 0, 0, 0]),
        ("openat", libc::SYS_openat, [cwd, 0, 0, 0]),
        ("openat2", libc::SYS_openat2, [cwd, 0, 0, 0]),
        ("setns", libc::SYS_setns, [-1, 0, 0, 0]),
        ("unshare", libc::SYS_unshare, [0; 4]),
        ("ptrace", libc::SYS_ptrace, [0xffff, 0, 0, 0]),
        ("process_vm_readv", libc::SYS_process_vm_readv, [0; 4]),
        ("clone", libc::SYS_clone, [i64::from(libc::CLONE_THREAD), 0, 0, 0]),
        ("clone3", libc::SYS_clone3, [0; 4]),
        ("kill", libc::SYS_kill, [i64::from(getpid().as_raw()), 0, 0, 0]),
        ("pidfd_open", libc::SYS_pidfd_open, [0; 4]),
        ("mount", libc::SYS_mount, [0; 4]),
        ("unlinkat", libc::SYS_unlinkat, [cwd, 0, 0, 0]),
        ("newfstatat", libc::SYS_statx, [cwd, 0, 0, 0]),
        ("prctl", libc::SYS_prctl, [i64::from(libc::PR_GET_DUMPABLE), 0, 0, 0]),
        ("setuid", libc::SYS_setresuid, [-1, -1, -1, 0]),
        ("bpf", libc::SYS_bpf, [0xffff, 0, 0, 0]),
        ("keyctl", libc::SYS_keyctl, [0xffff, 0, 0, 0]),
        ("memfd_create", libc::SYS_memfd_create, [0; 4]),
        ("io_uring_setup", libc::SYS_io_uring_setup, [0; 4]),
        ("io_uring_register", libc::SYS_io_uring_register, [-1, 0, 0, 0]),
        ("socketpair", libc::SYS_socketpair, [0; 4]),
        ("limits of its own", libc::SYS_prlimit64, [0, 7, 8, 0]),
        ("memory to execute", libc::SYS_mmap, [0, 4096, i64::from(libc::PROT_READ | libc::PROT_EXEC), 2]),
        ("data to execute", libc::SYS_mprotect, [0, 0, i64::from(libc::PROT_EXEC), 0]),
        ("TUNSETIFF", libc::SYS_ioctl, [-1, libc::TUNSETIFF as i64, 0, 0]),
        ("TIOCSTI", libc::SYS_ioctl, [-1, libc::TIOCSTI as i64, 0, 0]),
        ("F_SETOWN", libc::SYS_fcntl, [-1, i64::from(libc::F_SETOWN), 0, 0]),
        ("SOL_PACKET", libc::SYS_setsockopt, [-1, i64::from(libc::SOL_PACKET), 0, 0]),
    ];
    let (unix, netlink, packet) = (libc::AF_UNIX, libc::AF_NETLINK, libc::AF_PACKET);
    for (name, (number, args)) in [
        ("a unix socket", socket(unix, libc::SOCK_STREAM, 0)),
        ("a netlink socket", socket(netlink, libc::SOCK_RAW, 0)),
        ("a packet socket", socket(packet, libc::SOCK_RAW, 0)),
        ("a vsock", socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0)),
        ("a raw socket", (libc::SYS_socket, [INET, i64::from(libc::SOCK_RAW), 0, 0])),
        ("a raw IPv6 socket", (libc::SYS_socket, [inet6, i64::from(libc::SOCK_RAW), 0, 0])),
        ("SCTP", (libc::SYS_socket, [INET, STREAM, i64::from(libc::IPPROTO_SCTP), 0])),
        ("MPTCP", (libc::SYS_socket, [INET, STREAM, i64::from(libc::IPPROTO_MPTCP), 0])),
        ("the other family's ping", (libc::SYS_socket, [inet6, DGRAM, i64::from(libc::IPPROTO_ICMP), 0])),
    ] {
        all.push((name, number, args));
    }
    all
}

#[test]
fn every_call_that_reaches_out_is_refused() {
    for (name, number, args) in forbidden() {
        let filtered = child(|| install(Calls::Plane, Violation::Refuse).is_ok() && refused(number, args));
        assert!(matches!(filtered, WaitStatus::Exited(_, 0)), "{name} is let through");
    }
}

#[test]
fn a_violation_kills_where_it_should() {
    for (name, number, args) in forbidden() {
        let end = child(|| {
            let _ = install(Calls::Plane, Violation::Kill);
            let _ = call(number, args);
            true
        });
        assert!(matches!(end, WaitStatus::Signaled(_, Signal::SIGSYS, _)), "{name}: {end:?}");
    }
}

#[test]
fn without_a_filter_the_same_calls_fail_otherwise_or_not_at_all() {
    // What only a privileged process may do fails alike for everybody else, here as well as in a plane without a filter.
    let privileged = ["bpf", "mount", "a packet socket", "a raw socket", "a raw IPv6 socket"];
    for (name, number, args) in forbidden().into_iter().filter(|(name, ..)| !privileged.contains(name)) {
        // In a process of its own, for some succeed.
        let bare = child(|| refused(number, args));
        assert!(!matches!(bare, WaitStatus::Exited(_, 0)), "{name} proves nothing about the filter");
    }
}

#[test]
fn what_the_plane_does_passes() {
    holds(|| {
        install(Calls::Plane, Violation::Kill).is_ok()
            && call(libc::SYS_socket, [INET, STREAM | i64::from(libc::SOCK_NONBLOCK), 6, 0]).is_ok()
            && call(libc::SYS_socket, [i64::from(libc::AF_INET6), DGRAM, 17, 0]).is_ok()
            // Whether ping sockets are for this group is the host's business.
            && matches!(call(libc::SYS_socket, [INET, DGRAM, 1, 0]), Ok(_) | Err(Errno::EACCES))
            && nix::unistd::pipe2(nix::fcntl::OFlag::O_NONBLOCK).is_ok()
            && getrlimit(Resource::RLIMIT_NOFILE).is_ok()
            && getrandom::u32().is_ok()
            && vec![1u8; 1 << 22].iter().all(|b| *b == 1)
    });
}

#[test]
fn a_relay_may_make_its_ring_and_raise_its_limits_and_no_more() {
    holds(|| {
        install(Calls::Relay, Violation::Refuse).is_ok()
            && call(libc::SYS_io_uring_setup, [0; 4]) != Err(Errno::EPERM)
            && getrlimit(Resource::RLIMIT_NOFILE).is_ok()
            && refused(libc::SYS_openat, [i64::from(libc::AT_FDCWD), 0, 0, 0])
            && refused(libc::SYS_execve, [0; 4])
    });
}

#[test]
fn the_root_is_empty_and_stays_so() {
    let net = std::fs::File::open("/proc/self/ns/net").unwrap();
    let of = |result: io::Result<()>| result.err().and_then(|e| e.raw_os_error());
    holds(|| {
        // A machine without user namespaces for us has nothing to show here, and e2e tests cannot run on it at all.
        space::enter().is_ok()
            && std::fs::read_dir("/").is_ok_and(|mut all| all.next().is_none())
            && of(std::fs::read("/etc/passwd").map(drop)) == Some(libc::ENOENT)
            && of(std::fs::read("../../../../etc/passwd").map(drop)) == Some(libc::ENOENT)
            && of(std::fs::DirBuilder::new().mode(0o700).create("/x")) == Some(libc::EROFS)
            && of(std::fs::write("/x", "x")) == Some(libc::EROFS)
            // No id of the host's is to be had: none is mapped.
            && nix::unistd::setuid(nix::unistd::Uid::from_raw(0)).is_err()
            // It owns no capability over the host's network.
            && nix::sched::setns(&net, nix::sched::CloneFlags::CLONE_NEWNET) == Err(Errno::EPERM)
    });
}

#[test]
fn no_capability_is_left_and_none_comes_back() {
    holds(|| {
        let empty = rustix::thread::CapabilitySet::empty();
        space::enter().is_ok()
            && privileges::drop_all().is_ok()
            && rustix::thread::capabilities(None)
                .is_ok_and(|c| (c.effective, c.permitted, c.inheritable) == (empty, empty, empty))
            && rustix::thread::capability_is_in_bounding_set(rustix::thread::CapabilitySet::SYS_ADMIN)
                == Ok(false)
            && rustix::thread::no_new_privs() == Ok(true)
            && getrlimit(Resource::RLIMIT_CORE) == Ok((0, 0))
            && nix::sys::prctl::get_dumpable() == Ok(false)
            && nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS) == Err(Errno::EPERM)
    });
}

#[test]
fn landlock_holds_where_the_kernel_has_it() {
    // LANDLOCK_CREATE_RULESET_VERSION: which version of the interface, if any.
    let known = call(libc::SYS_landlock_create_ruleset, [0, 0, 1, 0]).is_ok();
    holds(|| {
        let closed = std::fs::read_dir("/").err().and_then(|e| e.raw_os_error());
        let before = closed.is_none();
        let restricted = landlock::restrict();
        let after = std::fs::read_dir("/").err().and_then(|e| e.raw_os_error());
        before && restricted == known && (after == Some(libc::EACCES)) == known
    });
}

#[test]
fn what_is_lacking_is_said_in_one_line() {
    for lack in [
        Lack::Space { step: "unshare", errno: Errno::ENOSPC },
        Lack::Privileges { step: "capset", errno: Errno::EPERM },
        Lack::Filter("EINVAL".to_owned()),
        Lack::Landlock,
    ] {
        assert!(!lack.to_string().contains('\n') && lack.to_string().starts_with(['n', 'p']));
    }
}
