//! The state directory: where a running instance leaves what others need to find it.
//!
//! `$XDG_RUNTIME_DIR/ringtap/<pid>`, or `/tmp/ringtap-<uid>/<pid>` where there is no such directory of ours; or the one
//! the user names. It holds `lock` (flock(2), exclusive, for as long as the control process lives), `plane_pid`, `hosts`,
//! `resolv.conf`, and, once the ports given at start are bound, `child_pid` and then `api.sock`; where the network is detached
//! from COMMAND, `netns` as well. A shared lock on the directory itself tells systemd-tmpfiles(8) that it is not to age
//! away. It is removed at exit. What an instance that was killed left
//! behind has no lock any more, and the next start sweeps it; a lock on the parent directory keeps a sweep away from
//! directories that are just being made. The parent directory goes with the last instance. An instance whose directory the
//! user has named leaves a link to it there, `<pid>`, so that [`instances`] knows of all.

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Uid;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What RootlessKit and we write there.
const LEFT_BEHIND: [&str; 10] = [
    "child_pid",
    "plane_pid",
    "api.sock",
    "netns",
    "resolv.conf",
    "hosts",
    ".bp.sock",
    ".bp-ready.pipe",
    ".s4nn.sock",
    "vpnkit-ethernet.sock",
];

/// Why there is no state directory.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It could not be made or written.
    #[error(
        "state directory {path}: {source}; {}",
        crate::netns::remedy(.source, "set XDG_RUNTIME_DIR to a directory of yours, or name one (--state-dir)")
    )]
    Io {
        /// The path in question.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is another user's, or others may write to it.
    #[error("state directory {0} is not ours alone; remove it, or name another one (--state-dir)")]
    Foreign(String),
    /// Another instance holds it.
    #[error("state directory {0} is in use by another ringtap; end that one, or name another directory")]
    InUse(String),
}

/// A state directory that we hold. Dropping it removes it.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    lock: Flock<File>,
    /// The directory itself, locked for whoever cleans up.
    dir: Option<Flock<File>>,
    /// The directory that holds this one, if we made that too.
    base: Option<PathBuf>,
    /// Where others find a directory that the user named.
    link: Option<PathBuf>,
    written: Vec<&'static str>,
}

