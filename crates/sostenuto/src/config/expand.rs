//! What may stand after a dollar sign in a value: `${NAME}`, `${NAME:-default}`, `${NAME-default}`, and `$$` for itself.
//!
//! The YAML reader expands these inside scalars of every style, and much more that a person would not expect (`$NAME`, an
//! unset name as nothing). This check runs first and refuses the rest, with the place and what to write.

use std::collections::HashMap;

use serde_saphyr::granit_parser::{Event, Parser};

/// A dollar sign that cannot be expanded.
pub struct Refused {
    /// From 1.
    pub line: u64,
    /// From 1.
    pub column: u64,
    pub message: String,
}

/// Looks at every scalar. A text that is no YAML is left for the reader to complain about.
pub fn check(text: &str, environment: &HashMap<String, String>) -> Result<(), Refused> {
    for event in Parser::new_from_str(text) {
        let Ok((event, span)) = event else { return Ok(()) };
        let Event::Scalar(value, ..) = event else { continue };
        if let Err(message) = check_scalar(&value, environment) {
            return Err(Refused { line: span.start.line() as u64, column: span.start.col() as u64 + 1, message });
        }
    }
    Ok(())
}

fn check_scalar(value: &str, environment: &HashMap<String, String>) -> Result<(), String> {
    let mut rest = value;
    while let Some((_, after)) = rest.split_once('$') {
        if let Some(escaped) = after.strip_prefix('$') {
            rest = escaped;
            continue;
        }
        let Some(inside) = after.strip_prefix('{') else {
            if after.is_empty() {
                return Err("write $$ for a dollar sign; inside { } put a ${NAME} between quotes".to_owned());
            }
            return Err("write $$ for a dollar sign, or ${NAME} for an environment variable".to_owned());
        };
        let Some((reference, behind)) = inside.split_once('}') else {
            return Err("this ${ is not closed".to_owned());
        };
        let length = reference.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(reference.len());
        let (name, default) = reference.split_at(length);
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err("this ${…} names no environment variable; write $$ for a dollar sign".to_owned());
        }
        match default.strip_prefix(":-").or(default.strip_prefix('-')) {
            Some(text) if text.contains('$') => {
                return Err(format!("the default of ${{{name}…}} cannot have a dollar sign"));
            }
            Some(_) => {}
            None if !default.is_empty() => {
                return Err(format!("after the name {name}, only :-default or -default may follow"));
            }
            None if !environment.contains_key(name) => {
                return Err(format!(
                    "the environment variable {name} is not set; set it, or give a default with ${{{name}:-default}}"
                ));
            }
            None => {}
        }
        rest = behind;
    }
    Ok(())
}
