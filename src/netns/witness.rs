//! Who was sent a signal: the whole process group, or control alone.
//!
//! Theory of operation. Init notes what it is sent itself ([`Witness::saw`]). Control reports what it was sent
//! ([`Witness::explains`]): if init has had the same, the group was sent it, and COMMAND, if it is in the group, needs no
//! other.
//!
//! **Coalescing.** A signal that is pending is not made pending twice, so of two that the group was sent init may have had one
//! and control both. What init has had therefore explains all reports of the next [`TOGETHER`], and one at any rate.
//!
//! **SIGCONT** may leave no trace: a stop signal that follows takes a SIGCONT away that init has not read yet (signal(7)).
//! So a stop signal that init has had, and control has not reported when it reports a SIGCONT, came after that SIGCONT and
//! has the last word: whomever the SIGCONT was for, COMMAND stays stopped. Control reads its signals in their order, and asks
//! before it stops ([`Witness::control_stops`]), which a terminal's stop makes it do without a report: a SIGCONT that it
//! reports after the answer is later than every stop before that.

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
/// How far apart init and control may have read what was sent at once. A signal to control alone that comes so soon after one
/// like it to the group is lost to COMMAND, which has just had that.
const TOGETHER: Duration = Duration::from_millis(100);

/// Signals that init was sent and that control has not reported.
#[derive(Debug, Default)]
pub struct Witness {
    seen: Vec<Seen>,
}

#[derive(Debug)]
struct Seen {
    number: i32,
    at: Instant,
    /// It has explained a report.
    used: bool,
}

impl Witness {
    /// Init was sent signal `number`.
    pub fn saw(&mut self, number: i32, now: Instant) {
        self.seen.push(Seen { number, at: now, used: false });
    }

    /// Forgets what is too old to explain anything.
    pub fn forget(&mut self, now: Instant) {
        self.seen.retain(|s| now.duration_since(s.at) < if s.used { TOGETHER } else { MEMORY });
    }

    /// Control was sent signal `number`: true if a member of the group has nothing to be told.
    pub fn explains(&mut self, number: i32, now: Instant) -> bool {
        self.forget(now);
        // One that is still to explain something goes first.
        if let Some(seen) = self.seen.iter_mut().filter(|s| s.number == number).min_by_key(|s| s.used) {
            seen.used = true;
            return true;
        }
        number == Signal::SIGCONT as i32 && self.seen.iter().any(|s| stops(s.number) && !s.used)
    }

    /// Control is about to be told that it may stop as COMMAND has.
    pub fn control_stops(&mut self) {
        self.seen.retain(|s| !stops(s.number));
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
        assert!(!witness.explains(INT, now));
        witness.saw(INT, now);
        assert!(!witness.explains(Signal::SIGTERM as i32, now));
        let later = now + TOGETHER;
        assert!(witness.explains(INT, later) && !witness.explains(INT, later));
        witness.saw(INT, now);
        assert!(!witness.explains(INT, now + MEMORY));
    }

    #[test]
    fn two_that_were_one_to_init_are_both_explained() {
        let mut witness = Witness::default();
        let now = Instant::now();
        witness.saw(INT, now);
        let soon = now + TOGETHER / 2;
        assert!(witness.explains(INT, now) && witness.explains(INT, soon));
        // A further one explains a further report, however late.
        witness.saw(INT, soon);
        assert!(witness.explains(INT, now + 3 * TOGETHER) && !witness.explains(INT, now + 3 * TOGETHER));
    }

    #[test]
    fn a_continuation_reported_after_a_later_stop_does_not_undo_it() {
        let mut witness = Witness::default();
        let now = Instant::now();
        // The terminal's SIGTSTP has taken init's own SIGCONT away.
        witness.saw(TSTP, now);
        assert!(witness.explains(CONT, now));
        // An interrupt is for COMMAND all the same.
        assert!(!witness.explains(INT, now));
        // Control has stopped since, so the next one is later than the stop, and control's alone.
        witness.control_stops();
        assert!(!witness.explains(CONT, now));
        // A stop that control has reported is earlier too.
        witness.saw(TSTP, now);
        assert!(witness.explains(TSTP, now) && !witness.explains(CONT, now));
    }
}
