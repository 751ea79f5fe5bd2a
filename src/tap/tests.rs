//! Taps in namespaces of their own: each test forks a child that unshares user and network namespace, works there and
//! reports what went wrong. `/dev/net/tun` must be usable: a machine without it fails these tests and says why.

use super::*;
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork, pipe, read, write};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `body` in a child inside fresh user and network namespaces; fails with what the child said.
pub(crate) fn in_namespace(body: impl FnOnce() -> Result<(), String>) {
    let (ours, theirs) = pipe().unwrap();
    // SAFETY: the child of a threaded process may find locks held by threads that do not exist in it. What it runs
    // takes none but the allocator's, which glibc and musl make usable after fork, and it leaves by _exit.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let said = catch_unwind(AssertUnwindSafe(|| {
                unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)
                    .map_err(|e| format!("unshare: {e}; user namespaces must be allowed for this user"))?;
                body()
            }))
            .unwrap_or_else(|_| Err("panicked".to_owned()));
            if let Err(text) = &said {
                let _ = write(&theirs, text.as_bytes());
            }
            // SAFETY: ends the child at once, without running anything of the parent's in it.
            unsafe { libc::_exit(i32::from(said.is_err())) }
        }
        ForkResult::Parent { child } => {
            drop(theirs);
            let mut text = String::new();
            std::fs::File::from(ours).read_to_string(&mut text).unwrap();
            let status = waitpid(child, None).unwrap();
            assert!(matches!(status, WaitStatus::Exited(_, 0)), "in the namespace: {text} ({status:?})");
        }
    }
}

pub(crate) fn say(error: impl fmt::Display) -> String {
    error.to_string()
}

pub(crate) fn ensure(truth: bool, what: &str) -> Result<(), String> {
    if truth { Ok(()) } else { Err(what.to_owned()) }
}

/// Sets the interface up (`ip link set NAME up`).
pub(crate) fn up(name: &str) -> Result<(), String> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let control = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::empty(), None)
        .map_err(|e| format!("socket: {e}"))?;
    // SAFETY: ifreq is plain data for which zero is valid.
    let mut ifr: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in ifr.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    ifr.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which lives until the call returns.
    let done = unsafe { libc::ioctl(control.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const ifr) };
    Errno::result(done).map(drop).map_err(|e| format!("SIOCSIFFLAGS: {e}"))
}

#[test]
fn a_new_tap_has_header_and_offloads() {
    in_namespace(|| {
        let tap = Tap::create("tap0").map_err(say)?;
        ensure(tap.vnet && tap.offloads.csum && tap.offloads.tso4 && tap.offloads.tso6, "offloads missing")?;
        ensure(tap.name == "tap0" && !tap.multi_queue, "name or queues wrong")?;
        let flags = fcntl(tap.as_fd(), FcntlArg::F_GETFL).map_err(say)?;
        ensure(OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK), "not non-blocking")
    });
}

#[test]
fn frames_are_led_by_the_header_that_was_asked_for() {
    in_namespace(|| {
        let tap = Tap::create("tap%d").map_err(say)?;
        ensure(tap.name == "tap0", "the kernel picks the number")?;
        up(&tap.name)?;
        // The guest's kernel speaks first on a link that comes up: multicast listener reports, router solicitations.
        let mut frame = [0u8; 2048];
        for _ in 0..300 {
            match read(tap.as_fd(), &mut frame) {
                Ok(n) => {
                    ensure(n > VNET_HEADER + 14, "frame too short")?;
                    return ensure(
                        frame[VNET_HEADER + 12..VNET_HEADER + 14] == [0x86, 0xdd],
                        "no IPv6 frame",
                    );
                }
                Err(Errno::EAGAIN) => std::thread::sleep(std::time::Duration::from_millis(10)),
                Err(e) => return Err(format!("read: {e}")),
            }
        }
        Err("no frame within three seconds".to_owned())
    });
}

#[test]
fn a_plain_tap_has_neither() {
    in_namespace(|| {
        let tap = Tap::create_plain("plain0").map_err(say)?;
        ensure(!tap.vnet && tap.offloads == Offloads::default(), "a plain tap offers nothing")
    });
}

