//! Where settings are read from, and how they become options.
//!
//! `$RINGTAP_CONFIG` names the file; empty, there is none. Otherwise it is `ringtap/config.toml` below `$XDG_CONFIG_HOME`, or
//! below `.config` in `$HOME`, or, where that is not set (a daemon), in the home directory of the user that we run as. A
//! file decides what a guest may reach, so one that somebody else could have written ends the start: it belongs to root or to
//! us, and neither it nor its directory can be written to by everybody. Files and variables are read once, at the start:
//! whoever can reach the API, or change the file afterwards, changes nothing of what runs.
//!
//! For `run` and `attach` a setting becomes the default of the flag of its name ([`apply`]), so a value goes through the
//! same checks wherever it comes from. Personas take theirs from [`Settings`] by themselves.

use super::CliError;
use crate::config::Settings;
use crate::config::settings::{CATALOGUE, Caller, Origin, SettingsError};
use clap::parser::ValueSource;
use clap::{ArgMatches, Command};
use nix::unistd::{Uid, User};
use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Names the file, or says that there is none.
pub const FILE_VARIABLE: &str = "RINGTAP_CONFIG";
/// Longest file: the rules of a guest fit in many times.
const LONGEST: u64 = 1 << 20;
/// The verbs that start a network.
pub const VERBS: [&str; 2] = ["run", "attach"];

/// Reads file and environment.
///
/// # Errors
/// [`SettingsError`].
pub fn load(caller: Caller) -> Result<Settings, SettingsError> {
    let mut settings = Settings::new(caller);
    if let Some((path, text)) = read()? {
        settings.take_file(&path, &text)?;
    }
    let vars = std::env::vars_os().filter_map(|(name, text)| {
        let name = name.into_string().ok()?;
        // What is no text is wrong for every setting, and is told with what it looks like.
        Some((name, text.to_string_lossy().into_owned()))
    });
    settings.take_env(vars)?;
    Ok(settings)
}

/// The file that [`load`] would read, whether it is there or not; `None` if there is to be none.
pub fn path() -> Option<PathBuf> {
    place(|name| std::env::var_os(name), home).map(|(path, _)| path)
}

