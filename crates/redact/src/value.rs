//! `KeyValue` and `AnyValue`: what rules do to them.

use std::borrow::Cow;

use crate::{
    Redactor,
    rule::Rule,
    settings::{Action, Place},
    wire::{self, Content, Field},
};

/// As deep as attributes may nest.
const DEPTH_MAX: usize = 64;
const MASK: &str = "****";

/// What became of something.
#[derive(Debug, PartialEq)]
pub(crate) enum Outcome<T> {
    Kept,
    Changed(T),
    Dropped,
}

/// The fields of `AnyValue`.
mod any {
    pub const STRING: u64 = 1;
    pub const INT: u64 = 3;
    pub const ARRAY: u64 = 5;
    pub const MAP: u64 = 6;
}

/// A text that stands alone, such as a name.
pub(crate) fn text(redactor: &Redactor, place: Place, bytes: &[u8]) -> Outcome<Vec<u8>> {
    let (mut now, mut changed) = (String::from_utf8_lossy(bytes), false);
    for (number, rule) in redactor.rules.iter().enumerate().filter(|(_, rule)| rule.is_about(place)) {
        if !rule.matches_key(None) {
            continue;
        }
        if let Some(next) = changed_text(redactor, rule, &now) {
            redactor.count(number);
            changed = true;
            now = match rule.action {
                Action::Drop => Cow::Borrowed(""),
                Action::Hash | Action::Mask => Cow::Owned(next),
            };
        }
    }
    match changed {
        true => Outcome::Changed(now.into_owned().into_bytes()),
        false => Outcome::Kept,
    }
}

/// A `KeyValue`.
pub(crate) fn attribute(redactor: &Redactor, place: Place, message: &[u8]) -> Option<Outcome<Vec<u8>>> {
    let (mut key, mut value, mut others) = (None, None, Vec::new());
    // A field that is there twice hides what the rules have not seen.
    let mut changed = false;
    let mut at = 0;
    while at < message.len() {
        let field = wire::field(message, at)?;
        at = field.end;
        match (field.number, field.content) {
            (1, Content::Bytes(content)) => changed |= key.replace(content).is_some(),
            (2, Content::Bytes(content)) => changed |= value.replace(content).is_some(),
            _ => others.extend_from_slice(field.raw),
        }
    }
    let key = key.unwrap_or_default();
    let name = String::from_utf8_lossy(key);
    let mut now: Cow<[u8]> = Cow::Borrowed(value.unwrap_or_default());
    if let Some(last) = last(&now)?.filter(|last| last.is_not_alone) {
        (now, changed) = (Cow::Owned(last.raw.to_vec()), true);
    }
    for (number, rule) in redactor.rules.iter().enumerate().filter(|(_, rule)| rule.is_about(place)) {
        match of_rule(redactor, rule, &name, &now, 0)? {
            Outcome::Kept => {}
            Outcome::Dropped => {
                redactor.count(number);
                return Some(Outcome::Dropped);
            }
            Outcome::Changed(next) => {
                redactor.count(number);
                (now, changed) = (Cow::Owned(next), true);
            }
        }
    }
    if !changed {
        return Some(Outcome::Kept);
    }
    let mut written = Vec::with_capacity(message.len());
    wire::put_bytes(&mut written, 1, key);
    wire::put_bytes(&mut written, 2, &now);
    written.extend_from_slice(&others);
    Some(Outcome::Changed(written))
}

/// An `AnyValue` under a key, after one rule. `None`: no readable message.
fn of_rule(redactor: &Redactor, rule: &Rule, key: &str, value: &[u8], depth: usize) -> Option<Outcome<Vec<u8>>> {
    if rule.matches_key(Some(key)) {
        return match (rule.takes_whole(), rule.action) {
            (true, Action::Drop) => Some(Outcome::Dropped),
            (true, Action::Mask) => Some(Outcome::Changed(string(MASK))),
            (true, Action::Hash) => Some(Outcome::Changed(string(&redactor.hash(&plain(value)?)))),
            (false, _) => found_in(redactor, rule, value, depth),
        };
    }
    // Keys within a value: `a.b` for b in a, and b alone.
    inside(value, depth, |number, content| match number {
        any::MAP => pairs(content, |inner, value| {
            let path = format!("{key}.{inner}");
            let path = if rule.matches_key(Some(&path)) { &path } else { inner };
            match rule.matches_key(Some(path)) {
                true => of_rule(redactor, rule, path, value, depth + 1),
                false => of_rule(redactor, rule, &format!("{key}.{inner}"), value, depth + 1),
            }
        }),
        _ => elements(content, |value| of_rule(redactor, rule, key, value, depth + 1)),
    })
}

/// An `AnyValue` without what a rule finds in its texts.
fn found_in(redactor: &Redactor, rule: &Rule, value: &[u8], depth: usize) -> Option<Outcome<Vec<u8>>> {
    let Some(last) = last(value)? else { return Some(Outcome::Kept) };
    let of_text = |text: &str| match (changed_text(redactor, rule, text), rule.action) {
        (None, _) => Outcome::Kept,
        (Some(_), Action::Drop) => Outcome::Dropped,
        (Some(next), _) => Outcome::Changed(string(&next)),
    };
    let outcome = match (last.number, last.content) {
        (any::STRING, Content::Bytes(text)) => of_text(&String::from_utf8_lossy(text)),
        (any::INT, Content::Varint(number)) => of_text(&(number as i64).to_string()),
        (any::ARRAY | any::MAP, _) => inside(value, depth, |number, content| match number {
            any::MAP => pairs(content, |_, value| found_in(redactor, rule, value, depth + 1)),
            _ => elements(content, |value| found_in(redactor, rule, value, depth + 1)),
        })?,
        _ => Outcome::Kept,
    };
    Some(match outcome {
        Outcome::Kept if last.is_not_alone => Outcome::Changed(last.raw.to_vec()),
        outcome => outcome,
    })
}

