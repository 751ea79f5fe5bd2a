//! The settings there are. A new one is a row here, and a flag of `run` and `attach` of the same name.

use crate::config::{Exposed, Limits, Rule, limits, resolvers};

/// Who starts a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// `ringtap run` and `ringtap attach`.
    Run,
    /// ringtap called as slirp4netns.
    Slirp4netns,
    /// ringtap called as rootlesskit.
    RootlessKit,
}

/// What a value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// true or false.
    Switch,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A number within these bounds.
    Number(u64, u64),
    /// A text.
    Text,
    /// Texts.
    List,
}

/// A setting.
#[derive(Debug)]
pub struct Setting {
    /// Section and name, as in the file.
    pub key: &'static str,
    /// The flag of `run` and `attach`, without dashes.
    pub flag: &'static str,
    /// What its values look like.
    pub kind: Kind,
    /// What is wrong with a text of that kind.
    pub wrong: fn(&str) -> Option<String>,
    /// What holds if nobody says anything; `None` where the setting means nothing.
    pub default: fn(Caller) -> Option<Vec<String>>,
    /// One line.
    pub help: &'static str,
}

impl PartialEq for Setting {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Setting {}

/// All settings, in the order in which they are shown.
pub static CATALOGUE: &[Setting] = &[
    Setting {
        key: "policy.allow",
        flag: "allow",
        kind: Kind::List,
        wrong: |text| Rule::parse(text, false).err().map(|e| e.to_string()),
        default: none,
        help: "destinations that are open although a wider rule closes them",
    },
    Setting {
        key: "policy.deny",
        flag: "deny",
        kind: Kind::List,
        wrong: |text| Rule::parse(text, true).err().map(|e| e.to_string()),
        default: none,
        help: "destinations that are closed",
    },
    Setting {
        key: "policy.host-loopback",
        flag: "allow-host-loopback",
        kind: Kind::Switch,
        wrong: fine,
        // What slirp4netns does, and its callers close.
        default: |caller| one(if caller == Caller::Run { "false" } else { "true" }),
        help: "the gateway's address stands for the host's loopback",
    },
    Setting {
        key: "policy.expose-host",
        flag: "expose-host",
        kind: Kind::List,
        wrong: |text| text.parse::<Exposed>().err().map(|e| e.to_string()),
        default: none,
        help: "single ports of the host's loopback, at the gateway's address",
    },
    Setting {
        key: "publish.source-ip",
        flag: "source-ip",
        kind: Kind::Choice(&["preserve", "gateway"]),
        wrong: fine,
        default: |_| one("preserve"),
        help: "whom servers behind published ports see",
    },
    Setting {
        key: "network.outbound-addr",
        flag: "outbound-addr",
        kind: Kind::List,
        wrong: |text| text.is_empty().then(|| "give an address or an interface that has one".to_owned()),
        default: none,
        help: "source of outgoing traffic: addresses, or an interface that has some",
    },
    Setting {
        key: "network.dns",
        flag: "dns",
        kind: Kind::List,
        wrong: |text| resolvers::named(text).err(),
        default: none,
        help: "resolvers instead of the host's",
    },
    Setting {
        key: "limits.flows",
        flag: "max-flows",
        kind: SOME,
        wrong: fine,
        default: |_| one(&Limits::default().flows.to_string()),
        help: "flows that a guest may have open",
    },
    Setting {
        key: "limits.half-open",
        flag: "max-half-open",
        kind: SOME,
        wrong: fine,
        default: |_| one(&Limits::default().half_open.to_string()),
        help: "connections of a guest that may be under way to their servers",
    },
    Setting {
        key: "limits.new-flows",
        flag: "max-new-flows",
        kind: SOME,
        wrong: fine,
        default: |_| one(&Limits::default().new_flows.to_string()),
        help: "flows that a guest may open each second",
    },
    Setting {
        key: "limits.buffered",
        flag: "max-buffered",
        kind: Kind::Text,
        wrong: |text| limits::buffered(text).err(),
        default: |_| one("all"),
        help: "bytes of buffers that a guest's connections may fill, as in 16M, or all",
    },
    Setting {
        key: "sandbox",
        flag: "sandbox",
        kind: Kind::Choice(&["on", "off", "require"]),
        wrong: fine,
        default: |_| one("on"),
        help: "whether the process that parses packets is locked in",
    },
    Setting {
        key: "log.level",
        flag: "log-level",
        kind: Kind::Text,
        wrong: not_a_filter,
        default: |_| one("warn"),
        help: "least level of messages on standard error, also by part: warn,plane=debug",
    },
    Setting {
        key: "log.format",
        flag: "log-format",
        kind: Kind::Choice(&["text", "json"]),
        wrong: fine,
        default: |_| one("text"),
        help: "how these messages look",
    },
];

#[expect(clippy::unnecessary_wraps, reason = "the type of a column")]
fn none(_: Caller) -> Option<Vec<String>> {
    Some(Vec::new())
}

#[expect(clippy::unnecessary_wraps, reason = "the type of a column")]
fn one(text: &str) -> Option<Vec<String>> {
    Some(vec![text.to_owned()])
}

/// A number that may not be nothing.
const SOME: Kind = Kind::Number(1, u32::MAX as u64);

/// What is wrong with the levels of a log filter; which parts there are is known to who writes the log.
fn not_a_filter(text: &str) -> Option<String> {
    let levels = text.split(',').map(|word| word.rsplit_once('=').map_or(word, |(_, level)| level));
    levels.into_iter().find_map(|level| not_among(level, &["error", "warn", "info", "debug", "trace"]))
}

/// What is wrong with a text that is none of these words.
fn not_among(text: &str, words: &[&str]) -> Option<String> {
    let meant = || meant(text, words.iter().copied());
    (!words.contains(&text)).then(|| format!("{text:?} is none of {}{}", words.join(", "), meant()))
}

const fn fine(_: &str) -> Option<String> {
    None
}

impl Setting {
    /// The variable of the environment: the key in capitals, with underscores.
    pub fn variable(&self) -> String {
        super::PREFIX.to_owned() + &self.key.to_ascii_uppercase().replace(['.', '-'], "_")
    }

