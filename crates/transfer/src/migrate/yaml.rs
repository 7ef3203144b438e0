//! Prints settings as YAML, with notes as comments.

use serde_json::{Map, Value};

use super::{Note, NoteKind};

/// `heading`: lines.
pub(super) fn write(heading: &str, notes: &[Note], tree: &Map<String, Value>) -> String {
    let mut out: String = heading.lines().map(|line| format!("# {line}\n")).collect();
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
    section(tree, 0, &mut out);
    out
}

fn section(members: &Map<String, Value>, depth: usize, out: &mut String) {
    for (name, value) in members {
        let indent = "  ".repeat(depth);
        let name = key(name);
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

/// Names of tenants and topics may look like numbers, or hold what means something in YAML.
fn key(name: &str) -> String {
    const WORDS: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    match name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(plain) && !WORDS.contains(&name) {
        true => name.to_owned(),
        false => Value::String(name.to_owned()).to_string(),
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
