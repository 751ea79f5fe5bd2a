//! The list of system calls that are left, and with which arguments.
//!
//! Read it as what a plane does: wait in its ring; make sockets of the Internet's kinds, set them up and close them; talk
//! over the channels that it was given; read its clock; manage its own memory, none of it executable; write to the log
//! and the capture. Nothing here takes a path, names another process or namespace, or makes a descriptor of another kind
//! than sockets and pipes. The kernel keeps a bitmap of calls that pass whatever their arguments (Linux 5.11), so
//! waiting in the ring costs what it did.
//!
//! A call that is missing here fails with `EPERM` in a release and kills the process in a debug build, where the tests
//! find it.

use super::Lack;
use seccompiler::SeccompCmpArgLen::Dword;
use seccompiler::SeccompCmpOp::{Eq, MaskedEq};
use seccompiler::{BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule};
use std::collections::BTreeMap;

/// Whose calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    /// A plane, its ring made.
    Plane,
    /// A relay by itself, which is yet to make its ring and to raise its limits.
    Relay,
}

/// What becomes of whoever makes another call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// The call fails with `EPERM`.
    Refuse,
    /// SIGSYS.
    Kill,
}

/// Calls that are let through as they are.
const PLAIN: [i64; 42] = [
    // The ring, and what is done beside it.
    libc::SYS_io_uring_enter,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_ftruncate,
    libc::SYS_fsync,
    libc::SYS_splice,
    libc::SYS_pipe2,
    libc::SYS_close,
    // Sockets. Accepting by hand is for shedding, a poll for how a relayed connection has ended. musl tries the older call
    // where accept4 says EINVAL, as it does of a listener that was shut down.
    libc::SYS_accept,
    libc::SYS_accept4,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(not(target_arch = "x86_64"))]
    libc::SYS_ppoll,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    // Which inode a descriptor of its own is, for listings.
    libc::SYS_fstat,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    // Memory and locks.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    // Time, where the vDSO has none.
    libc::SYS_clock_gettime,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_getrandom,
    // Its own end, and signals that stop and continue it.
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sigaltstack,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn all(conditions: &[(u8, u64)]) -> Result<SeccompRule, seccompiler::BackendError> {
    let conditions = conditions.iter().map(|(n, value)| SeccompCondition::new(*n, Dword, Eq, *value));
    SeccompRule::new(conditions.collect::<Result<_, _>>()?)
}

/// One rule for each value of one argument.
fn any_of(argument: u8, values: &[i64]) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    values.iter().map(|value| all(&[(argument, value.cast_unsigned())])).collect()
}

/// The rules of calls whose arguments matter.
fn rules(calls: Calls) -> Result<Rules, seccompiler::BackendError> {
    let mut rules: Rules = PLAIN.into_iter().map(|call| (call, Vec::new())).collect();
    // Streams, datagrams and ping sockets of the two families: nothing raw, no netlink, no unix socket.
    let mut sockets = Vec::new();
    for (family, ping) in [(libc::AF_INET, libc::IPPROTO_ICMP), (libc::AF_INET6, libc::IPPROTO_ICMPV6)] {
        for (kind, protocol) in [
            (libc::SOCK_STREAM, 0),
            (libc::SOCK_STREAM, libc::IPPROTO_TCP),
            (libc::SOCK_DGRAM, 0),
            (libc::SOCK_DGRAM, libc::IPPROTO_UDP),
            (libc::SOCK_DGRAM, ping),
        ] {
            // SOCK_TYPE_MASK (linux/net.h): flags are beside the type.
            sockets.push(SeccompRule::new(vec![
                SeccompCondition::new(0, Dword, Eq, family as u64)?,
                SeccompCondition::new(1, Dword, MaskedEq(0xf), kind as u64)?,
                SeccompCondition::new(2, Dword, Eq, protocol as u64)?,
            ])?);
        }
    }
    rules.insert(libc::SYS_socket, sockets);
    let levels =
        [libc::IPPROTO_IP, libc::SOL_SOCKET, libc::IPPROTO_TCP, libc::IPPROTO_UDP, libc::IPPROTO_IPV6];
    rules.insert(libc::SYS_setsockopt, any_of(1, &levels.map(i64::from))?);
    let fcntls = [
        libc::F_GETFD,
        libc::F_SETFD,
        libc::F_GETFL,
        libc::F_SETFL,
        libc::F_DUPFD_CLOEXEC,
        libc::F_SETPIPE_SZ,
        libc::F_GETPIPE_SZ,
    ];
    rules.insert(libc::SYS_fcntl, any_of(1, &fcntls.map(i64::from))?);
    // Unsigned in linux/sockios.h, a `c_ulong` or a `c_int` in libc.
    rules.insert(libc::SYS_ioctl, any_of(1, &[libc::FIONBIO as i64, libc::FIONREAD as i64])?);
    // Memory that is data, never code.
    let data = |argument| {
        SeccompRule::new(vec![SeccompCondition::new(argument, Dword, MaskedEq(libc::PROT_EXEC as u64), 0)?])
    };
    rules.insert(libc::SYS_mmap, vec![data(2)?]);
    rules.insert(libc::SYS_mprotect, vec![data(2)?]);
    match calls {
        // Limits may be read: the address of new ones is null.
        Calls::Plane => {
            let null = SeccompCondition::new(2, seccompiler::SeccompCmpArgLen::Qword, Eq, 0)?;
            rules.insert(libc::SYS_prlimit64, vec![SeccompRule::new(vec![null])?]);
        }
        Calls::Relay => {
            for call in [libc::SYS_io_uring_setup, libc::SYS_io_uring_register, libc::SYS_prlimit64] {
                rules.insert(call, Vec::new());
            }
        }
    }
    Ok(rules)
}

/// Compiles the filter.
///
/// # Errors
/// The architecture is one that the compiler does not know.
pub fn compile(calls: Calls, violation: Violation) -> Result<BpfProgram, Lack> {
    let action = match violation {
        Violation::Refuse => SeccompAction::Errno(libc::EPERM.unsigned_abs()),
        Violation::Kill => SeccompAction::KillProcess,
    };
    let target = std::env::consts::ARCH.try_into();
    target
        .and_then(|arch| SeccompFilter::new(rules(calls)?, action, SeccompAction::Allow, arch))
        .and_then(BpfProgram::try_from)
        .map_err(|e| Lack::Filter(e.to_string()))
}

/// Installs it, for this thread and those it makes.
pub(super) fn install(calls: Calls, violation: Violation) -> Result<(), Lack> {
    let program = compile(calls, violation)?;
    seccompiler::apply_filter(&program).map_err(|e| Lack::Filter(e.to_string()))
}
