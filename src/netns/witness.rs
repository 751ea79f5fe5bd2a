//! Who was sent a signal: the whole process group, or control alone.
//!
//! Theory of operation. Init notes what it is sent itself ([`Witness::saw`]). Control reports what it was sent
//! ([`Witness::explains`]): if init has had the same, the group was sent it, and COMMAND, if it is in the group, needs no
//! other.
//!
//! **SIGCONT** may leave no trace: a stop signal that follows takes a SIGCONT away that init has not read yet (signal(7)).
//! So a stop signal that init has had, and control has not reported when it reports a SIGCONT, came after that SIGCONT and
//! has the last word: whomever the SIGCONT was for, COMMAND stays stopped. Control reads its signals in their order, and
//! says when it stops ([`Witness::control_stops`]), which a terminal's stop makes it do without a report: a SIGCONT after
//! that is later than every stop before it.

use nix::sys::signal::Signal;
use nix::unistd::{Pid, setpgid};
use std::time::{Duration, Instant};

/// Returns once every kill(2) of a group that has reached one member has reached all. kill(2) holds the reader side of the
/// kernel's `tasklist_lock` and setpgid(2) takes its writer side before it looks for its process, which cannot be there:
/// numbers end at 2^22. (Naming our own group instead would not do: inside a pid namespace its number is 0, by which
/// setpgid(2) makes a new one.)
pub fn settle_group_signals() {
    let _ = setpgid(Pid::from_raw(i32::MAX), Pid::from_raw(1));
}

/// How long a signal that we saw ourselves explains one that control was sent. Both are raised by one kill(2), so this
/// only has to outlast scheduling; it keeps a leftover from swallowing a signal that was meant for COMMAND.
const MEMORY: Duration = Duration::from_secs(1);

/// Signals that init was sent and that control has not reported.
#[derive(Debug, Default)]
pub struct Witness {
    seen: Vec<(i32, Instant)>,
}

impl Witness {
    /// Init was sent signal `number`.
    pub fn saw(&mut self, number: i32, now: Instant) {
        self.seen.push((number, now));
    }

    /// Forgets what is too old to explain anything.
    pub fn forget(&mut self, now: Instant) {
        self.seen.retain(|(_, at)| now.duration_since(*at) < MEMORY);
    }

    /// Control was sent signal `number`: true if a member of the group has nothing to be told.
    pub fn explains(&mut self, number: i32) -> bool {
        if let Some(at) = self.seen.iter().position(|(n, _)| *n == number) {
            self.seen.swap_remove(at);
            return true;
        }
        number == Signal::SIGCONT as i32 && self.seen.iter().any(|(n, _)| stops(*n))
    }

    /// Control stops as COMMAND has.
    pub fn control_stops(&mut self) {
        self.seen.retain(|(n, _)| !stops(*n));
    }
}

/// The stop signals that can be blocked, and so wait to be read.
fn stops(number: i32) -> bool {
    [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU].into_iter().any(|s| s as i32 == number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONT: i32 = Signal::SIGCONT as i32;
    const TSTP: i32 = Signal::SIGTSTP as i32;
    const INT: i32 = Signal::SIGINT as i32;

    #[test]
    fn what_the_group_was_sent_is_explained_once_and_not_for_ever() {
        let mut witness = Witness::default();
        let now = Instant::now();
        assert!(!witness.explains(INT));
        witness.saw(INT, now);
        assert!(!witness.explains(Signal::SIGTERM as i32));
        assert!(witness.explains(INT) && !witness.explains(INT));
        witness.saw(INT, now);
        witness.forget(now + MEMORY);
        assert!(!witness.explains(INT));
    }

    #[test]
    fn a_continuation_reported_after_a_later_stop_does_not_undo_it() {
        let mut witness = Witness::default();
        let now = Instant::now();
        // The terminal's SIGTSTP has taken init's own SIGCONT away.
        witness.saw(TSTP, now);
        assert!(witness.explains(CONT));
        // An interrupt is for COMMAND all the same.
        assert!(!witness.explains(INT));
        // Control has stopped since, so the next one is later than the stop, and control's alone.
        witness.control_stops();
        assert!(!witness.explains(CONT));
        // A stop that control has reported is earlier too.
        witness.saw(TSTP, now);
        assert!(witness.explains(TSTP) && !witness.explains(CONT));
    }
}
