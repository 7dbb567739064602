//! Reading a configuration: the file, then the environment, then the checks.

use std::{
    ffi::OsString,
    fmt, io,
    path::{Path, PathBuf},
};

use figment::{
    Figment, Metadata, Profile, Provider,
    error::{Actual, Kind},
    value::{Dict, Map, Value},
};

use super::{
    Config, check,
    file::{NotToml, TomlFile},
    sections, top,
};

/// What the names of environment variables begin with.
const PREFIX: &str = "RAVEL_";

/// What separates section and key in them.
const SEPARATOR: &str = "__";

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ConfigError {
    #[error("{path}: can't be read: {source}", path = .path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{}", lines(.0))]
    Invalid(Vec<Problem>),
}

/// Something that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// With which key, as `section.key`; empty if it is the whole file.
    pub key: String,
    /// What.
    pub message: String,
}

/// Where something in a configuration comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A line of the file, from 1, if it is known.
    File(PathBuf, Option<usize>),
    /// An environment variable.
    Variable(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::File(path, Some(line)) => write!(f, "{}:{line}: ", path.display())?,
            Place::File(path, None) => write!(f, "{}: ", path.display())?,
            Place::Variable(name) => write!(f, "environment variable {name}: ")?,
        }
        if !self.key.is_empty() && !matches!(self.place, Place::Variable(_)) {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Loads a configuration from a file and from environment variables, which win.
///
/// # Errors
///
/// [`ConfigError::Invalid`] with as many problems as can be told at once.
pub fn load(path: &Path, environment: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Config, ConfigError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    load_text(path, &text, environment)
}

/// As [`load`], of what is in the file.
///
/// # Errors
///
/// Those of [`load`].
pub fn load_text(
    path: &Path,
    text: &str,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Config, ConfigError> {
    let file = TomlFile::parse(text).map_err(|NotToml { line, message }| {
        let place = Place::File(path.to_owned(), Some(line));
        ConfigError::Invalid(vec![Problem { place, key: String::new(), message }])
    })?;
    let known = Known::all();
    let mut problems = known.unknown_in(path, &file);
    let overrides = known.overrides(environment, &mut problems);
    if !problems.is_empty() {
        return Err(ConfigError::Invalid(problems));
    }
    let sources = Sources { path, file: &file, overrides: &overrides };
    let figment =
        Figment::from(Source { name: FILE, table: &file.table }).merge(Source { name: VARIABLES, table: &overrides });
    let mut config: Config = figment
        .extract()
        .map_err(|error| ConfigError::Invalid(error.into_iter().map(|error| sources.problem(error)).collect()))?;
    let mut problems = Vec::new();
    check::check(&config, &mut |key, message: String| {
        problems.push(Problem { place: sources.place(key), key: key.to_owned(), message });
    });
    if !problems.is_empty() {
        return Err(ConfigError::Invalid(problems));
    }
    check::resolve_paths(&mut config, path.parent().unwrap_or_else(|| Path::new("")));
    Ok(config)
}

const FILE: &str = "file";
const VARIABLES: &str = "variables";

/// A table for figment, which tells whose values are wrong.
struct Source<'a> {
    name: &'static str,
    table: &'a toml::Table,
}

impl Provider for Source<'_> {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let dict = Value::serialize(self.table)?.into_dict().unwrap_or_default();
        Ok(Map::from([(Profile::Default, dict)]))
    }
}

/// Where the values of a configuration are from.
struct Sources<'a> {
    path: &'a Path,
    file: &'a TomlFile,
    overrides: &'a toml::Table,
}

impl Sources<'_> {
    fn place(&self, key: &str) -> Place {
        let overridden = match key.split_once('.') {
            Some((section, key)) => {
                self.overrides.get(section).and_then(toml::Value::as_table).is_some_and(|table| table.contains_key(key))
            }
            None => self.overrides.get(key).is_some_and(|value| !value.is_table()),
        };
        if overridden { Place::Variable(variable(key)) } else { Place::File(self.path.to_owned(), self.file.line(key)) }
    }

    fn problem(&self, error: figment::Error) -> Problem {
        // What is further down is an element of a list.
        let mut key = error.path.iter().take(2).cloned().collect::<Vec<_>>().join(".");
        let message = match error.kind {
            Kind::MissingField(field) => {
                key = if key.is_empty() { field.into_owned() } else { format!("{key}.{field}") };
                "it is missing".to_owned()
            }
            Kind::UnknownVariant(found, expected) => {
                let names: Vec<String> = expected.iter().map(|name| format!("{name:?}")).collect();
                format!("{found:?} is none of {}", names.join(", "))
            }
            Kind::InvalidType(found, expected) | Kind::InvalidValue(found, expected) => {
                let expected = match &*expected {
                    "u16" | "u32" | "u64" => "a whole number",
                    name if name.starts_with("enum ") => "a string",
                    other => other,
                };
                format!("expected {expected}, found {}", shown(&found))
            }
            kind => kind.to_string(),
        };
        let place = match self.place(&key) {
            // A key that is missing has no line.
            Place::File(path, _) if error.metadata.is_none() => Place::File(path, None),
            place => place,
        };
        Problem { place, key, message }
    }
}

