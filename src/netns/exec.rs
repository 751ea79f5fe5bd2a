//! Starting COMMAND as a shell would: search in PATH, 127 if it is not found, 126 if it cannot be executed.
//!
//! The command stays in the caller's session and process group, so that a terminal's ^C and ^Z reach it directly, and
//! only once. It starts with the signal mask that ringtap was started with and with SIGPIPE at its default (Rust's
//! start-up code ignores it).

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, pthread_sigmask, signal};
use nix::unistd::execvp;
use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStringExt;

/// What to run.
#[derive(Clone, Debug)]
pub struct Command {
    /// Program and arguments; never empty.
    argv: Vec<CString>,
    /// The signal mask to start it with.
    mask: SigSet,
}

impl Command {
    /// Takes the words of the command line; `None` if there are none or one holds a NUL byte, which no command line
    /// can.
    pub fn new(words: Vec<OsString>, mask: SigSet) -> Option<Self> {
        let argv: Option<Vec<_>> = words.into_iter().map(|w| CString::new(w.into_vec()).ok()).collect();
        argv.filter(|a| !a.is_empty()).map(|argv| Self { argv, mask })
    }

    /// Becomes the command. Returns only if that fails, with the exit status that a shell would give, after saying why
    /// on standard error.
    pub fn exec(&self) -> u8 {
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
        eprintln!("ringtap: {name}: {text}");
        status
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
