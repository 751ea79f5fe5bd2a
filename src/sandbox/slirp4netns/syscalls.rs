//! System calls that a user-mode network never makes once it runs: using one kills the process.
//!
//! The list is slirp4netns's (seccomp.c of 1.3) less prctl, which control uses when it forks a successor of the plane. It
//! holds for whatever this process forks. Calls of another architecture (32-bit on x86-64) kill as well; those of x32 are
//! on the list by their own numbers. What a ring does is not seen by a filter, but nothing on this list has an operation.

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use std::collections::BTreeMap;

/// Killed for.
const REFUSED: &[libc::c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_lookup_dcookie,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_setns,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
];

/// Fails with EPERM: a successor of the plane tries these for its own sandbox, and does without.
const WITHHELD: &[libc::c_long] =
    &[libc::SYS_mount, libc::SYS_umount2, libc::SYS_pivot_root, libc::SYS_unshare];

/// The bit of x32's numbers (`__X32_SYSCALL_BIT`).
#[cfg(target_arch = "x86_64")]
const X32: i64 = 0x4000_0000;

/// Why there is no filter.
#[derive(Debug, thiserror::Error)]
#[error("no filter of system calls: {0}; the kernel lacks CONFIG_SECCOMP_FILTER, or a container forbids it")]
pub struct SyscallError(String);

/// Installs the filter for this process and all that it forks.
///
/// # Errors
/// [`SyscallError`].
pub fn refuse_syscalls() -> Result<(), SyscallError> {
    let withheld = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    for (calls, action) in [(WITHHELD, withheld), (REFUSED, SeccompAction::KillProcess)] {
        let program = filter(calls, action).map_err(|e| SyscallError(e.to_string()))?;
        seccompiler::apply_filter(&program).map_err(|e| SyscallError(e.to_string()))?;
    }
    Ok(())
}

fn filter(calls: &[i64], action: SeccompAction) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<_>> = calls.iter().map(|n| (*n, Vec::new())).collect();
    #[cfg(target_arch = "x86_64")]
    rules.extend(calls.iter().map(|n| (*n | X32, Vec::new())));
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, SeccompAction::Allow, action, arch)?.try_into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_a_program() {
        assert!(filter(REFUSED, SeccompAction::KillProcess).unwrap().len() > REFUSED.len());
    }
}
