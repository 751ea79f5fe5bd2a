//! Bare namespaces held by descriptors alone, for `lab`.
//!
//! A [`World`] is one user and one mount namespace; each [`NetNs`] is a network namespace that the user namespace owns.
//! No process lives in them: they exist as long as somebody holds a descriptor of them, so whatever way the maker ends,
//! SIGKILL included, the kernel takes them away together with links, sockets, routes and mounts.
//!
//! What must happen inside (a socket, an open, a sysctl, a device) is done by a short-lived child that shares our
//! descriptor table (`clone(2)` with `CLONE_FILES`): it joins the namespaces, makes one system call whose result lands
//! in our table, and exits. A socket keeps the namespace it was born in, so an ordinary thread of ours can then serve
//! on it. Commands join the namespaces between fork and exec.
//!
//! Between `clone` and `_exit` such a child makes system calls only: no allocation, no lock, no panic, for it is the
//! copy of one thread out of many. Everything it needs is prepared before.
//!
//! Limits: joining a user namespace needs its owner (the same effective user, outside of it) or root.

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use std::ffi::{CStr, CString};
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Ids mapped where the caller may map that many.
const MANY_IDS: u32 = 65536;
/// Most network namespaces of one world: their descriptors cross a pipe in one write.
const MAX_NETS: usize = 16;

/// A user namespace, and a mount namespace that it owns. Gone when dropped and no process is left inside.
#[derive(Debug)]
pub struct World {
    user: OwnedFd,
    mnt: OwnedFd,
    ids: u32,
    by_root: bool,
    // Where the ordinary user lives when it is not a real one; made when first asked for.
    ordinary: OnceLock<(u32, OwnedFd)>,
}

/// A network namespace of a [`World`].
#[derive(Debug)]
pub struct NetNs(OwnedFd);

impl AsRawFd for NetNs {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A file or directory shown at another place of the world.
#[derive(Clone, Debug)]
pub struct Bind {
    /// What is shown.
    pub source: PathBuf,
    /// Where; it must exist and be of the same kind.
    pub target: PathBuf,
}

/// As whom a command runs in a [`World`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Root of the world's user namespace, with every capability in it.
    WorldRoot,
    /// A user without any capability. Where root of the machine made the world this is really that user of the machine
    /// (so setuid programs such as newuidmap work); else all its commands share a one-id user namespace below the
    /// world's, and there is one such user in a world.
    User(u32),
}

fn fail(what: &str) -> impl FnOnce(io::Error) -> io::Error + '_ {
    move |e| io::Error::new(e.kind(), format!("{what}: {e}"))
}

/// `clone(2)` without a new stack: a fork that runs no atfork handlers.
fn raw_fork(flags: libc::c_int) -> io::Result<libc::pid_t> {
    let zero: libc::c_ulong = 0;
    // SAFETY: no CLONE_VM, so the child runs on a copy of this stack; stack, tid and tls arguments are null as no flag
    // asks for them, which also makes their order, different between architectures, irrelevant. Callers keep to
    // system calls in the child.
    let r = unsafe {
        libc::syscall(libc::SYS_clone, (flags | libc::SIGCHLD) as libc::c_ulong, zero, zero, zero, zero)
    };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(r as libc::pid_t) }
}

fn errno() -> i32 {
    // SAFETY: errno of the calling thread.
    unsafe { *libc::__errno_location() }
}

fn check(r: libc::c_int) -> Result<libc::c_int, i32> {
    if r < 0 { Err(errno()) } else { Ok(r) }
}

fn setns(fd: RawFd, kind: libc::c_int) -> Result<(), i32> {
    // SAFETY: takes two integers; a bad descriptor is an error, not undefined.
    check(unsafe { libc::setns(fd, kind) }).map(drop)
}

fn unshare(flags: libc::c_int) -> Result<(), i32> {
    // SAFETY: takes an integer.
    check(unsafe { libc::unshare(flags) }).map(drop)
}

fn open(path: &CStr, flags: libc::c_int) -> Result<RawFd, i32> {
    // SAFETY: `path` is a NUL-terminated string that outlives the call.
    check(unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) })
}