/// The file, and whether somebody has named it, so that it must be there.
fn place(
    var: impl Fn(&str) -> Option<OsString>,
    home: impl Fn() -> Option<PathBuf>,
) -> Option<(PathBuf, bool)> {
    if let Some(named) = var(FILE_VARIABLE) {
        return (!named.is_empty()).then(|| (named.into(), true));
    }
    // The XDG base directory specification: what is not absolute is as good as not set.
    let absolute = |name| var(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CONFIG_HOME");
    let base = base.or_else(|| Some(absolute("HOME").or_else(&home)?.join(".config")));
    base.map(|base| (base.join("ringtap/config.toml"), false))
}

fn home() -> Option<PathBuf> {
    User::from_uid(Uid::effective()).ok()?.map(|user| user.dir)
}

/// The file and its text, if there is one.
fn read() -> Result<Option<(PathBuf, String)>, SettingsError> {
    let Some((path, named)) = place(|name| std::env::var_os(name), home) else { return Ok(None) };
    // A home directory that is closed to us is somebody else's, and no file there is meant for us.
    let there = std::fs::metadata(&path);
    let absent =
        |kind| matches!(kind, ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::PermissionDenied);
    if !named && there.is_err_and(|e| absent(e.kind())) {
        return Ok(None);
    }
    let fail = |cause: String| SettingsError { place: path.display().to_string(), cause };
    let remedy = format!("mend it, or leave it out by {FILE_VARIABLE}= (empty)");
    // A pipe would keep us waiting otherwise.
    let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(&path);
    let file = file.map_err(|e| fail(format!("{e}; {remedy}")))?;
    let found = file.metadata().map_err(|e| fail(e.to_string()))?;
    let directory = path
        .parent()
        .and_then(|dir| std::fs::metadata(if dir == Path::new("") { Path::new(".") } else { dir }).ok());
    trusted(&found, directory.as_ref(), Uid::effective().as_raw()).map_err(fail)?;
    let mut text = String::new();
    let read = File::take(file, LONGEST + 1)
        .read_to_string(&mut text)
        .map_err(|e| fail(format!("{e}; {remedy}")))?;
    if read as u64 > LONGEST {
        return Err(fail(format!("longer than {LONGEST} bytes; {remedy}")));
    }
    Ok(Some((path, text)))
}

/// Whether nobody but root and `us` can have written what the file says.
fn trusted(file: &Metadata, directory: Option<&Metadata>, us: u32) -> Result<(), String> {
    if !file.is_file() {
        return Err(format!("this is no file; mend it, or leave it out by {FILE_VARIABLE}= (empty)"));
    }
    let owner = file.uid();
    if owner != us && owner != 0 {
        return Err(format!(
            "it belongs to user {owner}, who could change what our guests may reach; chown it to user {us} or root, or name \
             another file by {FILE_VARIABLE}"
        ));
    }
    if file.mode() & 0o002 != 0 {
        return Err(
            "everybody may write to it, and so change what our guests may reach; chmod o-w".to_owned()
        );
    }
    // With the sticky bit nobody can put another file in its place.
    if directory.is_some_and(|dir| dir.mode() & 0o1002 == 0o002) {
        return Err(
            "everybody may write to its directory, and so put another in its place; chmod o-w the directory"
                .to_owned(),
        );
    }
    Ok(())
}

/// The command line with the settings as defaults of `run` and `attach`.
pub fn apply(settings: &Settings, mut command: Command) -> Command {
    for value in settings.iter().filter(|value| value.origin != Origin::Default) {
        for verb in VERBS {
            command = command.mut_subcommand(verb, |verb| {
                verb.mut_arg(id(value.setting.flag), |arg| arg.default_values(value.texts.clone()))
            });
        }
    }
    command
}

/// What the flags of `run` or `attach` say.
pub fn take_flags(settings: &mut Settings, matches: &ArgMatches) {
    for setting in CATALOGUE {
        let id = id(setting.flag);
        if matches.value_source(&id) == Some(ValueSource::CommandLine) {
            let raw = matches.get_raw(&id).into_iter().flatten();
            let texts = raw.map(|text| text.to_string_lossy().into_owned()).collect();
            settings.take_flag(setting.key, &format!("--{}", setting.flag), texts);
        }
    }
}

/// clap's name for an option: that of the field.
fn id(flag: &str) -> String {
    flag.replace('-', "_")
}

/// An error about an option that nobody has typed is one about the setting behind it.
pub fn blame(settings: &Settings, matches: &ArgMatches, error: CliError) -> CliError {
    let CliError::Option { option, cause } = error else { return error };
    let setting = CATALOGUE.iter().find(|s| option.strip_prefix("--") == Some(s.flag));
    let typed = |flag| matches.value_source(&id(flag)) == Some(ValueSource::CommandLine);
    let place = setting.filter(|s| !typed(s.flag)).and_then(|s| settings.place(s.key));
    match place {
        Some(place) => CliError::Settings(SettingsError { place, cause }),
        None => CliError::Option { option, cause },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_file_is_where_the_environment_says() {
        let at = |vars: &[(&str, &str)]| {
            let var =
                |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, text)| OsString::from(text));
            place(var, || Some("/home/of-passwd".into()))
                .map(|(path, named)| (path.display().to_string(), named))
        };
        let some = |path: &str, named| Some((path.to_owned(), named));
        assert_eq!(at(&[("RINGTAP_CONFIG", "/a"), ("HOME", "/h")]), some("/a", true));
        assert_eq!(at(&[("RINGTAP_CONFIG", ""), ("HOME", "/h")]), None);
        assert_eq!(at(&[("XDG_CONFIG_HOME", "/x"), ("HOME", "/h")]), some("/x/ringtap/config.toml", false));
        for vars in [&[("HOME", "/h"), ("XDG_CONFIG_HOME", "")], &[("HOME", "/h"), ("XDG_CONFIG_HOME", "x")]]
        {
            assert_eq!(at(vars), some("/h/.config/ringtap/config.toml", false));
        }
        for vars in [&[][..], &[("HOME", "")], &[("HOME", "relative")]] {
            assert_eq!(at(vars), some("/home/of-passwd/.config/ringtap/config.toml", false));
        }
    }

    #[test]
    fn what_others_could_have_written_is_not_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        fs::write(&path, "").unwrap();
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let ask = |us| trusted(&fs::metadata(&path).unwrap(), fs::metadata(dir.path()).ok().as_ref(), us);
        let us = Uid::effective().as_raw();
        mode(&path, 0o644);
        assert_eq!(ask(us), Ok(()));
        // A file of ours is no file for somebody else, unless we are root.
        assert_eq!(ask(us + 1).is_ok(), us == 0);
        mode(&path, 0o666);
        assert!(ask(us).unwrap_err().contains("chmod o-w"));
        mode(&path, 0o644);
        mode(dir.path(), 0o777);
        assert!(ask(us).unwrap_err().contains("the directory"));
        mode(dir.path(), 0o1777);
        assert_eq!(ask(us), Ok(()));
        let no_file = trusted(&fs::metadata(dir.path()).unwrap(), None, us).unwrap_err();
        assert!(no_file.starts_with("this is no file"));
    }
}
