//! The text of `config.toml`: tables of keys, as TOML 1.0 has them. Every error names file and line.

use super::SettingsError;
use super::catalogue::{CATALOGUE, Kind, Setting, unknown_key};
use std::ops::Range;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A setting, its texts, and the line that its value begins on.
pub(super) type Line = (&'static Setting, Vec<String>, usize);

/// Reads the whole file; in the order of its lines.
///
/// # Errors
/// [`SettingsError`] of the first thing that is wrong.
pub(super) fn parse(path: &Path, text: &str) -> Result<Vec<Line>, SettingsError> {
    let line = |at: &Range<usize>| 1 + text.bytes().take(at.start).filter(|byte| *byte == b'\n').count();
    let fail = |at: &Range<usize>, cause: String| SettingsError {
        place: format!("{}:{}", path.display(), line(at)),
        cause,
    };
    let table = DeTable::parse(text).map_err(|e| {
        let first = e.message().lines().next().unwrap_or_default();
        fail(&e.span().unwrap_or(0..0), format!("this is not TOML: {first}"))
    })?;
    let mut entries = Vec::new();
    collect("", table.get_ref(), &mut entries);
    let mut found = Vec::with_capacity(entries.len());
    for Entry { key, at, value } in entries {
        let setting = CATALOGUE.iter().find(|setting| setting.key == key);
        let setting = setting.ok_or_else(|| fail(&at, unknown_key(&key)))?;
        let texts = texts(setting, value.get_ref()).and_then(|texts| setting.check(texts));
        let texts = texts.map_err(|cause| fail(&value.span(), format!("{key}: {cause}")))?;
        found.push((setting, texts, line(&value.span())));
    }
    Ok(found)
}

/// A key that is no section, where it stands, and its value.
struct Entry<'t, 'a> {
    key: String,
    at: Range<usize>,
    value: &'t Spanned<DeValue<'a>>,
}

/// Adds the keys of a table and of the sections in it, in the order of their lines.
fn collect<'t, 'a>(section: &str, table: &'t DeTable<'a>, entries: &mut Vec<Entry<'t, 'a>>) {
    let mut sorted: Vec<_> = table.iter().collect();
    sorted.sort_by_key(|(name, _)| name.span().start);
    for (name, value) in sorted {
        let key = if section.is_empty() {
            name.get_ref().to_string()
        } else {
            format!("{section}.{}", name.get_ref())
        };
        match value.get_ref() {
            // A section that is misspelt is told by its keys, which say where they belong.
            DeValue::Table(inner) if section.is_empty() && (is_section(&key) || !inner.is_empty()) => {
                collect(&key, inner, entries);
            }
            _ => entries.push(Entry { key, at: name.span(), value }),
        }
    }
}

fn is_section(name: &str) -> bool {
    CATALOGUE.iter().any(|setting| setting.key.split_once('.').is_some_and(|(section, _)| section == name))
}

/// The texts of a value, if it is of the setting's kind.
fn texts(setting: &Setting, value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let wanted = |what: String| Err(format!("{what}, not {}", described(value)));
    match (setting.kind, value) {
        (Kind::List, DeValue::Array(all)) => {
            let text = |item: &Spanned<DeValue<'_>>| match item.get_ref() {
                DeValue::String(text) => Ok(text.to_string()),
                other => Err(format!("its texts stand in quotes, unlike {}", described(other))),
            };
            all.iter().map(text).collect()
        }
        (Kind::List, _) => wanted("give a list of texts, as in [\"..\", \"..\"]".to_owned()),
        (Kind::Switch, DeValue::Boolean(on)) => Ok(vec![on.to_string()]),
        (Kind::Switch, _) => wanted("give true or false".to_owned()),
        (Kind::Choice(_), DeValue::String(text)) => Ok(vec![text.to_string()]),
        (Kind::Text, DeValue::String(text)) => Ok(vec![text.to_string()]),
        (Kind::Text, _) => wanted("give a text in quotes".to_owned()),
        (Kind::Choice(words), _) => wanted(format!("give one of \"{}\"", words.join("\", \""))),
        (Kind::Number(..), DeValue::Integer(n)) if n.radix() == 10 => Ok(vec![n.as_str().replace('_', "")]),
        (Kind::Number(least, most), _) => wanted(format!("give a number from {least} to {most}")),
    }
}

/// A value, as a person would call it.
fn described(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the text {:?}", text.as_ref()),
        DeValue::Integer(n) => format!("the number {}", n.as_str()),
        DeValue::Float(n) => format!("the number {}", n.as_str()),
        DeValue::Boolean(on) => on.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a section".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> String {
        parse(Path::new("/c.toml"), text).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn sections_may_be_written_in_every_way() {
        for text in [
            "[policy]\ndeny = [\"all\"]\nhost-loopback = true",
            "policy.deny = ['all']\npolicy.host-loopback = true",
            "policy = { deny = [\"all\"], host-loopback = true }",
        ] {
            let found = parse(Path::new("/c.toml"), text).unwrap();
            let found: Vec<_> = found.into_iter().map(|(s, texts, _)| (s.key, texts)).collect();
            let texts = |text: &str| vec![text.to_owned()];
            assert_eq!(found, [("policy.deny", texts("all")), ("policy.host-loopback", texts("true"))]);
        }
        assert!(parse(Path::new("/c.toml"), "# nothing\n[policy]\n[log]\n").unwrap().is_empty());
    }

    #[test]
    fn every_error_is_one_line_with_its_place() {
        for (text, words) in [
            ("\n\n[policy", "/c.toml:3: this is not TOML: "),
            ("[policy]\ndeny = [\"all\"]\ndeny = []\n", "/c.toml:3: this is not TOML: duplicate key"),
            ("\n[policy]\ndenny = []", "/c.toml:3: policy.denny is no setting; did you mean policy.deny?"),
            ("[polices]\n\ndeny = []", "/c.toml:3: polices.deny is no setting; did you mean policy.deny?"),
            ("[colours]", "/c.toml:1: colours is no setting; `ringtap config` lists them"),
            (
                "[policy.deny]\nx = 1",
                "/c.toml:1: policy.deny: give a list of texts, as in [\"..\", \"..\"], not a section",
            ),
            (
                "[policy]\ndeny = \"all\"",
                "/c.toml:2: policy.deny: give a list of texts, as in [\"..\", \"..\"], not the text \"all\"",
            ),
            (
                "[policy]\ndeny = [ \"all\",\n 1 ]",
                "/c.toml:2: policy.deny: its texts stand in quotes, unlike the number 1",
            ),
            (
                "[policy]\ndeny = [\n\"10.0.0.1/8\"]",
                "/c.toml:2: policy.deny: 10.0.0.1/8 is not a network address; did you mean",
            ),
            (
                "[policy]\nhost-loopback = \"yes\"",
                "/c.toml:2: policy.host-loopback: give true or false, not the text \"yes\"",
            ),
            ("sandbox = \"of\"", "/c.toml:1: sandbox: \"of\" is none of on, off, require"),
            ("sandbox = true", "/c.toml:1: sandbox: give one of \"on\", \"off\", \"require\", not true"),
            (
                "log.level = \"warning\"",
                "/c.toml:1: log.level: \"warning\" is none of error, warn, info, debug, trace",
            ),
            ("[network]\ndns = [\"dns.example\"]", "/c.toml:2: network.dns: "),
        ] {
            let said = said(text);
            assert!(said.starts_with(words) && !said.contains('\n'), "{text:?}: {said}");
        }
        assert!(said("log.level = \"debg\"").ends_with("trace; did you mean \"debug\"?"));
    }
}
