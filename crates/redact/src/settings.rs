//! Rules as a person writes them.

use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub struct RedactError {
    /// Its name.
    pub rule: Option<String>,
    pub what: String,
}

impl std::fmt::Display for RedactError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.rule {
            Some(rule) => write!(f, "rule {rule:?}: {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

/// A rule is about the attributes that one of `keys` or `key_regex` matches; without both, about all. Of these it takes
/// out the whole value, or, with `value_regex` or `detectors`, the parts of texts that these find.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RuleSettings {
    /// Stands in the metrics.
    pub name: String,
    pub action: Action,
    /// `*` is any number of characters, `?` one; upper and lower case are the same.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_regex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_regex: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub detectors: Vec<Detector>,
    /// Without any, everywhere.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<Place>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The attribute goes; of a name or message, the text.
    Drop,
    /// A keyed hash stands for it: the same for the same value.
    Hash,
    /// `****` stands for it.
    #[default]
    Mask,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Detector {
    /// Numbers of payment cards: 13 to 19 digits whose check digit is right.
    CardNumber,
    /// Credentials that are known by their form: keys of clouds, tokens, private keys, `Bearer ...`, passwords in URLs.
    Secret,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    Resource,
    /// Of the instrumentation.
    Scope,
    Span,
    Event,
    Link,
    /// The status message.
    Status,
    /// Names of spans and events.
    Name,
}

impl Place {
    pub(crate) const ALL: [Self; 7] =
        [Self::Resource, Self::Scope, Self::Span, Self::Event, Self::Link, Self::Status, Self::Name];
}