impl StateDir {
    /// Makes one of our own, after sweeping the parent directory; or takes the one that the user named.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn create(named: Option<&Path>) -> Result<Self, StateError> {
        let Some(path) = named else {
            loop {
                if let Some(state) = Self::create_in(&base()?)? {
                    return Ok(state);
                }
            }
        };
        let path = std::path::absolute(path).map_err(|e| io_error(path, e))?;
        make_ours(&path)?;
        let mut state =
            Self::take(path.clone())?.ok_or_else(|| StateError::InUse(path.display().to_string()))?;
        state.register();
        Ok(state)
    }

    /// Takes the directory that a caller of RootlessKit names. It is made with those above it if it is not there; if it is,
    /// nobody else may write to it from now on, and what an instance that was killed has left there is removed, whether
    /// that was ours or RootlessKit's own. What others keep there stays (RootlessKit would remove that too).
    ///
    /// # Errors
    /// [`StateError`].
    pub fn adopt(path: &Path) -> Result<Self, StateError> {
        let failed = |e| io_error(path, e);
        fs::create_dir_all(path).map_err(failed)?;
        let path = fs::canonicalize(path).map_err(failed)?;
        let found = fs::metadata(&path).map_err(failed)?;
        if found.uid() == Uid::effective().as_raw() && found.mode() & 0o022 != 0 {
            let mode = found.mode() & 0o7755;
            fs::set_permissions(&path, Permissions::from_mode(mode)).map_err(failed)?;
        }
        make_ours(&path)?;
        let mut state =
            Self::take(path.clone())?.ok_or_else(|| StateError::InUse(path.display().to_string()))?;
        for name in LEFT_BEHIND {
            remove_if_there(&path.join(name)).map_err(failed)?;
        }
        state.register();
        Ok(state)
    }

    /// Leaves a link for [`instances`]. Without it everything else works.
    fn register(&mut self) {
        let linked = base().and_then(|base| {
            loop {
                if let Some(link) = self.link_in(&base)? {
                    return Ok((base, link));
                }
                make_ours(&base)?;
            }
        });
        match linked {
            Ok((base, link)) => (self.base, self.link) = (Some(base), Some(link)),
            Err(e) => tracing::debug!("this instance is not listed: {e}"),
        }
    }

    /// The link, made; `None` if another instance has removed `base` meanwhile.
    fn link_in(&self, base: &Path) -> Result<Option<PathBuf>, StateError> {
        let Some(_lock) = lock(base)? else { return Ok(None) };
        sweep(base);
        let pid = std::process::id();
        let names = std::iter::once(pid.to_string()).chain((1..).map(|n| format!("{pid}.{n}")));
        for link in names.map(|name| base.join(name)) {
            match std::os::unix::fs::symlink(&self.path, &link) {
                Ok(()) => return Ok(Some(link)),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(io_error(&link, e)),
            }
        }
        Ok(None)
    }

    /// Makes one in `base`; `None` if another instance has removed `base` meanwhile.
    fn create_in(base: &Path) -> Result<Option<Self>, StateError> {
        let Some(_lock) = lock(base)? else { return Ok(None) };
        sweep(base);
        // Two pid namespaces that share the directory may both have our pid.
        let pid = std::process::id();
        let mut name = pid.to_string();
        for attempt in 1.. {
            let path = base.join(&name);
            make_ours(&path)?;
            if let Some(mut state) = Self::take(path)? {
                state.base = Some(base.to_owned());
                return Ok(Some(state));
            }
            name = format!("{pid}.{attempt}");
        }
        Ok(None)
    }

    /// Locks a directory; `None` if another instance has it.
    fn take(path: PathBuf) -> Result<Option<Self>, StateError> {
        match Flock::lock(open_lock(&path)?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => {
                let dir = File::open(&path).ok();
                let dir = dir.and_then(|d| Flock::lock(d, FlockArg::LockSharedNonblock).ok());
                Ok(Some(Self { path, lock, dir, base: None, link: None, written: Vec::new() }))
            }
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, e)) => Err(io_error(&path, e.into())),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The locks, which are to be closed in every fork that outlives us.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(self.lock.as_fd()).chain(self.dir.as_ref().map(|d| d.as_fd()))
    }

    /// Makes an empty file to mount something on, of mode 0400. Returns its path.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn mount_point(&mut self, name: &'static str) -> Result<PathBuf, StateError> {
        let path = self.reserve(name)?;
        let made = OpenOptions::new().write(true).create_new(true).mode(0o400).open(&path);
        made.map_err(|e| io_error(&path, e))?;
        Ok(path)
    }

    /// Writes a file, in place if it exists: whoever has it mounted sees the new text. Returns its path.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn write(&mut self, name: &'static str, text: &str) -> Result<PathBuf, StateError> {
        let path = self.path.join(name);
        if !self.written.contains(&name) {
            self.written.push(name);
        }
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o644);
        let written = options.open(&path).and_then(|mut f| {
            // Every id of the guest reads what is mounted, whatever umask we were started with.
            f.set_permissions(Permissions::from_mode(0o644))?;
            f.write_all(text.as_bytes())
        });
        written.map_err(|e| io_error(&path, e))?;
        Ok(path)
    }

    /// Writes a file that is not mounted anywhere: whoever reads it meanwhile sees the old text or the new one.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn replace(&mut self, name: &'static str, text: &str) -> Result<(), StateError> {
        let (path, new) = (self.path.join(name), self.path.join("new"));
        if !self.written.contains(&name) {
            self.written.push(name);
        }
        fs::write(&new, text).and_then(|()| fs::rename(&new, &path)).map_err(|e| io_error(&path, e))
    }

    /// Writes a file that others wait for and nobody changes: it appears whole, and of mode 0444.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn announce(&mut self, name: &'static str, text: &str) -> Result<(), StateError> {
        let path = self.reserve(name)?;
        let new = self.path.join(format!(".{name}"));
        let written = remove_if_there(&new)
            .and_then(|()| OpenOptions::new().write(true).create_new(true).mode(0o444).open(&new))
            .and_then(|mut f| {
                f.set_permissions(Permissions::from_mode(0o444))?;
                f.write_all(text.as_bytes())
            })
            .and_then(|()| fs::rename(&new, &path));
        written.map_err(|e| {
            let _ = fs::remove_file(&new);
            io_error(&path, e)
        })
    }

    /// A path for something that we are about to make: what an earlier instance left there is removed now, and ours at
    /// the end.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn reserve(&mut self, name: &'static str) -> Result<PathBuf, StateError> {
        let path = self.path.join(name);
        if !self.written.contains(&name) {
            self.written.push(name);
        }
        remove_if_there(&path).map_err(|e| io_error(&path, e))?;
        Ok(path)
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        if let Some(link) = &self.link {
            let _ = fs::remove_file(link);
        }
        // Only what we wrote: a directory that the user named may hold other things.
        for name in &self.written {
            let _ = fs::remove_file(self.path.join(name));
        }
        let _ = fs::remove_file(self.path.join("lock"));
        let _ = fs::remove_dir(&self.path);
        // It goes with the last instance: the kernel refuses while it is not empty.
        if let Some(base) = &self.base {
            let _ = fs::remove_dir(base);
        }
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Locks the directory that holds state directories; `None` if it is gone.
fn lock(base: &Path) -> Result<Option<Flock<File>>, StateError> {
    let lock = match File::open(base) {
        Ok(dir) => Flock::lock(dir, FlockArg::LockExclusive).map_err(|(_, e)| io_error(base, e.into()))?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io_error(base, e)),
    };
    // What we have locked may have been removed before we had it, or be another directory of the name.
    let id = |m: fs::Metadata| (m.dev(), m.ino());
    let same = fs::metadata(base).map(id).ok() == lock.metadata().map(id).ok();
    Ok(same.then_some(lock))
}