fn write_all(path: &CStr, bytes: &[u8]) -> Result<(), i32> {
    let fd = open(path, libc::O_WRONLY)?;
    // SAFETY: the slice is valid for its length; the descriptor is ours and closed once.
    unsafe {
        let n = libc::write(fd, bytes.as_ptr().cast(), bytes.len());
        let e = errno();
        libc::close(fd);
        if n == bytes.len() as isize { Ok(()) } else { Err(if n < 0 { e } else { libc::EIO }) }
    }
}

fn exit_child(code: libc::c_int) -> ! {
    // SAFETY: _exit runs no handlers of the copied process.
    unsafe { libc::_exit(code) }
}

fn cstring(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

fn reap(pid: libc::pid_t) {
    loop {
        match waitpid(Pid::from_raw(pid), None) {
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => return,
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(_) => return,
        }
    }
}

/// What a child reports: an errno, or descriptors in the shared table.
type Report = [i32; MAX_NETS + 3];

fn encode(r: Result<&[RawFd], (i32, i32)>) -> [u8; size_of::<Report>()] {
    let mut out = [0u8; size_of::<Report>()];
    let mut put = |i: usize, v: i32| out[i * 4..i * 4 + 4].copy_from_slice(&v.to_ne_bytes());
    match r {
        Ok(fds) => fds.iter().enumerate().for_each(|(i, &fd)| put(i + 1, fd)),
        Err((step, errno)) => {
            put(0, errno);
            put(1, step);
        }
    }
    out
}

fn decode(bytes: &[u8; size_of::<Report>()]) -> Report {
    let mut r = [0i32; MAX_NETS + 3];
    for (v, b) in r.iter_mut().zip(bytes.chunks_exact(4)) {
        *v = i32::from_ne_bytes(b.try_into().unwrap_or([0; 4]));
    }
    r
}

/// Names of the steps that [`World::new`]'s child counts, for the error message.
const STEPS: [&str; 6] = [
    "creating a user namespace (are they allowed here? user.max_user_namespaces, AppArmor)",
    "waiting for the id map",
    "making mounts private",
    "bind mount",
    "opening a namespace",
    "creating a network namespace",
];

impl World {
    /// A world with `nets` empty network namespaces (at most 16), and `binds` mounted in it.
    pub fn new(binds: &[Bind], nets: usize) -> io::Result<(Self, Vec<NetNs>)> {
        if nets > MAX_NETS {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let binds = binds
            .iter()
            .map(|b| Ok((cstring(&b.source)?, cstring(&b.target)?)))
            .collect::<io::Result<Vec<_>>>()?;
        let (mut from_child, to_us) = io::pipe()?;
        let (to_child, mut for_child) = io::pipe()?;
        let pid = raw_fork(libc::CLONE_FILES)?;
        if pid == 0 {
            // The table of descriptors is shared: the child must close nothing of ours.
            let mut fds = [0; MAX_NETS + 2];
            let made = build(to_us.as_raw_fd(), to_child.as_raw_fd(), &binds, &mut fds[..nets + 2]);
            let report = encode(made.map(|()| &fds[..nets + 2]));
            // SAFETY: the array is valid for its length.
            unsafe { libc::write(to_us.as_raw_fd(), report.as_ptr().cast(), report.len()) };
            exit_child(0);
        }
        let made = (|| {
            // An end of file would never come, for we hold the writing end too: the child always writes a whole report.
            let mut bytes = [0u8; size_of::<Report>()];
            from_child.read_exact(&mut bytes)?;
            let mut report = decode(&bytes);
            let mut ids = 0;
            if report[0] == 0 {
                let mapped = map_ids(pid);
                for_child.write_all(&[u8::from(mapped.is_ok())])?;
                ids = mapped?;
                from_child.read_exact(&mut bytes)?;
                report = decode(&bytes);
            }
            if report[0] != 0 {
                let step = STEPS.get(report[1] as usize).copied().unwrap_or("world");
                return Err(fail(step)(io::Error::from_raw_os_error(report[0])));
            }
            Ok((report, ids))
        })();
        reap(pid);
        let (report, ids) = made?;
        // SAFETY: the child opened these into the table we share, and gave us their numbers; nobody else owns them.
        let mut fds = report[1..].iter().take(nets + 2).map(|&fd| unsafe { OwnedFd::from_raw_fd(fd) });
        let (Some(user), Some(mnt)) = (fds.next(), fds.next()) else {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        };
        let nets = fds.map(NetNs).collect();
        Ok((
            Self { user, mnt, ids, by_root: nix::unistd::geteuid().is_root(), ordinary: OnceLock::new() },
            nets,
        ))
    }

    /// The namespaces that process `pid` is in. They stay when it ends.
    pub fn of_process(pid: u32) -> io::Result<(Self, NetNs)> {
        let open = |kind: &str| {
            let path = format!("/proc/{pid}/ns/{kind}");
            fs::File::open(&path).map(OwnedFd::from).map_err(fail(&path))
        };
        let map = fs::read_to_string(format!("/proc/{pid}/uid_map"))?;
        let ids = map.lines().filter_map(|l| l.split_whitespace().nth(2)?.parse::<u32>().ok());
        let ids = ids.fold(0, u32::saturating_add);
        Ok((
            Self { user: open("user")?, mnt: open("mnt")?, ids, by_root: false, ordinary: OnceLock::new() },
            NetNs(open("net")?),
        ))
    }

    /// How many ids are mapped: 1 for a user without sub-ids.
    pub fn ids(&self) -> u32 {
        self.ids
    }

    /// Whether [`Identity::User`] is a real user of the machine here (root made this world).
    pub fn users_are_real(&self) -> bool {
        self.by_root
    }

    /// Runs `f` in the namespaces; see the module's text for what it may do. Returns its descriptor or number.
    fn inside(&self, net: &NetNs, f: impl Fn() -> Result<i32, i32>) -> io::Result<i32> {
        let (mut from_child, to_us) = io::pipe()?;
        let pid = raw_fork(libc::CLONE_FILES)?;
        if pid == 0 {
            let r = setns(self.user.as_raw_fd(), libc::CLONE_NEWUSER)
                .and_then(|()| setns(net.as_raw_fd(), libc::CLONE_NEWNET))
                .and_then(|()| f());
            let report =
                encode(r.as_ref().map(std::slice::from_ref).map_err(|&e| (e, e)).map_err(|(e, _)| (0, e)));
            // SAFETY: the array is valid for its length.
            unsafe { libc::write(to_us.as_raw_fd(), report.as_ptr().cast(), report.len()) };
            exit_child(0);
        }
        let mut bytes = [0u8; size_of::<Report>()];
        let read = from_child.read_exact(&mut bytes);
        reap(pid);
        read?;
        match decode(&bytes) {
            [0, value, ..] => Ok(value),
            [errno, ..] => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    fn fd_inside(&self, net: &NetNs, f: impl Fn() -> Result<RawFd, i32>) -> io::Result<OwnedFd> {
        let fd = self.inside(net, f)?;
        // SAFETY: the child made this descriptor in our shared table for us alone.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// `socket(2)` in `net`, close-on-exec.
    pub fn socket(&self, net: &NetNs, domain: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
        // SAFETY: takes integers.
        self.fd_inside(net, || check(unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) }))
    }

    /// A packet socket (packet(7)) in `net` for sending whole frames by the interface `name`; it receives nothing.
    pub fn packet_socket(&self, net: &NetNs, name: &str) -> io::Result<OwnedFd> {
        let name = cstring(Path::new(name))?;
        self.fd_inside(net, || {
            // SAFETY: takes integers.
            let fd = check(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) })?;
            // SAFETY: a sockaddr_ll is integers and an array of them, for which zero is valid.
            let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            // SAFETY: the name is a C string that lives as long as the call.
            let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
            to.sll_family = libc::AF_PACKET as _;
            to.sll_ifindex = index as _;
            let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            // SAFETY: the kernel reads `len` bytes of `to`, which lives here.
            match check(unsafe { libc::bind(fd, (&raw const to).cast(), len) }) {
                Ok(_) if index > 0 => Ok(fd),
                bound => {
                    // SAFETY: ours, and nobody else knows its number yet.
                    unsafe { libc::close(fd) };
                    Err(bound.err().unwrap_or(libc::ENODEV))
                }
            }
        })
    }

    /// Writes `value` to a file of /proc/sys in `net`; `name` as in `net/ipv4/ip_forward`.
    pub fn sysctl(&self, net: &NetNs, name: &str, value: &str) -> io::Result<()> {
        let path = cstring(&Path::new("/proc/sys").join(name))?;
        self.inside(net, || write_all(&path, value.as_bytes()).map(|()| 0))
            .map(drop)
            .map_err(fail(&format!("/proc/sys/{name} = {value}")))
    }

    /// A plain tap (no virtio-net header, no offloads) named `name` in `net`, non-blocking.
    pub fn tap(&self, net: &NetNs, name: &str) -> io::Result<OwnedFd> {
        // SAFETY: all-zero is a valid ifreq.
        let mut req: libc::ifreq = unsafe { std::mem::zeroed() };
        if name.len() >= req.ifr_name.len() {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        for (to, from) in req.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        req.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
        self.fd_inside(net, || {
            let fd = open(c"/dev/net/tun", libc::O_RDWR | libc::O_NONBLOCK)?;
            let mut req = req;
            // SAFETY: TUNSETIFF reads and writes one ifreq, which lives here.
            if let Err(e) = check(unsafe { libc::ioctl(fd, libc::TUNSETIFF as _, &mut req) }) {
                // SAFETY: ours, and nobody else knows its number yet.
                unsafe { libc::close(fd) };
                return Err(e);
            }
            Ok(fd)
        })
        .map_err(fail("making a tap from /dev/net/tun (it should be mode 0666)"))
    }

    /// The user namespace of the ordinary user `id` where that is no real user.
    fn ordinary_namespace(&self, net: &NetNs, id: u32) -> io::Result<OwnedFd> {
        if self.ordinary.get().is_none() {
            let map = format!("{id} 0 1");
            let made = self.fd_inside(net, || {
                unshare(libc::CLONE_NEWUSER)?;
                write_all(c"/proc/self/setgroups", b"deny")?;
                write_all(c"/proc/self/uid_map", map.as_bytes())?;
                write_all(c"/proc/self/gid_map", map.as_bytes())?;
                open(c"/proc/self/ns/user", libc::O_RDONLY)
            })?;
            // Another thread may have been first: then ours is closed again.
            let _ = self.ordinary.set((id, made));
        }
        match self.ordinary.get() {
            Some((at, user)) if *at == id => user.try_clone(),
            _ => Err(io::Error::other("a world has one ordinary user")),
        }
    }

    /// Makes `command` join the world and `net` before it is executed, as `who`; it is killed when the thread that
    /// spawned it ends. The working directory stays. The world must outlive the spawn.
    pub fn enter(&self, netns: &NetNs, who: Identity, command: &mut Command) -> io::Result<()> {
        // Copies, so that the closure owns what it uses.
        let user = self.user.try_clone()?;
        let mnt = self.mnt.try_clone()?;
        let net = netns.0.try_clone()?;
        let by_root = self.by_root;
        let ordinary = match who {
            Identity::User(id) if !by_root => Some(self.ordinary_namespace(netns, id)?),
            _ => None,
        };
        let join = move || -> Result<(), i32> {
            let mut cwd = [0 as libc::c_char; libc::PATH_MAX as usize];
            // SAFETY: the buffer is as long as said.
            let cwd_known = !unsafe { libc::getcwd(cwd.as_mut_ptr(), cwd.len()) }.is_null();
            let real_user = by_root && matches!(who, Identity::User(_));
            if !real_user {
                setns(user.as_raw_fd(), libc::CLONE_NEWUSER)?;
            }
            setns(net.as_raw_fd(), libc::CLONE_NEWNET)?;
            setns(mnt.as_raw_fd(), libc::CLONE_NEWNS)?;
            match (who, &ordinary) {
                (Identity::User(_), Some(user)) => setns(user.as_raw_fd(), libc::CLONE_NEWUSER)?,
                (Identity::User(id), None) => {
                    // SAFETY: no list is read for a length of 0; the others take integers.
                    unsafe {
                        check(libc::setgroups(0, std::ptr::null()))?;
                        check(libc::setresgid(id, id, id))?;
                        check(libc::setresuid(id, id, id))?;
                    }
                }
                (Identity::WorldRoot, _) => {
                    // Of a world that another user made we are still nobody, and would lose its capabilities on exec.
                    // SAFETY: take integers.
                    unsafe {
                        check(libc::setresgid(0, 0, 0))?;
                        check(libc::setresuid(0, 0, 0))?;
                    }
                }
            }
            // Joining a mount namespace moved us to its root. A directory this user may not enter is not needed.
            if cwd_known {
                // SAFETY: getcwd NUL-terminated it.
                unsafe { libc::chdir(cwd.as_ptr()) };
            }
            // SAFETY: takes integers. After the change of ids, which would clear it.
            check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) }).map(drop)
        };
        // SAFETY: the closure makes system calls only, on values prepared above.
        unsafe { command.pre_exec(move || join().map_err(io::Error::from_raw_os_error)) };
        Ok(())
    }
}