/// Says what was found instead of what was expected. Numbers are not told: one may be a secret that should have had quotes.
fn shown(found: &Actual) -> String {
    match found {
        Actual::Bool(value) => value.to_string(),
        Actual::Signed(value) if *value < 0 => "a negative number".to_owned(),
        Actual::Unsigned(_) | Actual::Signed(_) | Actual::Float(_) => "a number".to_owned(),
        Actual::Str(text) => format!("the string {text:?}"),
        Actual::Seq => "a list".to_owned(),
        Actual::Map => "a section".to_owned(),
        other => other.to_string(),
    }
}

/// Returns the variable that overrides a key.
fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', SEPARATOR).to_uppercase())
}

/// All keys there are.
struct Known {
    /// As `section.key`, and whether their values are strings.
    keys: Vec<(String, bool)>,
    sections: Vec<&'static str>,
}

impl Known {
    fn all() -> Self {
        let mut keys: Vec<(String, bool)> = top().iter().map(|key| (key.name.to_owned(), key.is_text)).collect();
        let sections = sections();
        for section in &sections {
            keys.extend(section.keys.iter().map(|key| (format!("{}.{}", section.name, key.name), key.is_text)));
        }
        Self { keys, sections: sections.iter().map(|section| section.name).collect() }
    }

    fn get(&self, key: &str) -> Option<&(String, bool)> {
        self.keys.iter().find(|(known, _)| known == key)
    }

    /// Returns the known name that is nearest to an unknown one.
    fn nearest<'a>(&'a self, unknown: &str, among: impl Iterator<Item = &'a str>) -> &'a str {
        let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
        let distance = |known: &str| {
            // A key in the wrong section is nearer than another one in the right section.
            let elsewhere = 1 + strsim::damerau_levenshtein(&last(unknown), &last(known));
            strsim::damerau_levenshtein(unknown, known).min(elsewhere)
        };
        among.min_by_key(|known| distance(known)).unwrap_or_default()
    }

    fn unknown_in(&self, path: &Path, file: &TomlFile) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut unknown = |key: String, message: String| {
            problems.push(Problem { place: Place::File(path.to_owned(), file.line(&key)), key, message });
        };
        for (name, value) in &file.table {
            match value {
                toml::Value::Table(table) if self.sections.contains(&name.as_str()) => {
                    for key in table.keys().map(|key| format!("{name}.{key}")) {
                        if self.get(&key).is_none() {
                            let nearest = self.nearest(&key, self.keys.iter().map(|(known, _)| known.as_str()));
                            unknown(key, format!("there is no such key; the nearest is {nearest}"));
                        }
                    }
                }
                toml::Value::Table(_) if self.get(name).is_none() => {
                    let nearest = self.nearest(name, self.sections.iter().copied());
                    unknown(name.clone(), format!("there is no such section; the nearest is {nearest}"));
                }
                toml::Value::Table(_) => {}
                _ if self.sections.contains(&name.as_str()) => {
                    unknown(name.clone(), format!("it is a section: write [{name}]"));
                }
                _ if self.get(name).is_none() => {
                    let nearest = self.nearest(name, self.keys.iter().map(|(known, _)| known.as_str()));
                    unknown(name.clone(), format!("there is no such key; the nearest is {nearest}"));
                }
                _ => {}
            }
        }
        problems
    }

    /// Returns the values of environment variables as a table.
    fn overrides(
        &self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        problems: &mut Vec<Problem>,
    ) -> toml::Table {
        let mut overrides = toml::Table::new();
        let mut environment: Vec<_> = environment.into_iter().collect();
        environment.sort();
        for (name, value) in environment {
            let Some(name) = name.to_str() else { continue };
            let Some(key) = name.strip_prefix(PREFIX) else { continue };
            let key = key.to_lowercase().replace(SEPARATOR, ".");
            let mut problem = |message: String| {
                problems.push(Problem { place: Place::Variable(name.to_owned()), key: key.clone(), message });
            };
            let Some((_, is_text)) = self.get(&key) else {
                if self.is_meant(&key) {
                    let nearest = self.nearest(&key, self.keys.iter().map(|(known, _)| known.as_str()));
                    problem(format!("there is no such key; the nearest is {}", variable(nearest)));
                }
                continue;
            };
            let Some(value) = value.to_str() else {
                problem("its value is not UTF-8".to_owned());
                continue;
            };
            let value = if *is_text { toml::Value::String(value.to_owned()) } else { bare_value(value) };
            match key.split_once('.') {
                Some((section, key)) => {
                    let empty = || toml::Value::Table(toml::Table::new());
                    if let toml::Value::Table(table) = overrides.entry(section).or_insert_with(empty) {
                        table.insert(key.to_owned(), value);
                    }
                }
                None => {
                    overrides.insert(key, value);
                }
            }
        }
        overrides
    }

    /// Whether a variable that is no key was meant as one. Others belong to the programs around the server, such as `RAVEL_BIN`.
    fn is_meant(&self, key: &str) -> bool {
        let in_section = |section: &str| key.strip_prefix(section).is_some_and(|rest| rest.starts_with('_'));
        let near = |(known, _): &(String, bool)| {
            !known.contains('.') && strsim::damerau_levenshtein(known, key) <= known.len() / 3
        };
        key.contains('.') || self.sections.iter().any(|section| in_section(section)) || self.keys.iter().any(near)
    }
}

/// Reads the value of a variable as one of TOML. What is none stays a string, whose type is told to be wrong.
fn bare_value(text: &str) -> toml::Value {
    let read = format!("value = {text}").parse::<toml::Table>().ok().filter(|table| table.len() == 1);
    read.and_then(|mut table| table.remove("value")).unwrap_or_else(|| toml::Value::String(text.to_owned()))
}