    /// Checks the texts of a value; those of a switch become `true` or `false`.
    ///
    /// # Errors
    /// What is wrong, and what to write instead.
    pub fn check(&self, texts: Vec<String>) -> Result<Vec<String>, String> {
        texts.into_iter().map(|text| self.check_one(text)).collect()
    }

    fn check_one(&self, text: String) -> Result<String, String> {
        match self.kind {
            Kind::Switch => {
                return match text.as_str() {
                    "true" | "1" | "yes" | "on" => Ok("true".to_owned()),
                    "false" | "0" | "no" | "off" => Ok("false".to_owned()),
                    _ => Err(format!("{text:?} is neither true nor false")),
                };
            }
            Kind::Choice(words) => return not_among(&text, words).map_or(Ok(text), Err),
            Kind::Number(least, most) if !text.parse().is_ok_and(|n| (least..=most).contains(&n)) => {
                return Err(format!("{text:?} is no number from {least} to {most}"));
            }
            _ => {}
        }
        (self.wrong)(&text).map_or(Ok(text), Err)
    }
}

/// `; did you mean X?` of the word nearest to `text`, if one is near.
fn meant<'a>(text: &str, words: impl Iterator<Item = &'a str>) -> String {
    nearest(text, words).map_or_else(String::new, |word| format!("; did you mean {word:?}?"))
}

/// The word that `text` is a misspelling of.
fn nearest<'a>(text: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let all = words.map(|word| (strsim::damerau_levenshtein(text, word), word));
    let (distance, word) = all.min_by_key(|(distance, _)| *distance)?;
    // A third of the letters may be wrong, and three at most.
    (distance <= (text.len() / 3).min(3)).then_some(word)
}

