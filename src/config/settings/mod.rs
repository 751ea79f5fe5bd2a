//! Settings: what holds for every start unless a flag says otherwise.
//!
//! A setting has a key (`policy.deny`), by which it stands in `config.toml`, a variable (`RINGTAP_POLICY_DENY`) and, for `run`
//! and `attach`, a flag (`--deny`); [`catalogue`] lists them all. The value comes from the first of flag, environment, file
//! and default that has one, whole: lists are not joined. Everything here works on texts that were read elsewhere. A value
//! that is kept has been checked, and knows where it came from.

pub mod catalogue;
mod file;

pub use catalogue::{CATALOGUE, Caller, Kind, Setting};

use std::fmt;
use std::path::{Path, PathBuf};

/// What the variables of settings begin with.
pub const PREFIX: &str = "RINGTAP_";

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A flag of the command line, as typed.
    Flag(String),
    /// A variable of the environment.
    Env(String),
    /// A line of the file, from 1.
    File {
        /// The file.
        path: PathBuf,
        /// The line that the value begins on.
        line: usize,
    },
    /// Nobody has said anything.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "flag {flag}"),
            Self::Env(name) => write!(f, "env {name}"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A setting that cannot hold. The text is one line: where it is, what is wrong, what to write instead.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{place}: {cause}")]
pub struct SettingsError {
    /// File and line, or a variable.
    pub place: String,
    /// What is wrong, and the remedy.
    pub cause: String,
}

/// The value of one setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// Whose.
    pub setting: &'static Setting,
    /// One text, or those of a list.
    pub texts: Vec<String>,
    /// Where it came from.
    pub origin: Origin,
}

/// The values of all settings that one caller has, in the order of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Each setting once.
    values: Vec<Value>,
}

impl Settings {
    /// The defaults.
    pub fn new(caller: Caller) -> Self {
        let values = CATALOGUE.iter().filter_map(|setting| {
            let texts = (setting.default)(caller)?;
            Some(Value { setting, texts, origin: Origin::Default })
        });
        Self { values: values.collect() }
    }

    /// Takes over what a file says.
    ///
    /// # Errors
    /// [`SettingsError`] with the line.
    pub fn take_file(&mut self, path: &Path, text: &str) -> Result<(), SettingsError> {
        for (setting, texts, line) in file::parse(path, text)? {
            self.put(setting, texts, Origin::File { path: path.to_owned(), line });
        }
        Ok(())
    }

    /// Takes over what the environment says. Lists have commas between their texts; an empty variable is an empty list, and for
    /// what is no list as good as none.
    ///
    /// # Errors
    /// [`SettingsError`] with the variable, also for one that is misspelt.
    pub fn take_env(&mut self, vars: impl Iterator<Item = (String, String)>) -> Result<(), SettingsError> {
        for (name, text) in vars.filter(|(name, _)| name.starts_with(PREFIX)) {
            let failed = |cause| SettingsError { place: name.clone(), cause };
            let Some(setting) = CATALOGUE.iter().find(|setting| setting.variable() == name) else {
                match catalogue::stray_variable(&name) {
                    Some(cause) => return Err(failed(cause)),
                    None => continue,
                }
            };
            let texts: Vec<String> = match setting.kind {
                Kind::List => {
                    text.split(',').map(str::trim).filter(|t| !t.is_empty()).map(str::to_owned).collect()
                }
                _ if text.trim().is_empty() => continue,
                _ => vec![text.trim().to_owned()],
            };
            let texts = setting.check(texts).map_err(failed)?;
            self.put(setting, texts, Origin::Env(name));
        }
        Ok(())
    }

    /// Takes over what a flag says that the caller has checked. What this caller does not have is left out.
    pub fn take_flag(&mut self, key: &str, flag: &str, texts: Vec<String>) {
        if let Some(value) = self.values.iter_mut().find(|value| value.setting.key == key) {
            (value.texts, value.origin) = (texts, Origin::Flag(flag.to_owned()));
        }
    }

