//! Command lines as RootlessKit's programs read them (Go's flag package, as urfave/cli 2 uses it).
//!
//! Options come first and end at the first word that is none, or at `--`. One dash is as good as two, a value follows as
//! the next word or behind `=`, what is on or off takes `=true` and `=false` in Go's spellings, the last one given counts,
//! and a list takes several values at once with commas between them. The texts of errors are Go's.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// What an option takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Nothing: it is on or off.
    Nothing,
    /// A value; what is said of it in the help (`value`, or its default).
    Value(&'static str),
    /// Values, and may be given again.
    List(&'static str),
}

/// An option.
#[derive(Debug)]
pub struct Flag {
    /// With words of more than one letter.
    pub name: &'static str,
    /// A single letter that means the same.
    pub short: Option<&'static str>,
    /// What it takes.
    pub takes: Takes,
    /// One line.
    pub help: &'static str,
}

impl Flag {
    /// That is on or off.
    pub const fn switch(name: &'static str, help: &'static str) -> Self {
        Self { name, short: None, takes: Takes::Nothing, help }
    }

    /// With a value; `shown` is its default in the help.
    pub const fn value(name: &'static str, shown: &'static str, help: &'static str) -> Self {
        Self { name, short: None, takes: Takes::Value(shown), help }
    }

    /// With values.
    pub const fn list(name: &'static str, shown: &'static str, help: &'static str) -> Self {
        Self { name, short: None, takes: Takes::List(shown), help }
    }

    /// With a letter that means the same.
    pub const fn or(self, short: &'static str) -> Self {
        Self { short: Some(short), ..self }
    }

    fn is(&self, name: &OsStr) -> bool {
        name == self.name || self.short.is_some_and(|short| name == short)
    }
}

/// What was given.
#[derive(Clone, Debug, Default)]
pub struct Parsed {
    given: Vec<(&'static str, OsString)>,
    /// What follows the options.
    pub rest: Vec<OsString>,
}

impl Parsed {
    /// Of the words behind the program's name.
    ///
    /// # Errors
    /// Go's text.
    pub fn of(flags: &'static [Flag], words: Vec<OsString>) -> Result<Self, String> {
        let mut parsed = Self::default();
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let bytes = word.as_bytes();
            if bytes == b"--" {
                break;
            }
            let Some(option) = bytes.strip_prefix(b"-").filter(|rest| !rest.is_empty()) else {
                parsed.rest.push(word);
                break;
            };
            let option = option.strip_prefix(b"-").unwrap_or(option);
            let (name, value) = match option.iter().position(|b| *b == b'=') {
                Some(at) => (&option[..at], Some(OsString::from_vec(option[at + 1..].to_vec()))),
                None => (option, None),
            };
            if name.is_empty() || name[0] == b'-' {
                return Err(format!("bad flag syntax: {}", word.to_string_lossy()));
            }
            let shown = String::from_utf8_lossy(name);
            let flag = flags.iter().find(|flag| flag.is(OsStr::from_bytes(name)));
            let flag = flag.ok_or_else(|| format!("flag provided but not defined: -{shown}"))?;
            let value = match (flag.takes, value) {
                (Takes::Nothing, None) => "true".into(),
                (Takes::Nothing, Some(value)) => match truth(&value) {
                    Some(on) => on.to_string().into(),
                    None => {
                        return Err(format!("invalid boolean value {value:?} for -{shown}: parse error"));
                    }
                },
                (_, Some(value)) => value,
                (_, None) => words.next().ok_or_else(|| format!("flag needs an argument: -{shown}"))?,
            };
            parsed.given.push((flag.name, value));
        }
        parsed.rest.extend(words);
        Ok(parsed)
    }

    /// Whether an option that is on or off is on.
    pub fn on(&self, name: &str) -> bool {
        self.last(name).is_some_and(|value| value == "true")
    }

    /// The value of an option as it was given last.
    pub fn last(&self, name: &str) -> Option<&OsStr> {
        self.given.iter().rev().find(|(given, _)| *given == name).map(|(_, value)| value.as_os_str())
    }

    /// The value of an option that is text, or `otherwise`. What is no text is shown so.
    pub fn text(&self, name: &str, otherwise: &str) -> String {
        self.last(name).map_or_else(|| otherwise.to_owned(), |value| value.to_string_lossy().into_owned())
    }

    /// The values of a list.
    pub fn list(&self, name: &str) -> Vec<OsString> {
        let given = self.given.iter().filter(|(given, _)| *given == name);
        given
            .flat_map(|(_, value)| value.as_bytes().split(|b| *b == b','))
            .map(|part| OsString::from_vec(part.to_vec()))
            .collect()
    }
}

/// `strconv.ParseBool`.
fn truth(text: &OsStr) -> Option<bool> {
    match text.to_str()? {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// One line for each option, in columns.
pub fn describe(flags: &[Flag]) -> String {
    let heads: Vec<String> = flags
        .iter()
        .map(|flag| {
            let name = match flag.short {
                Some(short) => format!("--{}, -{short}", flag.name),
                None => format!("--{}", flag.name),
            };
            match flag.takes {
                Takes::Nothing => name,
                Takes::Value("") | Takes::List("") => format!("{name} value"),
                Takes::Value(shown) | Takes::List(shown) => format!("{name} value [{shown}]"),
            }
        })
        .collect();
    let width = heads.iter().map(String::len).max().unwrap_or(0);
    let mut text = String::new();
    for (head, flag) in heads.iter().zip(flags) {
        let _ = writeln!(text, "   {head:width$}  {}", flag.help);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    static FLAGS: [Flag; 3] = [
        Flag::switch("pidns", "a pid namespace"),
        Flag::value("net", "host", "the network"),
        Flag::list("publish", "", "ports").or("p"),
    ];

    fn parse(line: &str) -> Result<Parsed, String> {
        Parsed::of(&FLAGS, line.split_whitespace().map(Into::into).collect())
    }

    #[test]
    fn options_end_at_the_command_and_dashes_do_not_matter() {
        let parsed = parse("-pidns=true --net none -net=host -p a,b --publish=c sh -c --net x").unwrap();
        assert!(parsed.on("pidns"));
        assert_eq!(parsed.text("net", ""), "host");
        assert_eq!(parsed.list("publish"), ["a", "b", "c"]);
        assert_eq!(parsed.rest, ["sh", "-c", "--net", "x"]);
        assert_eq!(parse("--pidns -- -x").unwrap().rest, ["-x"]);
        assert_eq!(parse("- --pidns").unwrap().rest, ["-", "--pidns"]);
        assert!(!parse("--pidns --pidns=0 true").unwrap().on("pidns"));
        assert!(parse("").unwrap().rest.is_empty());
    }

    #[test]
    fn errors_are_gos() {
        for (line, text) in [
            ("--nope x", "flag provided but not defined: -nope"),
            ("--pidns=maybe x", "invalid boolean value \"maybe\" for -pidns: parse error"),
            ("--net", "flag needs an argument: -net"),
            ("---net x", "bad flag syntax: ---net"),
            ("--=x", "bad flag syntax: --=x"),
        ] {
            assert_eq!(parse(line).unwrap_err(), text);
        }
    }

    #[test]
    fn every_option_has_a_line() {
        let text = describe(&FLAGS);
        assert_eq!(text.lines().count(), 3);
        assert!(text.contains("--net value [host]") && text.contains("--publish, -p value"), "{text}");
    }
}