#[test]
fn adopts_what_somebody_else_opened() {
    in_namespace(|| {
        let flags = libc::IFF_TAP | libc::IFF_NO_PI;
        for (extra, vnet) in [(0, false), (libc::IFF_VNET_HDR, true), (libc::IFF_MULTI_QUEUE, false)] {
            let fd = open(NODE, OFlag::O_RDWR, Mode::empty()).map_err(say)?;
            ioctl::set_interface(fd.as_fd(), "tap7", flags | extra).map_err(say)?;
            let tap = Tap::adopt(fd).map_err(say)?;
            ensure(tap.name == "tap7" && tap.vnet == vnet && tap.offloads.csum == vnet, "learned wrongly")?;
            ensure(tap.multi_queue == (extra == libc::IFF_MULTI_QUEUE), "queues learned wrongly")?;
            let flags = fcntl(tap.as_fd(), FcntlArg::F_GETFL).map_err(say)?;
            ensure(OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK), "not made non-blocking")?;
        }
        Ok(())
    });
}

#[test]
fn refuses_what_is_no_tap() {
    in_namespace(|| {
        let (end, _other) = pipe().map_err(say)?;
        ensure(matches!(Tap::adopt(end), Err(TapError::NotATap(_))), "a pipe was taken for a tap")?;
        let fresh = open(NODE, OFlag::O_RDWR, Mode::empty()).map_err(say)?;
        ensure(matches!(Tap::adopt(fresh), Err(TapError::NotATap(_))), "an unattached one was taken")?;
        let tun = open(NODE, OFlag::O_RDWR, Mode::empty()).map_err(say)?;
        ioctl::set_interface(tun.as_fd(), "odd0", libc::IFF_TUN | libc::IFF_NO_PI).map_err(say)?;
        ensure(matches!(Tap::adopt(tun), Err(TapError::NotATap(_))), "a tun was taken for a tap")?;
        Ok(())
    });
}

#[test]
fn attaches_to_a_persistent_tap_and_names_a_busy_one() {
    in_namespace(|| {
        let first = Tap::create("keep0").map_err(say)?;
        ioctl::set_persistent(first.as_fd(), true).map_err(say)?;
        ensure(matches!(Tap::create("keep0"), Err(TapError::Busy { .. })), "a tap in use must be busy")?;
        drop(first);
        let again = Tap::create("keep0").map_err(say)?;
        ensure(again.vnet && again.offloads.csum, "attached without its offloads")?;
        ioctl::set_persistent(again.as_fd(), false).map_err(say)?;
        drop(again);
        let tun = open(NODE, OFlag::O_RDWR, Mode::empty()).map_err(say)?;
        ioctl::set_interface(tun.as_fd(), "tun0", libc::IFF_TUN | libc::IFF_NO_PI).map_err(say)?;
        ioctl::set_persistent(tun.as_fd(), true).map_err(say)?;
        drop(tun);
        ensure(matches!(Tap::create("tun0"), Err(TapError::OtherKind { .. })), "a tun is another kind")?;
        ensure(matches!(Tap::create("lo"), Err(TapError::OtherKind { .. })), "lo is another kind")
    });
}

#[test]
fn names_that_cannot_be_are_refused_before_anything_is_opened() {
    for name in ["", "a b", "a/b", "a:b", "sixteen-letters0", "tab\t"] {
        assert!(matches!(Tap::create(name), Err(TapError::BadName { .. })), "{name:?}");
    }
}

#[test]
fn messages_are_one_line_with_a_remedy() {
    let name = "tap0".to_owned();
    let all = [
        (TapError::NoDriver(Errno::ENOENT), "modprobe tun"),
        (TapError::NoAccess(Errno::EACCES), "chmod 0666 /dev/net/tun"),
        (TapError::NotPermitted { name: name.clone() }, "CAP_NET_ADMIN"),
        (TapError::Busy { name: name.clone() }, "choose another name"),
        (TapError::OtherKind { name }, "choose another name"),
    ];
    for (error, remedy) in all {
        let text = error.to_string();
        assert!(text.contains(remedy) && !text.contains('\n'), "{text}");
    }
}

#[test]
fn offloads_are_listed_in_words() {
    assert_eq!(Offloads::LADDER[0].to_string(), "csum tso4 tso6 tso-ecn uso");
    assert_eq!(Offloads::default().to_string(), "no offloads");
    assert_eq!(Offloads::LADDER[0].bits(), 0x6f);
}
