//! TraceQL: text to checked query, and back to canonical text.
//!
//! `parse` reads a query in three steps: tokens (`lexer`), a tree (`parser`), what the tree must satisfy (`check`);
//! then constants are computed (`fold`). The tree is in `ast`, and its `Display` is the query's canonical text:
//! `parse(tree.to_string()) == tree`.
//!
//! No text makes this crate panic or recurse deeply. The bounds: `QUERY_BYTES_MAX`, `NODES_MAX`, `HEIGHT_MAX`,
//! `NESTING_MAX`, `PATTERNS_MAX`, `PATTERN_BYTES_MAX`, `COMPILED_BYTES_MAX`. This crate knows nothing of storage.

pub mod ast;
pub mod chain;
mod check;
mod duration;
mod error;
mod fold;
mod label;
mod lenient;
mod lexer;
mod names;
mod parser;
mod pattern;
mod print;

pub use check::{METRICS_BY_MAX, PATTERNS_MAX, Type, span_of, type_of};
pub use duration::go_duration;
pub use error::ParseError;
pub use fold::{arithmetic, compare, negate, order, order_int_float};
pub use label::label;
pub use lenient::{condition_groups, lenient_filter};
pub use parser::{HEIGHT_MAX, NESTING_MAX, NODES_MAX, QUERY_BYTES_MAX};
pub use pattern::{COMPILED_BYTES_MAX, PATTERN_BYTES_MAX, PatternError, compile_regex};

use ast::{Attribute, Query, QueryBody};

/// Reads and checks a query. Whether it searches or computes series shows in its body.
pub fn parse(text: &str) -> Result<Query, ParseError> {
    parser::query(text)
        .and_then(|query| check::query(&query).map(|()| query))
        .and_then(fold::query)
        .map_err(|fault| fault.at(text))
}

/// Reads the name of one attribute or intrinsic: `.foo`, `span.foo`, `span."with space"`, `event:name`, `name`.
pub fn parse_attribute(text: &str) -> Result<Attribute, ParseError> {
    if text.len() > QUERY_BYTES_MAX {
        let span = ast::Span::default();
        let message = format!("the name is {} bytes long; at most {QUERY_BYTES_MAX} are allowed", text.len());
        return Err(error::Fault::new(span, message).at(text));
    }
    lexer::lex_attribute(text).map_err(|fault| fault.at(text))
}

impl Query {
    /// Whether the query computes series rather than finding spans.
    pub fn is_metrics(&self) -> bool {
        matches!(self.body, QueryBody::Metrics(_))
    }

    /// The value of a hint; of equal keys the last counts.
    pub fn hint(&self, key: &str) -> Option<&ast::Static> {
        self.hints.iter().rev().find(|hint| hint.key == key).map(|hint| &hint.value)
    }
}