/// The child of [`World::new`]: `fds` becomes user, mount and the network namespaces. The error is (step, errno).
fn build(
    report: RawFd,
    go: RawFd,
    binds: &[(CString, CString)],
    fds: &mut [RawFd],
) -> Result<(), (i32, i32)> {
    let at = |step: i32| move |e: i32| (step, e);
    unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS).map_err(at(0))?;
    let unshared = encode(Ok(&[]));
    let mut mapped = 0u8;
    // SAFETY: both buffers are valid for their lengths.
    let n = unsafe {
        libc::write(report, unshared.as_ptr().cast(), unshared.len());
        libc::read(go, (&raw mut mapped).cast(), 1)
    };
    if n != 1 || mapped != 1 {
        exit_child(1); // Nobody waits for a report any more.
    }
    let mount = |source: Option<&CStr>, target: &CStr, flags| {
        let source = source.map_or(std::ptr::null(), CStr::as_ptr);
        // SAFETY: NUL-terminated strings that outlive the call; null where the call takes none.
        check(unsafe { libc::mount(source, target.as_ptr(), std::ptr::null(), flags, std::ptr::null()) })
    };
    mount(None, c"/", libc::MS_REC | libc::MS_PRIVATE).map_err(at(2))?;
    for (source, target) in binds {
        mount(Some(source), target, libc::MS_BIND).map_err(at(3))?;
    }
    fds[0] = open(c"/proc/self/ns/user", libc::O_RDONLY).map_err(at(4))?;
    fds[1] = open(c"/proc/self/ns/mnt", libc::O_RDONLY).map_err(at(4))?;
    for fd in &mut fds[2..] {
        unshare(libc::CLONE_NEWNET).map_err(at(5))?;
        *fd = open(c"/proc/self/ns/net", libc::O_RDONLY).map_err(at(4))?;
    }
    Ok(())
}

