//! Prints settings as YAML, with notes as comments.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Note, NoteKind};

pub(super) fn write(notes: &[Note], keys: &BTreeMap<String, Value>) -> String {
    let mut out = String::from(
        "# Made of a configuration of Tempo. Check it with: sostenuto check-config --config.file=<this file>\n",
    );
    for (kind, title) in NoteKind::ALL {
        let mut of_kind = notes.iter().filter(|note| note.kind == kind).peekable();
        if of_kind.peek().is_some() {
            out += &format!("#\n# {title}:\n");
        }
        for note in of_kind {
            // A line break in a key must not end the comment.
            let line = format!("{}: {}", note.key, note.text).replace(char::is_control, " ");
            out += &format!("#   {line}\n");
        }
    }
    let mut tree = Map::new();
    for (key, value) in keys {
        let mut at = &mut tree;
        let mut parts = key.split('.').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                at.insert(part.to_owned(), value.clone());
                break;
            }
            let below = at.entry(part).or_insert_with(|| Value::Object(Map::new()));
            at = below.as_object_mut().expect("no key of ours is a section of another");
        }
    }
    section(&tree, 0, &mut out);
    out
}

fn section(members: &Map<String, Value>, depth: usize, out: &mut String) {
    for (name, value) in members {
        let indent = "  ".repeat(depth);
        if depth == 0 {
            out.push('\n');
        }
        match value {
            Value::Object(members) if !members.is_empty() => {
                *out += &format!("{indent}{name}:\n");
                section(members, depth + 1, out);
            }
            Value::Null => *out += &format!("{indent}{name}:\n"),
            value => *out += &format!("{indent}{name}: {}\n", scalar(value)),
        }
    }
}

fn scalar(value: &Value) -> String {
    match value {
        // Without quotes a reference can become a number or a truth.
        Value::String(text) if is_reference(text) => text.clone(),
        Value::String(text) => Value::String(escaped(text)).to_string(),
        value => value.to_string(),
    }
}

/// `${NAME}` or `${NAME:-default}`, and nothing else.
fn is_reference(text: &str) -> bool {
    let inside = text.strip_prefix("${").and_then(|text| text.strip_suffix('}'));
    inside.is_some_and(|inside| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@".contains(c);
        reference_end(text) == Some(text.len()) && inside.chars().all(plain)
    })
}

/// Where the reference ends that a text begins with.
fn reference_end(text: &str) -> Option<usize> {
    let inside = text.strip_prefix("${")?;
    let length = inside.find('}')?;
    let name_length = inside.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(inside.len());
    let (name, default) = inside[..length].split_at(name_length.min(length));
    let named = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let simple =
        default.is_empty() || (default.starts_with(":-") || default.starts_with('-')) && !default.contains('$');
    (named && simple).then_some(length + 3)
}

/// A dollar sign that begins no reference stands for itself.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out += &rest[..at];
        rest = &rest[at..];
        match reference_end(rest) {
            Some(end) => {
                out += &rest[..end];
                rest = &rest[end..];
            }
            None => {
                out += "$$";
                rest = &rest[1..];
            }
        }
    }
    out + rest
}
