//! Cutting what is longer than a limit allows.

use std::borrow::Cow;

use proto::wire::{Attribute, Value};

use super::Warnings;

/// The attribute with its key and string value no longer than `bytes_max` (0 = no limit), cut between
/// characters. Each cut is counted.
#[inline]
pub(super) fn attribute<'a>(mut attribute: Attribute<'a>, bytes_max: usize, warnings: &mut Warnings) -> Attribute<'a> {
    if bytes_max == 0 {
        return attribute;
    }
    if attribute.key.len() > bytes_max {
        text(&mut attribute.key, bytes_max);
        warnings.keys_cut += 1;
    }
    if let Value::String(value) = &mut attribute.value
        && value.len() > bytes_max
    {
        text(value, bytes_max);
        warnings.values_cut += 1;
    }
    attribute
}

/// A name, message or state no longer than `bytes_max` (0 = no limit), cut between characters. A cut is counted.
#[inline]
pub(super) fn words<'a>(text: &'a str, bytes_max: usize, warnings: &mut Warnings) -> &'a str {
    if bytes_max == 0 || text.len() <= bytes_max {
        return text;
    }
    warnings.words_cut += 1;
    &text[..text.floor_char_boundary(bytes_max)]
}

fn text(text: &mut Cow<'_, str>, bytes_max: usize) {
    let end = text.floor_char_boundary(bytes_max);
    match text {
        Cow::Borrowed(borrowed) => *text = Cow::Borrowed(&borrowed[..end]),
        Cow::Owned(owned) => owned.truncate(end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_characters() {
        for (full, bytes_max, expected) in [("añb", 2, "a"), ("añb", 3, "añ"), ("😀", 3, "")] {
            let mut borrowed = Cow::Borrowed(full);
            text(&mut borrowed, bytes_max);
            assert_eq!(borrowed, expected);
            let mut owned: Cow<'_, str> = Cow::Owned(full.to_owned());
            text(&mut owned, bytes_max);
            assert_eq!(owned, expected);
        }
    }
}
