//! The host's resolvers, read from /etc/resolv.conf and read again when that changes.
//!
//! The file is rewritten in place, replaced by rename, or a symlink into /run that points elsewhere tomorrow: so the
//! directories of the name and of what it resolves to are watched (inotify), and the file itself, and every event leads
//! to a look at the file. A user may have only 128 inotify instances; without one, a look once a second has to do.
//!
//! Closing an inotify instance waits for the kernel's readers of its marks (SRCU, fsnotify_destroy_group), which is about
//! 15 ms, more than everything else a short command takes. So it is made only after the first second, and the look that
//! follows finds what has changed until then.

use super::ready::Ready;
use crate::config::Resolvers;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Where the C library looks.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How often the file is looked at without inotify, and when inotify begins.
const POLL: Duration = Duration::from_secs(1);

/// Reads the resolvers of the host.
pub fn read() -> Resolvers {
    let text = fs::read(RESOLV_CONF).unwrap_or_default();
    let scope = |name: &str| nix::net::if_::if_nametoindex(name).ok();
    Resolvers::parse(&String::from_utf8_lossy(&text), scope)
}

/// Which file it is and when it was written: cheap to compare.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    place: PathBuf,
    device: u64,
    inode: u64,
    modified: (i64, i64),
    size: u64,
}

impl Version {
    fn now() -> Option<Self> {
        let place = fs::canonicalize(RESOLV_CONF).ok()?;
        let m = fs::metadata(&place).ok()?;
        Some(Self {
            place,
            device: m.dev(),
            inode: m.ino(),
            modified: (m.mtime(), m.mtime_nsec()),
            size: m.len(),
        })
    }
}

/// Waits for the file to change.
#[derive(Debug)]
pub struct Watch {
    inotify: Option<(Inotify, Ready)>,
    /// Inotify was asked for, with success or not.
    begun: bool,
    version: Option<Version>,
    /// When to look next if nothing tells us to. A time and not a span, for waiting is cancelled by every other event.
    look_at: Instant,
}

impl Watch {
    /// Watches from now on. Needs the runtime.
    pub fn new() -> Self {
        Self { inotify: None, begun: false, version: Version::now(), look_at: Instant::now() + POLL }
    }

    /// Asks for inotify. Needs the runtime.
    fn begin(&mut self) {
        self.begun = true;
        self.inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
            .map_err(std::io::Error::from)
            .and_then(|inotify| Ready::new(&inotify).map(|ready| (inotify, ready)))
            .inspect_err(|e| tracing::debug!("resolv.conf is looked at once a second: {e}"))
            .ok();
        self.arm();
    }

    /// (Re)watches the directories. Watching one twice is one watch.
    fn arm(&self) {
        let Some((inotify, _)) = &self.inotify else { return };
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_ONLYDIR;
        let resolved = self.version.as_ref().map(|v| v.place.as_path());
        for dir in [Some(Path::new(RESOLV_CONF)), resolved].into_iter().flatten().filter_map(Path::parent) {
            let _ = inotify.add_watch(dir, flags);
        }
        // A file that is mounted over the name, as in a container, is written to in a directory that we cannot see.
        let flags = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_ATTRIB | AddWatchFlags::IN_MOVE_SELF;
        let _ = inotify.add_watch(RESOLV_CONF, flags);
    }

    /// Returns the resolvers of the file when it has changed (or been replaced by an equal one). Safe to cancel.
    pub async fn changed(&mut self) -> Resolvers {
        loop {
            match &self.inotify {
                Some((inotify, ready)) => match ready.wait().await {
                    Ok(mut guard) => {
                        while inotify.read_events().is_ok() {}
                        guard.clear_ready();
                    }
                    Err(_) => self.inotify = None,
                },
                None => {
                    sleep_until(self.look_at).await;
                    self.look_at = Instant::now() + POLL;
                    if !self.begun {
                        self.begin();
                    }
                }
            }
            let now = Version::now();
            // Between removal and replacement there is no file; its successor will be an event too.
            if now.is_some() && now != self.version {
                self.version = now;
                self.arm();
                return read();
            }
        }
    }
}

impl Default for Watch {
    fn default() -> Self {
        Self::new()
    }
}