/// An instance of this user, alive or not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Known {
    /// The process id that it has, or had.
    pub pid: String,
    /// Its state directory.
    pub dir: PathBuf,
}

impl Known {
    /// What people call it: the last part of its directory's path.
    pub fn name(&self) -> String {
        self.dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// This user's instances, dead ones among them.
pub fn instances() -> Vec<Known> {
    let Ok(base) = base() else { return Vec::new() };
    let of = |path: PathBuf| {
        let pid = path.file_name()?.to_string_lossy().split('.').next()?.to_owned();
        Some(Known { pid, dir: fs::canonicalize(path).ok().filter(|dir| dir.is_dir())? })
    };
    let entries = fs::read_dir(&base).into_iter().flatten().flatten();
    let mut found: Vec<Known> = entries.filter_map(|e| of(e.path())).collect();
    found.sort();
    // We may have made it just now; with instances in it the kernel refuses.
    let _ = fs::remove_dir(&base);
    found
}

fn io_error(path: &Path, source: io::Error) -> StateError {
    StateError::Io { path: path.display().to_string(), source }
}

/// The directory that holds the state directories of this user.
fn base() -> Result<PathBuf, StateError> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|p| p.is_absolute());
    // After su or sudo the variable may name another user's directory.
    if let Some(base) = runtime.map(|p| p.join("ringtap"))
        && make_ours(&base).is_ok()
    {
        return Ok(base);
    }
    let uid = Uid::effective();
    let base = PathBuf::from(format!("/tmp/ringtap-{uid}"));
    match make_ours(&base) {
        Ok(()) => return Ok(base),
        // Root of a user namespace shares /tmp, but not identity, with another root.
        Err(StateError::Foreign(_)) => {}
        Err(e) => return Err(e),
    }
    let namespace = fs::metadata("/proc/self/ns/user").map(|m| m.ino()).unwrap_or_default();
    let base = PathBuf::from(format!("/tmp/ringtap-{uid}-{namespace}"));
    make_ours(&base)?;
    Ok(base)
}

/// Makes a directory that only we can use, or checks that an existing one is such.
fn make_ours(path: &Path) -> Result<(), StateError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(io_error(path, e)),
    }
    let found = fs::symlink_metadata(path).map_err(|e| io_error(path, e))?;
    let ours = found.is_dir() && found.uid() == Uid::effective().as_raw() && found.mode() & 0o022 == 0;
    if !ours {
        return Err(StateError::Foreign(path.display().to_string()));
    }
    // A umask that takes from the owner would leave a directory that no later start can use either.
    if found.mode() & 0o700 != 0o700 {
        fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(|e| io_error(path, e))?;
    }
    Ok(())
}

fn open_lock(dir: &Path) -> Result<File, StateError> {
    let path = dir.join("lock");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let lock = options.open(&path).and_then(|f| f.set_permissions(Permissions::from_mode(0o600)).map(|()| f));
    lock.map_err(|e| io_error(&path, e))
}

/// Whether a link's process lives.
fn lives(name: &std::ffi::OsStr) -> bool {
    let pid = name.to_string_lossy().split('.').next().and_then(|pid| pid.parse().ok());
    pid.is_some_and(|pid| {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None) != Err(nix::errno::Errno::ESRCH)
    })
}

