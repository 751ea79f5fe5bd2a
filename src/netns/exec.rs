//! Starting COMMAND as a shell would: search in PATH, 127 if it is not found, 126 if it cannot be executed.
//!
//! The command stays in the caller's session and process group, so that a terminal's ^C and ^Z reach it directly, and
//! only once. It starts with the signal mask that ringtap was started with and with SIGPIPE at its default (Rust's
//! start-up code ignores it). A caller that has other manners ([`Manners`]) gets them.

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, pthread_sigmask, signal};
use nix::unistd::execvp;
use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStringExt;

/// How COMMAND is started, and what is said if it cannot be.
#[derive(Clone, Debug)]
pub struct Manners {
    /// Variables to set in its environment.
    pub env: Vec<(OsString, OsString)>,
    /// It is given sockets as by systemd: `LISTEN_PID` becomes its own process id, wherever it is counted from
    /// (sd_listen_fds(3)).
    pub listen_pid: bool,
    /// What the line on standard error begins with.
    pub prefix: &'static str,
    /// The exit status if it cannot be started; `None`: that of a shell.
    pub failed: Option<u8>,
}

impl Default for Manners {
    fn default() -> Self {
        Self { env: Vec::new(), listen_pid: false, prefix: "ringtap: ", failed: None }
    }
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Command {
    /// Program and arguments; never empty.
    argv: Vec<CString>,
    /// The signal mask to start it with.
    mask: SigSet,
    manners: Manners,
}

impl Command {
    /// Takes the words of the command line; `None` if there are none or one holds a NUL byte, which no command line
    /// can.
    pub fn new(words: Vec<OsString>, mask: SigSet) -> Option<Self> {
        let argv: Option<Vec<_>> = words.into_iter().map(|w| CString::new(w.into_vec()).ok()).collect();
        argv.filter(|a| !a.is_empty()).map(|argv| Self { argv, mask, manners: Manners::default() })
    }

    /// The same with other manners.
    pub fn with(self, manners: Manners) -> Self {
        Self { manners, ..self }
    }

    /// Becomes the command. Returns only if that fails, with the exit status for the caller, after saying why on standard
    /// error. For the closure of [`super::process::spawn`] only.
    pub fn exec(&self) -> u8 {
        let listen_pid = || ("LISTEN_PID".into(), nix::unistd::getpid().to_string().into());
        let own = self.manners.listen_pid.then(listen_pid);
        for (name, value) in self.manners.env.iter().chain(own.as_ref()) {
            // SAFETY: this process has a single thread (`process::spawn`), so nobody reads the environment meanwhile.
            unsafe { std::env::set_var(name, value) };
        }
        // SAFETY: setting a default disposition installs no handler.
        let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.mask), None);
        let result: Result<Infallible, Errno> = execvp(&self.argv[0], &self.argv);
        let Err(error) = result;
        let name = self.argv[0].to_string_lossy();
        let found = || std::env::var_os("PATH").is_some_and(|path| is_in(&path, &name));
        // A directory of PATH that may not be entered makes "not there" look like "not allowed".
        let error = match error {
            Errno::EACCES if !name.contains('/') && !found() => Errno::ENOENT,
            e => e,
        };
        let (status, text) = explain(&name, error);
        eprintln!("{}{name}: {text}", self.manners.prefix);
        self.manners.failed.unwrap_or(status)
    }
}

/// Whether a directory of `path` shows a file of that name.
fn is_in(path: &OsStr, name: &str) -> bool {
    std::env::split_paths(path).any(|dir| dir.join(name).is_file())
}

fn explain(name: &str, error: Errno) -> (u8, String) {
    match error {
        Errno::ENOENT if !name.contains('/') => {
            (127, "command not found; install it or give its path".to_owned())
        }
        Errno::ENOENT => {
            (127, "no such file, or the interpreter it names is missing; check the path".to_owned())
        }
        Errno::ENOTDIR => (127, "a part of the path is not a directory; check the path".to_owned()),
        Errno::EACCES => (
            126,
            "permission denied; make it executable (chmod +x) and its directories searchable".to_owned(),
        ),
        Errno::ENOEXEC => (126, "not a program for this machine".to_owned()),
        Errno::E2BIG => (126, "the argument list is too long".to_owned()),
        e => (126, format!("cannot execute: {}", e.desc())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_those_of_a_shell() {
        assert_eq!(explain("nosuch", Errno::ENOENT).0, 127);
        assert_eq!(explain("./nosuch", Errno::ENOENT).0, 127);
        assert_eq!(explain("/etc/passwd", Errno::EACCES).0, 126);
        assert_eq!(explain("x", Errno::ENOEXEC).0, 126);
    }

    #[test]
    fn no_command_and_nul_bytes_are_refused() {
        assert!(Command::new(Vec::new(), SigSet::empty()).is_none());
        assert!(Command::new(vec!["a\0b".into()], SigSet::empty()).is_none());
    }
}
