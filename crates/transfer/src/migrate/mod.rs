//! Another store's configuration as ours, with a word on each key.

mod rules;
mod tenants;
mod yaml;

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use rules::{Fate, Known};
pub use tenants::tempo_overrides;

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
#[error("it cannot be read: {0}")]
pub struct Unreadable(String);

/// Reads a configuration of Tempo, 2.x or 3.x. References to the environment stay what they are.
pub fn tempo(text: &str) -> Result<Migration, Unreadable> {
    let tree = parse(text)?;
    let keys = flat(&tree);
    let mut ours = Ours::default();
    let mut notes = vec![];
    let mut note = |key: &str, kind, text: &str| {
        notes.push(Note { key: key.to_owned(), kind, text: text.to_owned() });
    };
    for (key, value) in &keys {
        match judge(rules::of(key), value) {
            Ok((to, value)) => {
                note(key, NoteKind::Mapped, &format!("is {to}"));
                ours.set(to, value);
            }
            Err((kind, text)) => note(key, kind, &text),
        }
    }
    if tree.keys().eq(["overrides"]) && keys.iter().any(|(key, _)| rules::of(key).is_none()) {
        let text = "is this the file of single tenants, which per_tenant_override_config names? Then: sostenuto migrate tempo-overrides";
        note("overrides", NoteKind::Attention, text);
    }
    rules::finish(&mut ours, &mut note);
    let yaml = yaml::write(HEADING, &notes, &ours.nested());
    Ok(Migration { yaml, notes })
}

const HEADING: &str = "Made of a configuration of Tempo. Check it with: sostenuto check-config --config.file=<this file>";

fn parse(text: &str) -> Result<Map<String, Value>, Unreadable> {
    let tree: Option<Value> = serde_saphyr::from_str(text).map_err(|error| Unreadable(error.to_string()))?;
    match tree {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(tree)) => Ok(tree),
        Some(_) => Err(Unreadable("it holds no keys".to_owned())),
    }
}

/// Our key and the value that it gets, or what is to be said instead.
fn judge(known: Option<&'static Known>, value: &Value) -> Result<(&'static str, Value), (NoteKind, String)> {
    let say = |kind, text: &str| Err((kind, text.to_owned()));
    let off = || say(NoteKind::NotNeeded, "it is off");
    let Some(Known { fate, text, .. }) = known else {
        return say(NoteKind::Unknown, "see whether it is spelled as it should be");
    };
    match fate {
        Fate::Becomes { key, how } => how(value).map(|value| (*key, value)),
        Fate::NotNeeded => say(NoteKind::NotNeeded, text),
        // A receiver that is named and has no keys is on; a value that is none asks for nothing.
        Fate::Attention if is_off(value) && !value.is_null() && !value.is_object() => off(),
        Fate::Attention => say(NoteKind::Attention, text),
        Fate::Unsupported if is_off(value) => off(),
        Fate::Unsupported => say(NoteKind::Unsupported, text),
    }
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

    /// Sections in sections.
    fn nested(&self) -> Map<String, Value> {
        let mut tree = Map::new();
        for (key, value) in &self.tree {
            put(&mut tree, key, value.clone());
        }
        tree
    }

    fn has_below(&self, prefix: &str) -> bool {
        self.tree.keys().any(|key| key.starts_with(prefix))
    }
}

/// Puts a value below `key`, as `storage.s3.bucket`.
fn put(tree: &mut Map<String, Value>, key: &str, value: Value) {
    match key.split_once('.') {
        None => drop(tree.insert(key.to_owned(), value)),
        Some((section, key)) => {
            let below = tree.entry(section).or_insert_with(|| Value::Object(Map::new()));
            put(below.as_object_mut().expect("no key of ours is a section of another"), key, value);
        }
    }
}

/// Keys with their values; a list is a value, and so is a section without keys.
fn flat(tree: &Map<String, Value>) -> Vec<(String, Value)> {
    let mut out = vec![];
    for (name, value) in tree {
        flatten(name, value, &mut out);
    }
    out
}

fn flatten(prefix: &str, value: &Value, out: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (name, value) in members {
                flatten(&format!("{prefix}.{name}"), value, out);
            }
        }
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