/// Removes the directories whose lock nobody holds.
fn sweep(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else { return };
    for entry in entries.flatten() {
        let dir = entry.path();
        match entry.file_type() {
            Ok(t) if t.is_dir() => {}
            // Its lock is not tried: who takes it for a start of its own would find it held.
            Ok(t) if t.is_symlink() => {
                if !dir.join("lock").exists() || !lives(&entry.file_name()) {
                    let _ = fs::remove_file(&dir);
                }
                continue;
            }
            _ => continue,
        }
        // Without a lock file its maker died before it had one.
        let free = match File::options().write(true).custom_flags(libc::O_NOFOLLOW).open(dir.join("lock")) {
            Ok(lock) => Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|_| ()),
            Err(_) => {
                let _ = fs::remove_dir_all(&dir);
                continue;
            }
        };
        if free.is_ok() {
            let _ = fs::remove_dir_all(&dir);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_an_owner_is_swept_and_a_live_one_is_not() {
        let base = tempfile::tempdir().unwrap();
        let mut live = StateDir::create_in(base.path()).unwrap().unwrap();
        live.write("child_pid", "1").unwrap();
        for stale in ["7", "8"] {
            fs::create_dir(base.path().join(stale)).unwrap();
        }
        fs::write(base.path().join("7/lock"), "").unwrap();
        let second = StateDir::create_in(base.path()).unwrap().unwrap();
        assert!(!base.path().join("7").exists() && !base.path().join("8").exists());
        assert!(live.path().join("child_pid").exists());
        assert_ne!(live.path(), second.path());
        let path = live.path().to_owned();
        drop(live);
        assert!(!path.exists());
    }

    #[test]
    fn a_named_directory_is_linked_to_for_as_long_as_it_is_held() {
        let base = tempfile::tempdir().unwrap();
        let named = base.path().join("named");
        fs::create_dir(&named).unwrap();
        let mut state = StateDir::take(named.clone()).unwrap().unwrap();
        let link = state.link_in(base.path()).unwrap().unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), named);
        // Another one of the same process.
        let second = state.link_in(base.path()).unwrap().unwrap();
        assert_eq!(second.file_name().unwrap().to_string_lossy(), format!("{}.1", std::process::id()));
        sweep(base.path());
        assert!(link.exists() && second.exists());
        state.link = Some(second.clone());
        drop(state);
        assert!(!second.is_symlink() && !named.exists());
        // What a killed one has left goes with the next start, and what it leads to does not.
        let elsewhere = tempfile::tempdir().unwrap();
        let precious = elsewhere.path().to_owned();
        fs::write(precious.join("lock"), "").unwrap();
        let dead = base.path().join("4194303");
        std::os::unix::fs::symlink(&precious, &dead).unwrap();
        sweep(base.path());
        assert!(!link.is_symlink() && !dead.is_symlink() && precious.join("lock").exists());
    }

    #[test]
    fn a_named_directory_keeps_what_is_not_ours() {
        let base = tempfile::tempdir().unwrap();
        let named = base.path().join("named");
        let mut state = StateDir::create(Some(&named)).unwrap();
        state.write("hosts", "x").unwrap();
        fs::write(named.join("precious"), "").unwrap();
        assert!(matches!(StateDir::create(Some(&named)), Err(StateError::InUse(_))));
        drop(state);
        assert!(named.join("precious").exists() && !named.join("hosts").exists());
    }

    #[test]
    fn what_others_wait_for_appears_whole_and_read_only_even_over_what_was_left() {
        let base = tempfile::tempdir().unwrap();
        let named = base.path().join("named");
        for pid in ["1", "23"] {
            let mut state = StateDir::create(Some(&named)).unwrap();
            state.announce("child_pid", pid).unwrap();
            assert_eq!(fs::read_to_string(named.join("child_pid")).unwrap(), pid);
            assert_eq!(fs::metadata(named.join("child_pid")).unwrap().mode() & 0o777, 0o444);
            let socket = state.reserve("api.sock").unwrap();
            fs::write(&socket, "").unwrap();
            // As if killed: nothing is removed.
            state.written.clear();
        }
        let mut state = StateDir::create(Some(&named)).unwrap();
        assert!(!state.reserve("api.sock").unwrap().exists());
        state.announce("child_pid", "4").unwrap();
        drop(state);
        assert!(!named.exists());
    }

    #[test]
    fn an_adopted_directory_is_made_tightened_and_freed_of_what_was_left_but_not_of_other_files() {
        let base = tempfile::tempdir().unwrap();
        let named = base.path().join("a/b");
        drop(StateDir::adopt(&named).unwrap());
        assert!(!named.exists() && base.path().join("a").exists());
        fs::create_dir(&named).unwrap();
        fs::set_permissions(&named, Permissions::from_mode(0o775)).unwrap();
        for name in ["child_pid", "netns", ".bp.sock", "precious"] {
            fs::write(named.join(name), "").unwrap();
        }
        let state = StateDir::adopt(&named).unwrap();
        let left: Vec<_> = fs::read_dir(&named).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.len() == 2 && left.contains(&"lock".into()) && left.contains(&"precious".into()));
        assert_eq!(fs::metadata(&named).unwrap().mode() & 0o777, 0o755);
        assert!(matches!(StateDir::adopt(&named), Err(StateError::InUse(_))));
        drop(state);
        assert!(named.join("precious").exists());
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let open = base.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        assert!(matches!(StateDir::create(Some(&open)), Err(StateError::Foreign(_))));
        std::os::unix::fs::symlink(&open, base.path().join("link")).unwrap();
        assert!(matches!(StateDir::create(Some(&base.path().join("link"))), Err(StateError::Foreign(_))));
    }
}