/// The text without what the rule finds, if it finds anything.
fn changed_text(redactor: &Redactor, rule: &Rule, text: &str) -> Option<String> {
    let found = match rule.takes_whole() {
        true => return None,
        false => rule.find(text),
    };
    if found.is_empty() {
        return None;
    }
    let (mut changed, mut at) = (String::with_capacity(text.len()), 0);
    for part in found {
        changed.push_str(&text[at..part.start]);
        match rule.action {
            Action::Hash => changed.push_str(&redactor.hash(text[part.clone()].as_bytes())),
            Action::Mask | Action::Drop => changed.push_str(MASK),
        }
        at = part.end;
    }
    changed.push_str(&text[at..]);
    Some(changed)
}

/// The field of an `AnyValue` that counts.
struct Last<'m> {
    number: u64,
    content: Content<'m>,
    raw: &'m [u8],
    /// Others stand before it.
    is_not_alone: bool,
}

/// The inner `None` is an empty value.
fn last(value: &[u8]) -> Option<Option<Last<'_>>> {
    let (mut at, mut last) = (0, None::<Last>);
    while at < value.len() {
        let Field { number, content, raw, end } = wire::field(value, at)?;
        at = end;
        if (1..=7).contains(&number) {
            last = Some(Last { number, content, raw, is_not_alone: last.is_some() });
        }
    }
    Some(last)
}

/// What is hashed: a text without its frame, so that it has the same hash wherever it stands, and other values as they are.
fn plain(value: &[u8]) -> Option<Cow<'_, [u8]>> {
    Some(match last(value)?.map(|last| (last.number, last.content)) {
        Some((any::STRING, Content::Bytes(text))) => Cow::Borrowed(text),
        Some((any::INT, Content::Varint(number))) => Cow::Owned((number as i64).to_string().into_bytes()),
        _ => Cow::Borrowed(value),
    })
}

/// An array or a map after `change` was at its content.
fn inside(
    value: &[u8],
    depth: usize,
    change: impl FnOnce(u64, &[u8]) -> Option<Outcome<Vec<u8>>>,
) -> Option<Outcome<Vec<u8>>> {
    match last(value)?.map(|last| (last.number, last.content)) {
        Some((number @ (any::ARRAY | any::MAP), Content::Bytes(content))) if depth < DEPTH_MAX => {
            Some(match change(number, content)? {
                Outcome::Changed(content) => {
                    let mut written = Vec::with_capacity(content.len() + 8);
                    wire::put_bytes(&mut written, number, &content);
                    Outcome::Changed(written)
                }
                other => other,
            })
        }
        _ => Some(Outcome::Kept),
    }
}

/// An `ArrayValue`: dropped elements are empty, so that the others keep their places.
fn elements(
    array: &[u8],
    mut change: impl FnMut(&[u8]) -> Option<Outcome<Vec<u8>>>,
) -> Option<Outcome<Vec<u8>>> {
    repeated(array, |element| {
        Some(match change(element)? {
            Outcome::Dropped => Outcome::Changed(Vec::new()),
            other => other,
        })
    })
}

/// A `KeyValueList`.
fn pairs(
    map: &[u8],
    mut change: impl FnMut(&str, &[u8]) -> Option<Outcome<Vec<u8>>>,
) -> Option<Outcome<Vec<u8>>> {
    repeated(map, |pair| {
        let (mut key, mut value, mut at) = (&b""[..], &b""[..], 0);
        while at < pair.len() {
            let field = wire::field(pair, at)?;
            at = field.end;
            match (field.number, field.content) {
                (1, Content::Bytes(content)) => key = content,
                (2, Content::Bytes(content)) => value = content,
                _ => {}
            }
        }
        Some(match change(&String::from_utf8_lossy(key), value)? {
            Outcome::Changed(value) => {
                let mut written = Vec::new();
                wire::put_bytes(&mut written, 1, key);
                wire::put_bytes(&mut written, 2, &value);
                Outcome::Changed(written)
            }
            other => other,
        })
    })
}

/// A message whose field 1 is repeated.
fn repeated(
    message: &[u8],
    mut change: impl FnMut(&[u8]) -> Option<Outcome<Vec<u8>>>,
) -> Option<Outcome<Vec<u8>>> {
    let (mut written, mut changed, mut at) = (Vec::new(), false, 0);
    while at < message.len() {
        let field = wire::field(message, at)?;
        at = field.end;
        let outcome = match (field.number, field.content) {
            (1, Content::Bytes(content)) => change(content)?,
            _ => Outcome::Kept,
        };
        match outcome {
            Outcome::Kept => written.extend_from_slice(field.raw),
            Outcome::Changed(content) => {
                wire::put_bytes(&mut written, 1, &content);
                changed = true;
            }
            Outcome::Dropped => changed = true,
        }
    }
    Some(if changed { Outcome::Changed(written) } else { Outcome::Kept })
}

/// An `AnyValue` that is a string.
fn string(text: &str) -> Vec<u8> {
    let mut value = Vec::with_capacity(text.len() + 2);
    wire::put_bytes(&mut value, any::STRING, text.as_bytes());
    value
}