    fn put(&mut self, setting: &Setting, texts: Vec<String>, origin: Origin) {
        if let Some(value) = self.values.iter_mut().find(|value| value.setting.key == setting.key) {
            (value.texts, value.origin) = (texts, origin);
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Value> {
        self.values.iter()
    }

    /// One of them; `None` for one that this caller does not have.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.iter().find(|value| value.setting.key == key)
    }

    /// The texts of a list; none for what this caller does not have.
    pub fn texts(&self, key: &str) -> &[String] {
        self.get(key).map_or(&[], |value| &value.texts)
    }

    /// The text of what is no list.
    pub fn text(&self, key: &str) -> &str {
        self.texts(key).first().map_or("", String::as_str)
    }

    /// Whether what is on or off is on.
    pub fn on(&self, key: &str) -> bool {
        self.text(key) == "true"
    }

    /// Names the place that a value came from, for an error that was found when it was used: `FILE:LINE: KEY`, or the
    /// variable. `None` if it came from a flag or is the default.
    pub fn place(&self, key: &str) -> Option<String> {
        match &self.get(key)?.origin {
            Origin::Flag(_) | Origin::Default => None,
            Origin::Env(name) => Some(name.clone()),
            origin @ Origin::File { .. } => Some(format!("{origin}: {key}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars(all: &[(&str, &str)]) -> Vec<(String, String)> {
        all.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    fn settings(file: &str, env: &[(&str, &str)]) -> Result<Settings, String> {
        let mut settings = Settings::new(Caller::Run);
        settings.take_file(Path::new("/c.toml"), file).map_err(|e| e.to_string())?;
        settings.take_env(vars(env).into_iter()).map_err(|e| e.to_string())?;
        Ok(settings)
    }

    #[test]
    fn flag_beats_environment_beats_file_beats_default() {
        let file = "[policy]\nallow = [\"192.0.2.1\"]\ndeny = [\"192.0.2.0/24\", \"[2001:db8::/32]:80\"]\n";
        let mut s = settings(file, &[("RINGTAP_POLICY_DENY", "198.51.100.0/24, all:25")]).unwrap();
        let origin = |s: &Settings, key: &str| s.get(key).unwrap().origin.to_string();
        assert_eq!(s.texts("policy.deny"), ["198.51.100.0/24", "all:25"]);
        assert_eq!(origin(&s, "policy.deny"), "env RINGTAP_POLICY_DENY");
        assert_eq!((s.texts("policy.allow").len(), origin(&s, "policy.allow").as_str()), (1, "/c.toml:2"));
        assert_eq!((s.text("sandbox"), origin(&s, "sandbox").as_str()), ("on", "default"));
        s.take_flag("policy.deny", "--deny", vec!["all".to_owned()]);
        assert_eq!((s.text("policy.deny"), origin(&s, "policy.deny").as_str()), ("all", "flag --deny"));
        assert_eq!(s.place("policy.deny"), None);
        assert_eq!(s.place("policy.allow").unwrap(), "/c.toml:2: policy.allow");
    }

    #[test]
    fn an_empty_variable_is_an_empty_list_and_otherwise_none() {
        let file = "sandbox = \"require\"\n[policy]\ndeny = [\"all\"]";
        let s = settings(file, &[("RINGTAP_POLICY_DENY", ""), ("RINGTAP_SANDBOX", "")]).unwrap();
        assert!(s.texts("policy.deny").is_empty());
        assert_eq!(s.text("sandbox"), "require");
    }

    #[test]
    fn variables_are_checked_and_misspelt_ones_told() {
        for (name, text, words) in [
            ("RINGTAP_POLICY_DENY", "10.0.0.1/8", "RINGTAP_POLICY_DENY: 10.0.0.1/8 is not a network address"),
            ("RINGTAP_SANDBOX", "yes", "RINGTAP_SANDBOX: \"yes\" is none of on, off, require"),
            ("RINGTAP_POLICY_HOST_LOOPBACK", "maybe", "RINGTAP_POLICY_HOST_LOOPBACK: \"maybe\" is neither"),
            (
                "RINGTAP_POLICY_DENIES",
                "all",
                "RINGTAP_POLICY_DENIES: no such setting; did you mean RINGTAP_POLICY_DENY?",
            ),
            ("RINGTAP_DENY", "all", "RINGTAP_DENY: no such setting; did you mean RINGTAP_POLICY_DENY?"),
            ("RINGTAP_POLICY_X", "all", "RINGTAP_POLICY_X: no such setting; `ringtap config` lists them"),
        ] {
            let said = settings("", &[(name, text)]).unwrap_err();
            assert!(said.starts_with(words) && !said.contains('\n'), "{said}");
        }
        // Variables of others' are theirs.
        for name in ["RINGTAP_TEST_FULL", "RINGTAP_PROGRAM", "RINGTAP_CONFIG", "RINGTAPX_POLICY_DENY"] {
            assert!(settings("", &[(name, "x")]).is_ok(), "{name}");
        }
    }

    #[test]
    fn what_a_caller_does_not_have_is_checked_all_the_same() {
        let mut s = Settings::new(Caller::Slirp4netns);
        let text = "[publish]\nsource-ip = \"gateway\"";
        s.take_file(Path::new("/c.toml"), text).unwrap();
        assert!(s.take_file(Path::new("/c.toml"), "[publish]\nsource-ip = \"x\"").is_err());
    }
}
