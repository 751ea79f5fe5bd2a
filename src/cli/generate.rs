//! `ringtap generate man|completions|reference`: what follows from the definitions of the commands.
//!
//! Packages call it when they are built, so that none of it is written by hand or can be of another version.
//! docs/reference.md is the exception that is checked in, and a test says when it is not current.

use super::{Cli, CliError};
use clap::{Arg, Args, Command, CommandFactory, Subcommand};
use clap_complete::Shell;
use clap_mangen::Man;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Options of `generate`.
#[derive(Debug, Args)]
pub struct GenerateArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Man pages, one a command, into a directory
    Man {
        /// It is made if it is not there
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
    /// Completions of a shell, to standard output
    Completions {
        /// For which
        shell: Shell,
    },
    /// All commands and options as Markdown, to standard output
    Reference,
}

impl GenerateArgs {
    /// Writes it.
    ///
    /// # Errors
    /// [`CliError::Option`] if DIR cannot be written to.
    pub fn run(self) -> Result<u8, CliError> {
        match self.what {
            What::Man { dir } => {
                let failed =
                    |e: io::Error| format!("{}: {e}; name a directory that you may write to", dir.display());
                fs::create_dir_all(&dir).map_err(failed).map_err(CliError::option("DIR"))?;
                let mut command = whole();
                command.build();
                pages(&command, &dir).map_err(failed).map_err(CliError::option("DIR"))?;
            }
            What::Completions { shell } => {
                let mut text = Vec::new();
                clap_complete::generate(shell, &mut whole(), "ringtap", &mut text);
                print(&text);
            }
            What::Reference => print(reference().as_bytes()),
        }
        Ok(0)
    }
}

/// To standard output; that nobody reads it is no error.
fn print(bytes: &[u8]) {
    let _ = io::stdout().write_all(bytes);
}

/// The definitions of everything that is shown.
fn whole() -> Command {
    Cli::command().disable_help_subcommand(true)
}

/// A page for a command, and one for each below it: ringtap.1, ringtap-run.1, ringtap-port-add.1, ..
fn pages(command: &Command, dir: &Path) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let mut page = Vec::new();
    Man::new(command.clone()).title(name.to_uppercase()).render(&mut page)?;
    fs::write(dir.join(format!("{name}.1")), page)?;
    command.get_subcommands().filter(|c| !c.is_hide_set()).try_for_each(|below| pages(below, dir))
}

/// docs/reference.md.
fn reference() -> String {
    let mut command = whole();
    command.build();
    let mut text = String::from(
        "# Reference\n\nAll commands and options, made by `ringtap generate reference` from their definitions; do not edit.\n\
         The command lines of the personas are those of the programs whose place they take: [slirp4netns](slirp4netns.md),\n\
         [rootlesskit, rootlessctl, docker-proxy](rootlesskit.md).\n",
    );
    for verb in command.get_subcommands() {
        section(&mut text, verb);
    }
    text
}

fn section(text: &mut String, command: &Command) {
    if command.is_hide_set() {
        return;
    }
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).replace('-', " ");
    let _ = writeln!(text, "\n## {name}\n");
    if let Some(about) = command.get_long_about().or_else(|| command.get_about()) {
        let _ = writeln!(text, "{about}\n");
    }
    let usage = command.clone().render_usage().to_string();
    for line in usage.trim_start_matches("Usage: ").lines() {
        let _ = writeln!(text, "    {}", line.trim());
    }
    let shown: Vec<&Arg> = command.get_arguments().filter(|arg| shown(arg)).collect();
    if !shown.is_empty() {
        text.push_str("\n| | |\n|---|---|\n");
    }
    for arg in shown {
        let _ = writeln!(text, "| {} | {} |", spelling(arg), meaning(arg));
    }
    command.get_subcommands().for_each(|below| section(text, below));
}

fn shown(arg: &Arg) -> bool {
    !arg.is_hide_set() && !["help", "version"].contains(&arg.get_id().as_str())
}

/// `-p, --publish SPEC`, or `COMMAND` for what has no name.
fn spelling(arg: &Arg) -> String {
    let mut names: Vec<String> = Vec::new();
    names.extend(arg.get_short().map(|short| format!("-{short}")));
    names.extend(arg.get_long().map(|long| format!("--{long}")));
    let values: Vec<String> = match arg.get_value_names() {
        Some(values) if arg.get_action().takes_values() => values.iter().map(ToString::to_string).collect(),
        _ => Vec::new(),
    };
    let words = [names.join(", "), values.join(" ")];
    let text = words.iter().filter(|w| !w.is_empty()).cloned().collect::<Vec<_>>().join(" ");
    format!("`{}`", text.replace('|', "\\|"))
}

/// The help, on one line, with what is taken and what holds otherwise.
fn meaning(arg: &Arg) -> String {
    let help = arg.get_long_help().or_else(|| arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let mut text = help.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
    let possible = arg.get_possible_values();
    let choices: Vec<String> = possible
        .iter()
        .filter(|value| !value.is_hide_set())
        .map(|value| match value.get_help() {
            Some(help) => format!("`{}` ({help})", value.get_name()),
            None => format!("`{}`", value.get_name()),
        })
        .collect();
    if arg.get_action().takes_values() && !choices.is_empty() {
        let _ = write!(text, ": {}", choices.join(", "));
    }
    let defaults: Vec<String> =
        arg.get_default_values().iter().map(|value| format!("`{}`", value.to_string_lossy())).collect();
    if arg.get_action().takes_values() && !defaults.is_empty() {
        let _ = write!(text, " [default: {}]", defaults.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_is_current() {
        let checked_in = include_str!("../../docs/reference.md");
        let made = reference();
        let differs = made.lines().zip(checked_in.lines()).find(|(made, is)| made != is);
        assert!(
            made == checked_in,
            "docs/reference.md is not current ({differs:?}): cargo run -- generate reference > docs/reference.md"
        );
    }

    #[test]
    fn every_command_that_is_shown_has_a_page_and_says_what_it_does() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = whole();
        command.build();
        pages(&command, dir.path()).unwrap();
        let page = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert!(page("ringtap.1").contains("ringtap\\-run(1)"), "{}", page("ringtap.1"));
        assert!(page("ringtap-run.1").contains("\\-\\-copy\\-up"));
        assert!(page("ringtap-port-add.1").contains("SPEC"));
        assert!(!dir.path().join("ringtap-bench-load.1").exists());
        for verb in command.get_subcommands() {
            assert!(verb.get_about().is_some(), "{} says nothing", verb.get_name());
            let silent = verb.get_arguments().find(|a| shown(a) && a.get_help().is_none());
            assert!(verb.is_hide_set() || silent.is_none(), "{}: {silent:?}", verb.get_name());
        }
    }

    #[test]
    fn completions_know_the_commands_and_their_options() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut whole(), "ringtap", &mut text);
            let text = String::from_utf8(text).unwrap();
            assert!(text.contains("doctor") && text.contains("allow-host-loopback"), "{shell}");
        }
    }
}
