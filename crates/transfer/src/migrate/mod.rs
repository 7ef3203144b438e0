//! Another store's configuration as ours, with a word on each key.

mod rules;
mod yaml;

use std::collections::BTreeMap;

use serde_json::Value;

use rules::{Fate, Known};

/// What became of one key of the other configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// As `storage.trace.backend`.
    pub key: String,
    pub kind: NoteKind,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoteKind {
    /// It is in our configuration.
    Mapped,
    /// Something must be decided or done.
    Attention,
    /// What it asks for is not here.
    Unsupported,
    /// Nothing has to take its place.
    NotNeeded,
    /// It is no key that a Tempo is known to have.
    Unknown,
}

impl NoteKind {
    const ALL: [(Self, &str); 5] = [
        (Self::Attention, "Look at these"),
        (Self::Unsupported, "Not here"),
        (Self::Unknown, "Not known as keys of Tempo, and left out"),
        (Self::Mapped, "Taken over"),
        (Self::NotNeeded, "Not needed"),
    ];
}

#[derive(Clone, Debug)]
pub struct Migration {
    /// Our configuration, the notes in front as comments.
    pub yaml: String,
    pub notes: Vec<Note>,
}

#[derive(Debug, thiserror::Error)]
#[error("it cannot be read as YAML: {0}")]
pub struct NotYaml(String);

/// Reads a configuration of Tempo, 2.x or 3.x. References to the environment stay what they are.
pub fn tempo(text: &str) -> Result<Migration, NotYaml> {
    let tree: Option<Value> = serde_saphyr::from_str(text).map_err(|error| NotYaml(error.to_string()))?;
    let tree = match tree {
        None | Some(Value::Null) => Value::Object(Default::default()),
        Some(tree @ Value::Object(_)) => tree,
        Some(_) => return Err(NotYaml("it holds no keys".to_owned())),
    };
    let mut keys = vec![];
    flatten("", &tree, &mut keys);
    let mut ours = Ours::default();
    let mut notes = vec![];
    let mut note = |key: &str, kind, text: &str| {
        notes.push(Note { key: key.to_owned(), kind, text: text.to_owned() });
    };
    for (key, value) in &keys {
        match rules::of(key) {
            None => note(key, NoteKind::Unknown, "see whether it is spelled as it should be"),
            Some(Known { fate: Fate::NotNeeded, text, .. }) => note(key, NoteKind::NotNeeded, text),
            // A receiver that is named and has no keys is on; a value that is none asks for nothing.
            Some(Known { fate: Fate::Attention, text, .. }) => {
                match is_off(value) && !value.is_null() && !value.is_object() {
                    true => note(key, NoteKind::NotNeeded, "it is off"),
                    false => note(key, NoteKind::Attention, text),
                }
            }
            Some(Known { fate: Fate::Unsupported, text, .. }) => match is_off(value) {
                true => note(key, NoteKind::NotNeeded, "it is off"),
                false => note(key, NoteKind::Unsupported, text),
            },
            Some(Known { fate: Fate::Becomes { key: to, how }, .. }) => match how(value) {
                Ok(value) => {
                    note(key, NoteKind::Mapped, &format!("is {to}"));
                    ours.set(to, value);
                }
                Err((kind, text)) => note(key, kind, &text),
            },
        }
    }
    rules::finish(&mut ours, &mut note);
    let yaml = yaml::write(&notes, &ours.tree);
    Ok(Migration { yaml, notes })
}

/// The configuration that is made.
#[derive(Default)]
struct Ours {
    tree: BTreeMap<String, Value>,
}

impl Ours {
    /// `key` as `storage.s3.bucket`. Of two keys that become one the first counts.
    fn set(&mut self, key: &str, value: Value) {
        self.tree.entry(key.to_owned()).or_insert(value);
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.tree.get(key)
    }

    fn has_below(&self, prefix: &str) -> bool {
        self.tree.keys().any(|key| key.starts_with(prefix))
    }
}

/// Keys with their values; a list is a value, and so is a section without keys.
fn flatten(prefix: &str, value: &Value, out: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (name, value) in members {
                let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                flatten(&key, value, out);
            }
        }
        _ if prefix.is_empty() => {}
        value => out.push((prefix.to_owned(), value.clone())),
    }
}

/// Whether a value asks for nothing.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => matches!(text.as_str(), "" | "0" | "0s" | "false"),
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Array(list) => list.is_empty(),
        Value::Object(members) => members.is_empty(),
        Value::Bool(true) => false,
    }
}

#[cfg(test)]
mod tests;
