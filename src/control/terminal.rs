//! The terminal's foreground process group, before and after COMMAND.
//!
//! A shell inside makes process groups of its own and gives them the terminal; when it ends, the terminal is left with
//! a group that no longer exists, and the caller's next read would fail. [`Terminal::restore`] gives it back to our
//! group then, but never takes it from a living one (we may have been sent to the background).

use nix::errno::Errno;
use nix::sys::signal::killpg;
use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};
use std::fs::File;

/// The controlling terminal, while our process group is in its foreground.
#[derive(Debug)]
pub struct Terminal {
    tty: File,
    group: Pid,
}

impl Terminal {
    /// Remembers the terminal; `None` if there is none or we are in its background.
    pub fn remember() -> Option<Self> {
        let tty = File::options().read(true).write(true).open("/dev/tty").ok()?;
        let group = getpgrp();
        (tcgetpgrp(&tty) == Ok(group)).then_some(Self { tty, group })
    }

    /// Gives the terminal back to our group if its foreground group is gone. SIGTTOU must be blocked.
    pub fn restore(&self) {
        let Ok(foreground) = tcgetpgrp(&self.tty) else { return };
        let gone = foreground.as_raw() <= 0 || killpg(foreground, None) == Err(Errno::ESRCH);
        if foreground != self.group && gone {
            let _ = tcsetpgrp(&self.tty, self.group);
        }
    }
}

impl std::os::fd::AsFd for Terminal {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.tty.as_fd()
    }
}
