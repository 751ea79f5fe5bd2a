//! `ringtap install --prefix DIR --personas NAME,…`: links by which this program takes others' places.
//!
//! The links are in DIR/bin and lead to this program by its absolute path, so they follow an upgrade in place. What is there
//! already under a persona's name and is no link to a ringtap is somebody else's program and stays, unless `--force` is
//! given. Nothing is half done: all names are looked at before the first link is made, and each appears at once.

use super::CliError;
use super::persona::Persona;
use clap::Args;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Options of `install`.
#[derive(Debug, Args)]
pub struct InstallArgs {
    /// Where to: the links go to DIR/bin
    #[arg(long, value_name = "DIR")]
    prefix: PathBuf,
    /// Whose places to take, with commas between them
    #[arg(long, value_enum, value_delimiter = ',', required = true, value_name = "NAME")]
    personas: Vec<Persona>,
    /// Replace what is there under such a name
    #[arg(long)]
    force: bool,
}

impl InstallArgs {
    /// Makes the links and names each on standard output.
    ///
    /// # Errors
    /// [`CliError::Option`].
    pub fn run(self) -> Result<u8, CliError> {
        let program = std::env::current_exe().map_err(CliError::option("install"))?;
        let bin = self.prefix.join("bin");
        let failed = |e: io::Error| {
            CliError::option("--prefix")(format!(
                "{}: {e}; name a directory that you may write to",
                bin.display()
            ))
        };
        fs::create_dir_all(&bin).map_err(failed)?;
        let links: Vec<PathBuf> = self.personas.iter().map(|p| bin.join(p.name())).collect();
        if let Some(taken) = links.iter().find(|link| !self.force && is_somebody_elses(link, &program)) {
            let cause = format!(
                "{} is another program; remove it, choose another --prefix, or replace it with --force",
                taken.display()
            );
            return Err(CliError::Option { option: "--personas", cause });
        }
        for link in links {
            let new = link.with_extension("new");
            let _ = fs::remove_file(&new);
            symlink(&program, &new).and_then(|()| fs::rename(&new, &link)).map_err(failed)?;
            println!("{} -> {}", link.display(), program.display());
        }
        Ok(0)
    }
}

/// Whether something is there that is no link to a ringtap: to this one, or to one that was moved away.
fn is_somebody_elses(link: &Path, program: &Path) -> bool {
    let Ok(found) = fs::symlink_metadata(link) else { return false };
    let target = fs::read_link(link).unwrap_or_default();
    !found.is_symlink() || (target != program && target.file_name() != Some("ringtap".as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_ringtap_are_ours_and_programs_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let program = Path::new("/usr/local/bin/ringtap");
        symlink("/old/place/ringtap", at("ours")).unwrap();
        symlink("/usr/bin/slirp4netns", at("theirs")).unwrap();
        fs::write(at("program"), "").unwrap();
        assert!(!is_somebody_elses(&at("nothing"), program) && !is_somebody_elses(&at("ours"), program));
        assert!(is_somebody_elses(&at("theirs"), program) && is_somebody_elses(&at("program"), program));
    }
}
