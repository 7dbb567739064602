//! A TOML file with the lines of its keys.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

/// A file that is TOML.
pub(super) struct TomlFile {
    pub(super) table: toml::Table,
    /// The line, from 1, of each key: `server_name`, `listen` and `listen.https`.
    lines: BTreeMap<String, usize>,
}

/// A text that is not TOML.
#[derive(Debug)]
pub(super) struct NotToml {
    pub(super) line: usize,
    pub(super) message: String,
}

impl TomlFile {
    pub(super) fn parse(text: &str) -> Result<Self, NotToml> {
        let line_of = |offset: usize| {
            1 + text.as_bytes().get(..offset).map_or(0, |before| before.iter().filter(|byte| **byte == b'\n').count())
        };
        let not_toml = |error: &toml::de::Error| NotToml {
            line: line_of(error.span().map_or(0, |span| span.start)),
            message: error.message().to_owned(),
        };
        let spanned = DeTable::parse(text).map_err(|error| not_toml(&error))?;
        let mut lines = BTreeMap::new();
        for (key, value) in spanned.get_ref() {
            let name = key.get_ref().to_string();
            lines.insert(name.clone(), line_of(key.span().start));
            let DeValue::Table(section) = value.get_ref() else { continue };
            for key in section.keys() {
                lines.insert(format!("{name}.{}", key.get_ref()), line_of(key.span().start));
            }
        }
        let table = text.parse().map_err(|error| not_toml(&error))?;
        Ok(Self { table, lines })
    }

    /// Returns the line of a key, or of the section around it.
    pub(super) fn line(&self, key: &str) -> Option<usize> {
        let section = || key.split_once('.').and_then(|(section, _)| self.lines.get(section));
        self.lines.get(key).or_else(section).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found() {
        let file = TomlFile::parse("a = 1\n\n# b\n[s]\nb = 2\n[t]\n").unwrap();
        let check = |key, line| assert_eq!(file.line(key), line, "{key}");
        check("a", Some(1));
        check("s", Some(4));
        check("s.b", Some(5));
        check("t.missing", Some(6));
        check("missing", None);
        let error = TomlFile::parse("a = 1\nb = \n").err().unwrap();
        assert_eq!(error.line, 2, "{}", error.message);
    }
}
