//! The commented configuration file.

use super::{Key, sections, top};

const HEAD: &str = "\
# Configuration of a Ravel server.
#
# What is commented out shows the default, or an example if there is no default. Paths are relative to this file's folder.
# Every key can be overridden by an environment variable, such as RAVEL_SERVER_NAME or RAVEL_LISTEN__HTTP for `http` in [listen].
# `ravel config --check FILE` checks a file.
";

/// Returns the file with every key, all of them commented out but the server's name, which is `example.org`.
pub fn example() -> String {
    with_values(&[("server_name", "example.org".into())])
}

/// Returns the file with every key, all of them commented out but some: `section.key`, and its value.
pub fn with_values(values: &[(&str, toml::Value)]) -> String {
    let mut text = HEAD.to_owned();
    for key in top() {
        text.push('\n');
        write_key(&mut text, &key, values.iter().find(|(name, _)| *name == key.name));
    }
    for section in sections() {
        text.push('\n');
        write_doc(&mut text, section.doc);
        text.push_str(&format!("[{}]\n", section.name));
        for key in &section.keys {
            let name = format!("{}.{}", section.name, key.name);
            write_key(&mut text, key, values.iter().find(|(given, _)| *given == name));
        }
    }
    text
}

fn write_key(text: &mut String, key: &Key, given: Option<&(&str, toml::Value)>) {
    write_doc(text, key.doc);
    let line = match (given, &key.default, key.example) {
        (Some((_, value)), _, _) => format!("{} = {value}\n", key.name),
        (None, Some(default), _) => format!("#{} = {default}\n", key.name),
        (None, None, example) => format!("#{} = {}\n", key.name, example.unwrap_or_default()),
    };
    text.push_str(&line);
}

fn write_doc(text: &mut String, lines: &[&str]) {
    for line in lines {
        text.push_str(&format!("#{}\n", line.trim_end()));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use ravel_core::id::ServerName;

    use super::*;
    use crate::serve::config::{Config, load_text};

    fn parse(text: &str) -> Config {
        toml::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
    }

    /// Removes the comment signs before keys that fulfil a condition.
    fn uncommented(wanted: impl Fn(&Key) -> bool) -> String {
        let mut all = top();
        all.extend(sections().into_iter().flat_map(|section| section.keys));
        let mut text = String::new();
        for line in example().lines() {
            let key = line.strip_prefix('#').and_then(|line| Some((line, line.split_once(" = ")?.0)));
            let found = key.and_then(|(line, name)| Some((line, all.iter().find(|key| key.name == name)?)));
            match found {
                Some((line, key)) if wanted(key) => text.push_str(line),
                _ => text.push_str(line),
            }
            text.push('\n');
        }
        text
    }

    #[test]
    fn the_example_is_the_defaults() {
        let defaults = Config::of(ServerName::parse("example.org").unwrap());
        assert_eq!(parse(&example()), defaults);
        let with_defaults = uncommented(|key| key.default.is_some());
        assert_ne!(with_defaults, example());
        assert_eq!(parse(&with_defaults), defaults);
    }

    #[test]
    fn every_example_is_accepted() {
        let text = uncommented(|_| true).replace("backend = \"rocksdb\"", "backend = \"rocksdb\"\n#");
        let config = parse(&text);
        assert_eq!(config.listen.https.map(|address| address.port()), Some(8448));
        assert!(config.database.url.is_some() && config.cas.service_url.is_some());
        let count = sections().iter().map(|section| section.keys.len()).sum::<usize>() + top().len();
        assert_eq!(text.lines().filter(|line| !line.starts_with('#') && line.contains(" = ")).count(), count);
        // Two of the examples are not for use together with the others.
        let error = load_text(Path::new("r.toml"), &text, []).unwrap_err().to_string();
        assert_eq!(error.lines().count(), 2, "{error}");
        assert!(error.contains("database.url") && error.contains("shared_secret"), "{error}");
    }

    #[test]
    fn given_values_are_in_effect() {
        let text = with_values(&[("server_name", "a".into()), ("listen.http", "127.0.0.1:1".into())]);
        let config = load_text(Path::new("/folder/r.toml"), &text, []).unwrap();
        assert_eq!(config.signing_key, Path::new("/folder/signing.key"));
        assert_eq!(config.listen.http, Some("127.0.0.1:1".parse().unwrap()));
    }

    #[test]
    fn the_documentation_has_the_example() {
        let page = include_str!("../../../../docs/configuration.md");
        assert!(page.contains(&example()), "docs/configuration.md differs from `ravel config --example`");
    }
}
