//! Copy-up: a directory of the host made writable inside, without copying anything.
//!
//! A tmpfs covers the directory. The original is kept, mounts and all, at a hidden `.roNNNNNN` inside it, and every entry
//! becomes a relative symlink to the original; entries that are symlinks already are made again with the same target.
//! This is rootlesskit's `tmpfs+symlink` mode (`facts/rootlesskit.md`, 1.8), which Docker relies on for /etc and /run.
//! Limits: programs that refuse symlinks see them; changes are gone when the namespace is.

use super::mounts::{MountError, clone_tree, put_tree};
use nix::mount::{MsFlags, mount};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

/// Covers `dir`, an absolute path.
///
/// # Errors
/// [`MountError`] with the step's error.
pub fn copy_up(dir: &Path) -> Result<(), MountError> {
    try_copy_up(dir).map_err(|source| MountError {
        what: format!("a copy-up of {}", dir.display()),
        source,
        remedy: "give --copy-up an existing directory other than /, by its absolute path",
    })
}

fn try_copy_up(dir: &Path) -> io::Result<()> {
    let invalid = |text: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, text.to_owned()));
    if !dir.is_absolute() {
        return invalid("not an absolute path");
    }
    // Mounting on a symlink would follow it; the place it means is what everybody who opens the path sees.
    let dir = &fs::canonicalize(dir)?;
    let mode = fs::metadata(dir)?.mode() & 0o7777;
    if dir == Path::new("/") {
        return invalid("the root directory cannot be covered");
    }
    let original = clone_tree(dir)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), dir, Some("tmpfs"), flags, Some(format!("mode={mode:o}").as_str()))?;
    let hidden = hidden_dir(dir)?;
    put_tree(&original, &hidden)?;
    let name = hidden.file_name().unwrap_or_default();
    for entry in fs::read_dir(&hidden)? {
        let entry = entry?;
        let target = if entry.file_type()?.is_symlink() {
            fs::read_link(entry.path())?
        } else {
            Path::new(name).join(entry.file_name())
        };
        symlink(target, dir.join(entry.file_name()))?;
    }
    Ok(())
}

/// Makes `.roNNNNNN` in the empty tmpfs. The number only keeps nested copy-ups apart.
fn hidden_dir(dir: &Path) -> io::Result<PathBuf> {
    let number = getrandom::u32().map_err(io::Error::other)? % 1_000_000;
    let hidden = dir.join(format!(".ro{number:06}"));
    fs::DirBuilder::new().mode(0o755).create(&hidden)?;
    Ok(hidden)
}