/// Maps ids into the new user namespace of `pid`; returns how many.
fn map_ids(pid: libc::pid_t) -> io::Result<u32> {
    let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let dir = PathBuf::from(format!("/proc/{pid}"));
    if uid == 0 && fs::write(dir.join("uid_map"), format!("0 0 {MANY_IDS}")).is_ok() {
        fs::write(dir.join("gid_map"), format!("0 0 {MANY_IDS}")).map_err(fail("writing gid_map"))?;
        return Ok(MANY_IDS);
    }
    if let (Some(u), Some(g)) = (sub_id("/etc/subuid", uid), sub_id("/etc/subgid", uid)) {
        let map = |program: &str, own: u32, sub: u32| {
            Command::new(program)
                .args([pid as u32, 0, own, 1, 1, sub, MANY_IDS - 1].map(|n| n.to_string()))
                .output()
                .is_ok_and(|o| o.status.success())
        };
        if map("newuidmap", uid, u) && map("newgidmap", gid, g) {
            return Ok(MANY_IDS);
        }
    }
    fs::write(dir.join("setgroups"), "deny").map_err(fail("writing setgroups"))?;
    fs::write(dir.join("uid_map"), format!("0 {uid} 1")).map_err(fail("writing uid_map"))?;
    fs::write(dir.join("gid_map"), format!("0 {gid} 1")).map_err(fail("writing gid_map"))?;
    Ok(1)
}

/// First sub-id of this user, if the range is large enough (subuid(5)).
fn sub_id(file: &str, uid: u32) -> Option<u32> {
    let name = nix::unistd::User::from_uid(uid.into()).ok().flatten().map(|u| u.name);
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let who = fields.next()?;
        let (start, count): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.trim().parse().ok()?);
        let ours = Some(who) == name.as_deref() || who.parse() == Ok(uid);
        (ours && count >= MANY_IDS - 1).then_some(start)
    })
}
