//! `ringtap config`: which settings hold, and where each came from.
//!
//! The answer is a `config.toml` that would have the same effect, with the origins as comments. Arguments behind `--` are
//! taken for those of `run`, or of the persona, so that a caller's flags are seen to win where they do.

use super::persona::{Persona, rootlesskit, slirp4netns};
use super::{Cli, CliError, settings};
use crate::config::Settings;
use crate::config::settings::{Caller, Kind, Origin, Value};
use clap::{Args, CommandFactory};
use serde_json::json;
use std::ffi::OsString;
use std::fmt::Write as _;

/// Options of `config`.
#[derive(Debug, Args)]
#[command(override_usage = "ringtap config [OPTIONS] [-- FLAGS]")]
pub struct ConfigArgs {
    /// As JSON
    #[arg(long)]
    json: bool,
    /// For ringtap called by this name: slirp4netns or rootlesskit
    #[arg(long, value_enum, value_name = "NAME", hide_possible_values = true)]
    persona: Option<Persona>,
    /// Flags of `run`, or of the persona, to be taken into account
    #[arg(last = true, value_name = "FLAGS")]
    flags: Vec<OsString>,
}

impl ConfigArgs {
    /// Prints them.
    ///
    /// # Errors
    /// [`CliError`].
    pub fn run(self) -> Result<u8, CliError> {
        let (name, settings) = match self.persona {
            None => ("run", self.of_run()?),
            Some(persona) => (persona.name(), self.of_persona(persona)?),
        };
        if self.json {
            println!("{:#}", as_json(name, &settings));
        } else {
            print!("{}", as_toml(&settings));
        }
        Ok(0)
    }

    fn of_run(&self) -> Result<Settings, CliError> {
        let mut settings = settings::load(Caller::Run)?;
        // A command is asked for, and is as good as any that stands there already.
        let words = ["ringtap", "run"].map(OsString::from).into_iter();
        let words = words.chain(self.flags.iter().cloned()).chain(["true".into()]);
        let matches = Cli::command().try_get_matches_from(words).unwrap_or_else(|e| e.exit());
        if let Some(matches) = matches.subcommand_matches("run") {
            settings::take_flags(&mut settings, matches);
        }
        Ok(settings)
    }

    fn of_persona(&self, persona: Persona) -> Result<Settings, CliError> {
        let flags = self.flags.clone();
        match persona {
            Persona::Slirp4netns => slirp4netns::settings(flags),
            Persona::Rootlesskit => rootlesskit::settings(flags),
            other => Err(format!("{} has no settings; slirp4netns and rootlesskit have", other.name())),
        }
        .map_err(CliError::option("--persona"))
    }
}

/// A value as it stands in the file.
pub(super) fn shown(value: &Value) -> String {
    let quoted = |text: &String| serde_json::Value::from(text.as_str()).to_string();
    let texts: Vec<String> = value.texts.iter().map(quoted).collect();
    match value.setting.kind {
        Kind::List => format!("[{}]", texts.join(", ")),
        Kind::Choice(_) | Kind::Text => texts.concat(),
        Kind::Switch | Kind::Number(..) => value.texts.concat(),
    }
}

fn as_toml(settings: &Settings) -> String {
    let mut text = match settings::path() {
        Some(path) if path.exists() => {
            format!("# settings of {}, of the environment, and defaults\n", path.display())
        }
        Some(path) => format!("# there is no {}\n", path.display()),
        None => "# there is to be no file\n".to_owned(),
    };
    let lines: Vec<_> =
        settings.iter().map(|v| (format!("{} = {}", v.setting.key, shown(v)), &v.origin)).collect();
    let width = lines.iter().map(|(line, _)| line.chars().count()).max().unwrap_or(0).min(60);
    for (line, origin) in lines {
        let _ = writeln!(text, "{line:width$}  # {origin}");
    }
    text
}

fn as_json(caller: &str, settings: &Settings) -> serde_json::Value {
    let one = |value: &Value| {
        let text = value.texts.first().map_or("", String::as_str);
        let typed = match value.setting.kind {
            Kind::List => json!(value.texts),
            Kind::Switch => json!(text == "true"),
            Kind::Number(..) => json!(text.parse::<u64>().unwrap_or_default()),
            Kind::Choice(_) | Kind::Text => json!(text),
        };
        let from = match &value.origin {
            Origin::Flag(flag) => json!({ "kind": "flag", "flag": flag }),
            Origin::Env(name) => json!({ "kind": "env", "name": name }),
            Origin::File { path, line } => {
                json!({ "kind": "file", "path": path.display().to_string(), "line": line })
            }
            Origin::Default => json!({ "kind": "default" }),
        };
        json!({ "key": value.setting.key, "value": typed, "from": from })
    };
    let file =
        settings::path().map(|path| json!({ "path": path.display().to_string(), "exists": path.exists() }));
    json!({ "caller": caller, "file": file, "settings": settings.iter().map(one).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn what_is_printed_is_a_file_of_the_same_effect() {
        let mut given = Settings::new(Caller::Run);
        let text =
            "sandbox = \"off\"\n[policy]\ndeny = [\"10.0.0.0/8\", \"[fd00::/8]:80\"]\nhost-loopback = true\n";
        given.take_file(Path::new("/c.toml"), text).unwrap();
        let printed = as_toml(&given);
        let mut again = Settings::new(Caller::Run);
        again.take_file(Path::new("/c.toml"), &printed).unwrap();
        let texts = |s: &Settings| s.iter().map(|v| v.texts.clone()).collect::<Vec<_>>();
        assert_eq!(texts(&given), texts(&again), "{printed}");
        assert!(
            printed.lines().any(|l| l.starts_with("sandbox = \"off\"") && l.ends_with("  # /c.toml:1")),
            "{printed}"
        );
        assert!(printed.lines().any(|l| l.starts_with("log.level = \"warn\"") && l.ends_with("  # default")));
    }
}
