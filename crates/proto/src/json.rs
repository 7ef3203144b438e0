//! JSON text, written and read: the little that both JSON forms of the messages share.

mod reader;
mod trace;
mod writer;

pub(crate) use reader::Reader;
pub use reader::JsonError;
pub(crate) use trace::{Flavour, write_key_value, write_resource_spans};
pub(crate) use writer::{Object, write_double, write_text};
