//! Counters of a generator, and the thread that takes orders and tells them.

use super::Said;
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, Write};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// When, by the machine's monotonic clock, in nanoseconds: the same for both ends.
    pub at: u64,
    /// Payload bytes of streams received.
    pub received: u64,
    /// Payload bytes of streams sent.
    pub sent: u64,
    /// Datagrams received.
    pub datagrams_received: u64,
    /// Datagrams sent.
    pub datagrams_sent: u64,
    /// Exchanges done, connections made.
    pub operations: u64,
    /// Answers that did not come in time.
    pub lost: u64,
}

/// Where a generator is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The load runs and warms up.
    Warm,
    /// Latencies count.
    Counts,
    /// Told to end.
    Over,
}

/// The counters, written by the threads of the loads and read by that of the orders. They only ever rise, and each is read by itself, so
/// nothing depends on the order in which they are seen.
#[derive(Debug, Default)]
pub struct Meter {
    /// See [`Reading::received`].
    pub received: AtomicU64,
    /// See [`Reading::sent`].
    pub sent: AtomicU64,
    /// See [`Reading::datagrams_received`].
    pub datagrams_received: AtomicU64,
    /// See [`Reading::datagrams_sent`].
    pub datagrams_sent: AtomicU64,
    /// See [`Reading::operations`].
    pub operations: AtomicU64,
    /// See [`Reading::lost`].
    pub lost: AtomicU64,
    /// Datagrams a second, for the end that sends.
    pace: AtomicU64,
    /// Which load of a server's this is.
    load: AtomicU64,
    phase: AtomicU8,
    /// Why a thread ended that is not the runtime's.
    failure: Mutex<Option<String>>,
}

/// Adds to one of a meter's counters.
pub fn count(counter: &AtomicU64, by: usize) {
    counter.fetch_add(by as u64, Ordering::Relaxed);
}

impl Meter {
    /// Where we are.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Warm,
            1 => Phase::Counts,
            _ => Phase::Over,
        }
    }

    /// A thread of the load has ended.
    pub fn fail(&self, why: String) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
    }

    /// Ends the load.
    #[cfg(test)]
    pub fn stop(&self) {
        self.phase.store(2, Ordering::Relaxed);
    }

    /// Why, once.
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The pace ordered last, 0 at first.
    pub fn pace(&self) -> f64 {
        self.pace.load(Ordering::Relaxed) as f64
    }

    /// The number of the load that is being served. What still comes out of a contender for an earlier one does not count.
    pub fn load(&self) -> u64 {
        self.load.load(Ordering::Relaxed)
    }

    fn read(&self) -> Reading {
        let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
        Reading {
            at: now(),
            received: get(&self.received),
            sent: get(&self.sent),
            datagrams_received: get(&self.datagrams_received),
            datagrams_sent: get(&self.datagrams_sent),
            operations: get(&self.operations),
            lost: get(&self.lost),
        }
    }

    /// Does what one order says; the answer, if it has one.
    fn order(&self, line: &str) -> Option<Reading> {
        match line.split_once(' ').unwrap_or((line, "")) {
            ("start", _) => {
                self.phase.store(1, Ordering::Relaxed);
                Some(self.read())
            }
            ("mark", _) => Some(self.read()),
            ("next", _) => {
                self.load.fetch_add(1, Ordering::Relaxed);
                Some(self.read())
            }
            ("pace", pace) => {
                self.pace.store(pace.parse().unwrap_or(0), Ordering::Relaxed);
                None
            }
            _ => {
                self.phase.store(2, Ordering::Relaxed);
                None
            }
        }
    }
}

/// The monotonic clock of the machine, in nanoseconds.
pub fn now() -> u64 {
    let clock = nix::time::ClockId::CLOCK_MONOTONIC;
    clock.now().map_or(0, |t| t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64)
}

/// Writes a line to whoever started us. If nobody reads any more, the end comes by other ways.
pub fn say(what: &Said) {
    let mut out = io::stdout().lock();
    let _ = serde_json::to_writer(&mut out, what);
    let _ = out.write_all(b"\n").and_then(|()| out.flush());
}

/// Starts the thread that takes orders until the end of standard input.
pub fn obey(meter: Arc<Meter>) -> io::Result<()> {
    std::thread::Builder::new().name("orders".into()).spawn(move || {
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            if let Some(reading) = meter.order(&line) {
                say(&Said::Reading(reading));
            }
        }
        meter.order("stop");
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_do_what_they_say() {
        let meter = Meter::default();
        count(&meter.received, 5);
        count(&meter.received, 6);
        let first = meter.order("mark").unwrap();
        assert_eq!((first.received, meter.phase()), (11, Phase::Warm));
        assert!(meter.order("start").unwrap().at >= first.at);
        assert_eq!(meter.phase(), Phase::Counts);
        assert_eq!(meter.load(), 0);
        assert!(meter.order("next").is_some() && meter.load() == 1);
        assert_eq!(meter.order("pace 5000"), None);
        assert_eq!(meter.pace(), 5000.0);
        assert_eq!(meter.order("stop"), None);
        assert_eq!(meter.phase(), Phase::Over);
    }
}
