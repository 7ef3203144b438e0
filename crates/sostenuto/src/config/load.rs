//! From text to [`Config`]: strict, with the environment expanded, and with errors that say where and what instead.
//!
//! The environment is expanded inside scalars after YAML is parsed, so that a value with quotes, colons or
//! line breaks stays one value. Messages never repeat the file's values, which may be secrets.

use std::{collections::HashMap, fmt, fs, path::Path};

use serde::de::DeserializeOwned;
use serde_saphyr::{Error as YamlError, PropertySyntax};

use super::{
    Config,
    expand::{self, Refused},
    invalid::Invalid,
};

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("cannot read the configuration file {path}: {source}")]
    Read { path: String, source: std::io::Error },
    #[error("{path}:{line}:{column}: {message}")]
    Syntax { path: String, line: u64, column: u64, message: String },
    #[error("{path}: {invalid}")]
    Invalid { path: String, invalid: Invalid },
}

/// Keys that mean something to readers of a Tempo configuration, and where they are here.
const MOVED: [(&str, &str); 9] = [
    ("trace", "its keys stand directly under `storage` here"),
    ("live_store", "its settings are under `ingester` here"),
    ("max_query_expression_size_bytes", "leave it out: a query text has at most 128 KiB"),
    ("compaction", "its keys stand directly under `compactor` here"),
    ("block_retention", "how long traces are kept is under `overrides`"),
    ("auth_enabled", "the key is `multitenancy_enabled`"),
    ("stream_over_http_enabled", "leave it out: gRPC is always served on the HTTP port"),
    ("log_level", "the key is `log.level`"),
    ("log_format", "the key is `log.format`"),
];

impl Config {
    /// Reads the file at `path`; `environment` gives the values of `${NAME}`.
    pub fn load(path: &Path, environment: HashMap<String, String>) -> Result<Self, LoadError> {
        let name = path.display().to_string();
        let text = fs::read_to_string(path).map_err(|source| LoadError::Read { path: name.clone(), source })?;
        Self::parse(&text, &name, environment)
    }

    /// As [`Config::load`], of a text; `name` stands for the file in messages.
    pub fn parse(text: &str, name: &str, environment: HashMap<String, String>) -> Result<Self, LoadError> {
        if let Err(Refused { line, column, message }) = expand::check(text, &environment) {
            return Err(LoadError::Syntax { path: name.to_owned(), line, column, message });
        }
        let options = serde_saphyr::options! { with_snippet: false, property_syntax: PropertySyntax::DockerCompose }
            .with_properties(environment);
        let parsed: Option<Self> = read_with(text, options)
            .map_err(|Wrong { line, column, message }| LoadError::Syntax { path: name.to_owned(), line, column, message })?;
        let config = parsed.unwrap_or_default();
        config.validate().map_err(|invalid| LoadError::Invalid { path: name.to_owned(), invalid })?;
        Ok(config)
    }
}

/// What is wrong with a text, and where, from 1.
#[derive(Debug)]
pub(super) struct Wrong {
    line: u64,
    column: u64,
    message: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.message)
    }
}

/// A text of another file, without the environment. `None` if it holds nothing but comments.
pub(super) fn read<T: DeserializeOwned>(text: &str) -> Result<Option<T>, Wrong> {
    read_with(text, serde_saphyr::options! { with_snippet: false })
}

fn read_with<T: DeserializeOwned>(text: &str, options: serde_saphyr::Options) -> Result<Option<T>, Wrong> {
    // A file of comments only is an empty mapping, not an error.
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
        Wrong { line, column, message: explain(&error) }
    })
}

/// The process environment without what is not UTF-8 (a `${NAME}` cannot name it anyway).
pub fn environment() -> HashMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

fn explain(error: &YamlError) -> String {
    match error.without_snippet() {
        YamlError::SerdeUnknownField { field, expected, .. } => {
            if let Some((_, advice)) = MOVED.iter().find(|(key, _)| key == field) {
                return format!("unknown key `{field}`: {advice}");
            }
            match closest(field, expected) {
                Some(key) => format!("unknown key `{field}`; did you mean `{key}`?"),
                None => format!("unknown key `{field}`; the keys here are {}", expected.join(", ")),
            }
        }
        YamlError::SerdeUnknownVariant { expected, .. } => {
            format!("unknown value; the choices are {}", expected.join(", "))
        }
        YamlError::DuplicateMappingKey { key: Some(key), .. } => format!("the key `{key}` is set twice"),
        YamlError::InvalidScalar { ty, .. } => match *ty {
            "bool" | "boolean" => "expected true or false, without quotes".to_owned(),
            ty if ty.starts_with(['u', 'i']) => format!("expected a whole number that fits {ty}, without quotes"),
            ty => format!("expected a value of type {ty}"),
        },
        YamlError::Unexpected { expected: "mapping start", .. } => {
            "expected a section: lines of `key: value`".to_owned()
        }
        YamlError::MultipleDocuments { .. } => "the file holds more than one YAML document".to_owned(),
        other => {
            // Positions are printed once, in front of the file's name.
            let text = other.to_string();
            text.split(" at line ").next().unwrap_or_default().trim().to_owned()
        }
    }
}

/// The key that `typed` most likely stands for: at most a third of its letters differ.
fn closest(typed: &str, keys: &[&'static str]) -> Option<&'static str> {
    keys.iter()
        .map(|key| (distance(&typed.to_lowercase(), key), *key))
        .filter(|(distance, key)| *distance <= (key.len().max(typed.len()) / 3).max(1))
        .min()
        .map(|(_, key)| key)
}

/// Edit distance with neighbouring letters swapped as one edit (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let change = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + change);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_near_and_a_new_word_is_not() {
        let keys = ["http_listen_port", "http_listen_address"];
        assert_eq!(closest("http_listen_prot", &keys), Some("http_listen_port"));
        assert_eq!(closest("http_port", &keys), None);
        assert_eq!(closest("HTTP_LISTEN_PORT", &keys), Some("http_listen_port"));
        assert_eq!(closest("storage", &keys), None);
        assert_eq!(distance("abcd", "acbd"), 1);
    }
}
