//! A second path from the host to the internet over an impaired link, for kernels without netem too.
//!
//! Two plain taps, `imp0` in the host (198.18.0.1, 2001:db8:18::1) and in the internet (198.18.0.2, 2001:db8:18::2), and a
//! thread that carries frames between them through one [`Queue`] each way. Nothing but frames for those networks takes
//! this path. Limits: a few hundred megabits a second; delays are kept to about 0.1 ms.

use super::impair::{Fate, Impairment, Queue};
use super::{Lab, LabError, Place};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use nix::unistd::{read, write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The running link; it ends when dropped.
#[derive(Debug)]
pub struct ImpairedLink {
    stop: Arc<AtomicBool>,
    fates: Arc<Mutex<[Fate; 2]>>,
    thread: Option<JoinHandle<()>>,
}

impl Lab {
    /// Adds the impaired link; `how` holds for each direction, with different dice.
    pub fn impaired(&self, how: Impairment) -> Result<ImpairedLink, LabError> {
        let end = |place: Place<'_>, number: u8| -> Result<OwnedFd, LabError> {
            let tap = place.tap("imp0")?;
            let links = place.links()?;
            links.add_address("imp0", super::v(&format!("198.18.0.{number}/24"))?)?;
            links.add_address("imp0", super::v(&format!("2001:db8:18::{number}/64"))?)?;
            links.set_up("imp0", true)?;
            Ok(tap)
        };
        ImpairedLink::between([end(self.host(), 1)?, end(self.internet(), 2)?], how)
    }
}

impl ImpairedLink {
    /// Joins two taps ([`Place::tap`]) of any places; `how` holds for each direction, with different dice.
    ///
    /// # Errors
    /// No thread to be had.
    pub fn between(taps: [OwnedFd; 2], how: Impairment) -> Result<Self, LabError> {
        let stop = Arc::new(AtomicBool::new(false));
        let fates = Arc::new(Mutex::new([Fate::default(); 2]));
        let queues = [Queue::new(how), Queue::new(Impairment { seed: how.seed.wrapping_add(1), ..how })];
        let (stopped, told) = (stop.clone(), fates.clone());
        let thread = std::thread::Builder::new()
            .name("impaired".into())
            .spawn(move || carry(&taps, queues, &stopped, &told))
            .map_err(|e| LabError::new("starting the impaired link", e))?;
        Ok(Self { stop, fates, thread: Some(thread) })
    }

    /// Counters of the two directions: from the first end (the host), and to it.
    pub fn fates(&self) -> [Fate; 2] {
        *self.fates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ImpairedLink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(t) = self.thread.take() {
            let _ = t.join();
        }
    }
}

/// How often the thread looks whether it should end.
const GLANCE: Duration = Duration::from_millis(20);
/// Frames taken from one tap before the other has its turn.
const BURST: usize = 64;

fn carry(taps: &[OwnedFd; 2], mut queues: [Queue; 2], stop: &AtomicBool, fates: &Mutex<[Fate; 2]>) {
    let start = Instant::now();
    let mut frame = [0u8; 65536];
    while !stop.load(Ordering::Relaxed) {
        let now = start.elapsed();
        let next = queues.iter().filter_map(Queue::next_at).min();
        let wait = next.map_or(GLANCE, |at| at.saturating_sub(now).min(GLANCE));
        let mut polled = [0, 1].map(|i: usize| PollFd::new(taps[i].as_fd(), PollFlags::POLLIN));
        match ppoll(&mut polled, Some(TimeSpec::from_duration(wait)), None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return,
        }
        for (tap, queue) in taps.iter().zip(&mut queues) {
            for _ in 0..BURST {
                // EAGAIN is the usual end; any other error shows as a link that carries nothing.
                let Ok(n) = read(tap, &mut frame) else { break };
                queue.push(start.elapsed(), &frame[..n]);
            }
        }
        let now = start.elapsed();
        for (i, queue) in queues.iter_mut().enumerate() {
            while let Some(frame) = queue.pop(now) {
                // A full or closed tap loses the frame, as a link may.
                let _ = write(&taps[1 - i], &frame);
            }
        }
        *fates.lock().unwrap_or_else(PoisonError::into_inner) = [queues[0].fate(), queues[1].fate()];
    }
}