/// Name of a key without its section.
fn name(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

/// What is wrong with a key that is not in the catalogue.
pub(super) fn unknown_key(key: &str) -> String {
    let keys = || CATALOGUE.iter().map(|setting| setting.key);
    // The right name in a wrong section, and the name of the flag, are likelier than a few wrong letters.
    let same = CATALOGUE.iter().find(|s| name(s.key) == name(key) || s.flag == name(key)).map(|s| s.key);
    let near = || nearest(key, keys());
    // A name that is misspelt and in a wrong section.
    let by_name = || {
        let name_of = nearest(name(key), keys().map(name))?;
        keys().find(|k| name(k) == name_of)
    };
    match same.or_else(near).or_else(by_name) {
        Some(meant) => format!("{key} is no setting; did you mean {meant}?"),
        None => format!("{key} is no setting; `ringtap config` lists them"),
    }
}

/// What is wrong with a variable that is no setting's; `None` if it is none of our business.
pub(super) fn stray_variable(name: &str) -> Option<String> {
    let variables = || CATALOGUE.iter().map(Setting::variable);
    let rest = name.strip_prefix(super::PREFIX)?;
    let by_name = variables().find(|v| v.ends_with(&format!("_{rest}")));
    let all: Vec<String> = variables().collect();
    let near = || nearest(name, all.iter().map(String::as_str)).map(str::to_owned);
    if let Some(meant) = by_name.or_else(near) {
        return Some(format!("no such setting; did you mean {meant}?"));
    }
    let sections = || CATALOGUE.iter().filter_map(|s| s.key.split_once('.')).map(|(section, _)| section);
    let of_ours = |section: &str| {
        rest.strip_prefix(&section.to_ascii_uppercase()).is_some_and(|rest| rest.starts_with('_'))
    };
    let is_ours = sections().any(of_ours);
    is_ours.then(|| "no such setting; `ringtap config` lists them".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn keys_variables_and_flags_are_told_apart_and_defaults_are_values() {
        let columns: [fn(&Setting) -> String; 3] =
            [|s| s.key.to_owned(), Setting::variable, |s| s.flag.to_owned()];
        for column in columns {
            let distinct: BTreeSet<_> = CATALOGUE.iter().map(column).collect();
            assert_eq!(distinct.len(), CATALOGUE.len());
        }
        for setting in CATALOGUE {
            for caller in [Caller::Run, Caller::Slirp4netns, Caller::RootlessKit] {
                let Some(default) = (setting.default)(caller) else { continue };
                assert_eq!(setting.check(default.clone()), Ok(default), "{}", setting.key);
            }
        }
    }

    #[test]
    fn misspelt_keys_are_recognised() {
        for (key, meant) in [
            ("policy.denny", "policy.deny"),
            ("policy.host_loopback", "policy.host-loopback"),
            ("policy.allow-host-loopback", "policy.host-loopback"),
            ("network.deny", "policy.deny"),
            ("deny", "policy.deny"),
            ("log-level", "log.level"),
            ("polic.alow", "policy.allow"),
            ("ports.source-ips", "publish.source-ip"),
            ("sandbx", "sandbox"),
        ] {
            assert_eq!(unknown_key(key), format!("{key} is no setting; did you mean {meant}?"));
        }
        for key in ["policy.colour", "x", ""] {
            assert!(unknown_key(key).ends_with("lists them"), "{}", unknown_key(key));
        }
    }

    #[test]
    fn numbers_have_bounds() {
        let setting = Setting { kind: Kind::Number(1, 10), wrong: fine, ..setting_like(&CATALOGUE[0]) };
        assert!(setting.check(vec!["10".to_owned()]).is_ok());
        for bad in ["0", "11", "-1", "x", ""] {
            assert_eq!(
                setting.check(vec![bad.to_owned()]).unwrap_err(),
                format!("{bad:?} is no number from 1 to 10")
            );
        }
    }

    fn setting_like(s: &'static Setting) -> Setting {
        Setting { key: s.key, flag: s.flag, kind: s.kind, wrong: s.wrong, default: s.default, help: s.help }
    }
}
