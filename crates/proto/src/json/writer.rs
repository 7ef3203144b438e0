//! Objects whose zero fields are left out.

use std::fmt::Display;
use std::io::Write;

/// An object that is being written. Every method but those named `always` leaves out a zero value.
pub(crate) struct Object<'w> {
    out: &'w mut Vec<u8>,
    empty: bool,
}

impl<'w> Object<'w> {
    /// Writes one object.
    pub(crate) fn write(out: &'w mut Vec<u8>, fields: impl FnOnce(&mut Object<'_>)) {
        out.push(b'{');
        let mut object = Object { out, empty: true };
        fields(&mut object);
        object.out.push(b'}');
    }

    /// Writes the key; the caller writes the value.
    pub(crate) fn key(&mut self, key: &str) -> &mut Vec<u8> {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        write_text(self.out, key);
        self.out.push(b':');
        self.out
    }

    pub(crate) fn text(&mut self, key: &str, value: &str) {
        if !value.is_empty() {
            write_text(self.key(key), value);
        }
    }

    pub(crate) fn number(&mut self, key: &str, value: u32) {
        if value != 0 {
            write_display(self.key(key), value);
        }
    }

    /// A 64-bit integer, as a string.
    pub(crate) fn long<T: Display + Default + PartialEq>(&mut self, key: &str, value: T) {
        if value != T::default() {
            self.always_long(key, value);
        }
    }

    pub(crate) fn always_long(&mut self, key: &str, value: impl Display) {
        let out = self.key(key);
        out.push(b'"');
        write_display(out, value);
        out.push(b'"');
    }

    pub(crate) fn double(&mut self, key: &str, value: f64) {
        if value != 0.0 {
            write_double(self.key(key), value);
        }
    }

    pub(crate) fn object(&mut self, key: &str, fields: impl FnOnce(&mut Object<'_>)) {
        Object::write(self.key(key), fields);
    }

    pub(crate) fn list<T>(&mut self, key: &str, items: &[T], write: impl FnMut(&mut Vec<u8>, &T)) {
        if !items.is_empty() {
            self.always_list(key, items, write);
        }
    }

    pub(crate) fn always_list<T>(&mut self, key: &str, items: &[T], mut write: impl FnMut(&mut Vec<u8>, &T)) {
        let out = self.key(key);
        out.push(b'[');
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            write(out, item);
        }
        out.push(b']');
    }
}

pub(crate) fn write_text(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("writing to memory does not fail");
}

fn write_display(out: &mut Vec<u8>, value: impl Display) {
    write!(out, "{value}").expect("writing to memory does not fail");
}

/// A double; whole numbers without a fraction, and as a string what JSON has no number for.
pub(crate) fn write_double(out: &mut Vec<u8>, value: f64) {
    if value.is_nan() {
        out.extend_from_slice(b"\"NaN\"");
    } else if value.is_infinite() {
        out.extend_from_slice(if value > 0.0 { b"\"Infinity\"" } else { b"\"-Infinity\"" });
    } else {
        serde_json::to_writer(&mut *out, &value).expect("writing to memory does not fail");
        if out.ends_with(b".0") {
            out.truncate(out.len() - 2);
        }
    }
}
