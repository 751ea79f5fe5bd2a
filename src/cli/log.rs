//! The log: one line per event on standard error, `ringtap: warning: ...`, as shell tools write it, or one JSON object.
//!
//! Each process writes its own lines, and a line is one write, so lines of several processes do not mix. What is written
//! is said by level and by part ([`LogFilter`]); what one place in the program has to say is written a few times a second at
//! most ([`pace`]), for much of it is caused by traffic.

mod line;
mod pace;

use crate::control::Level;
use clap::builder::{PossibleValue, TypedValueParser};
use std::str::FromStr;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Levels, as they are written.
const LEVELS: [(&str, Level, &str); 5] = [
    ("error", Level::Error, "What does not work"),
    ("warn", Level::Warn, "What works less well than it could"),
    ("info", Level::Info, "Life cycle"),
    ("debug", Level::Debug, "For developers"),
    ("trace", Level::Trace, "Everything"),
];
/// Parts that have something to say.
const PARTS: [&str; 10] =
    ["bench", "cli", "control", "netns", "plane", "relay", "ring", "sandbox", "stack", "tap"];

/// What is written: the value of `--log-level`, as in `warn,plane=debug`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter {
    level: Level,
    parts: Vec<(String, Level)>,
}

impl LogFilter {
    /// The level of parts that are not named.
    pub const fn level(&self) -> Level {
        self.level
    }

    fn targets(&self) -> Targets {
        let parts = self.parts.iter().map(|(part, level)| (format!("ringtap::{part}"), level.to_tracing()));
        Targets::new().with_default(self.level.to_tracing()).with_targets(parts)
    }
}

impl From<Level> for LogFilter {
    fn from(level: Level) -> Self {
        Self { level, parts: Vec::new() }
    }
}

impl FromStr for LogFilter {
    type Err = String;

    /// A level, parts with theirs (`plane=debug`, `stack::tcp=trace`), or both, with commas between them. Without a level
    /// by itself it is `warn`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut filter = Self::from(Level::Warn);
        for (at, word) in text.split(',').enumerate() {
            match word.split_once('=') {
                None if at == 0 || filter.parts.len() == at => filter.level = level(word)?,
                None => return Err(format!("{word:?} is a second level; name a part, as in plane={word}")),
                Some((part, of)) => {
                    let first = part.split("::").next().unwrap_or_default();
                    if !PARTS.contains(&first) {
                        return Err(format!(
                            "{part:?} is no part of ringtap; these are: {}",
                            PARTS.join(", ")
                        ));
                    }
                    filter.parts.push((part.to_owned(), level(of)?));
                }
            }
        }
        Ok(filter)
    }
}

fn level(word: &str) -> Result<Level, String> {
    let names = || LEVELS.map(|(name, ..)| name).join(", ");
    let found = LEVELS.iter().find(|(name, ..)| *name == word).map(|(_, level, _)| *level);
    found.ok_or_else(|| {
        format!("{word:?} is none of {}, nor a part and one of them, as in plane=debug", names())
    })
}

/// Reads [`LogFilter`], and lists the levels for the help and for completions.
#[derive(Clone, Copy, Debug)]
pub struct FilterParser;

impl TypedValueParser for FilterParser {
    type Value = LogFilter;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<LogFilter, clap::Error> {
        let parse: fn(&str) -> Result<LogFilter, String> = str::parse;
        parse.parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(LEVELS.iter().map(|(name, _, help)| PossibleValue::new(*name).help(*help))))
    }
}

/// The values of `--log-format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// A line for people
    #[default]
    Text,
    /// A JSON object a line, with the time and the part
    Json,
}

/// Starts the log of this process and of those it forks.
pub fn start(filter: impl Into<LogFilter>, format: LogFormat) {
    let layer = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .event_format(line::Line::new(format))
        .with_filter(filter.into().targets());
    // It fails only if a log was started before, which then serves as well.
    let _ = tracing_subscriber::registry().with(layer).try_init();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<LogFilter, String> {
        text.parse()
    }

    #[test]
    fn a_level_holds_for_all_parts_but_those_that_have_their_own() {
        assert_eq!(parse("debug").unwrap(), Level::Debug.into());
        let mixed = parse("info,plane=debug,stack::tcp=trace").unwrap();
        assert_eq!(mixed.level(), Level::Info);
        let targets = mixed.targets();
        for (target, level, written) in [
            ("ringtap::control::run", tracing::Level::INFO, true),
            ("ringtap::control::run", tracing::Level::DEBUG, false),
            ("ringtap::plane::frames", tracing::Level::DEBUG, true),
            ("ringtap::plane", tracing::Level::TRACE, false),
            ("ringtap::stack::tcp::conn", tracing::Level::TRACE, true),
            ("ringtap::stack::udp", tracing::Level::DEBUG, false),
        ] {
            assert_eq!(targets.would_enable(target, &level), written, "{target} {level}");
        }
        assert_eq!(parse("plane=debug").unwrap().level(), Level::Warn);
        assert_eq!(parse("plane=debug,error").unwrap().level(), Level::Error);
    }

    #[test]
    fn what_is_no_level_and_no_part_says_what_is() {
        assert!(parse("loud").unwrap_err().contains("error, warn, info"));
        assert!(parse("").unwrap_err().contains("plane=debug"));
        assert!(parse("info,debug").unwrap_err().contains("second level"));
        assert!(parse("plan=debug").unwrap_err().contains("plane"));
        assert!(parse("plane=").is_err() && parse("plane=7").is_err());
    }
}
