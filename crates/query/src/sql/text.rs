//! From SQL text to one `SELECT` statement that can do no harm.
//!
//! `attribute('...')` and `attribute_number('...')` become columns: the table is made with exactly those that the text
//! names. What is bounded here is what the memory of a query cannot be charged for: how long texts can grow in one value.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::{
    ast::{BinaryOperator, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, Statement, Value, visit_expressions_mut},
    dialect::GenericDialect,
    parser::Parser,
    tokenizer::{Token, Tokenizer},
};

use super::columns::{Column, Content};
use crate::request::QueryError;

/// The longest SQL text.
pub const TEXT_BYTES_MAX: usize = 64 * 1024;
/// The most words and signs. It bounds how deep expressions can nest, and so the stack that planning takes.
const TOKENS_MAX: usize = 1_000;
/// The longest text literal.
const LITERAL_BYTES_MAX: usize = 4096;
/// Texts put together, over the whole query: each can double the length of a value.
const CONCATENATIONS_MAX: usize = 6;
/// What becomes longer with each row, and which over a window is there once for each.
const GROWING: [&str; 3] = ["array_agg", "string_agg", "listagg"];
/// Different attributes in one query.
const ATTRIBUTES_MAX: usize = 100;

/// A checked statement, and the columns for the attributes it names.
pub struct Read {
    pub statement: Statement,
    pub attributes: Vec<Column>,
}

pub fn read(text: &str) -> Result<Read, QueryError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(QueryError::invalid(format!("the SQL text has {} bytes; the most is {TEXT_BYTES_MAX}", text.len())));
    }
    let wrong = |e| QueryError::invalid(format!("invalid SQL: {e}"));
    let tokens = Tokenizer::new(&GenericDialect {}, text).tokenize().map_err(|e| QueryError::invalid(format!("invalid SQL: {e}")))?;
    let count = tokens.iter().filter(|token| !matches!(token, Token::Whitespace(_))).count();
    if count > TOKENS_MAX {
        return Err(QueryError::invalid(format!("the SQL text has {count} words and signs; the most is {TOKENS_MAX}")));
    }
    let mut statements = Parser::parse_sql(&GenericDialect {}, text).map_err(wrong)?;
    let (Some(mut statement @ Statement::Query(_)), true) = (statements.pop(), statements.is_empty()) else {
        return Err(QueryError::invalid("only one SELECT statement can be asked; nothing can be written, created or copied"));
    };
    let mut reader = Reader::default();
    let found = visit_expressions_mut(&mut statement, |expr| match reader.look_at(expr) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(error),
    });
    match found {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(Read { statement, attributes: reader.attributes }),
    }
}

#[derive(Default)]
struct Reader {
    attributes: Vec<Column>,
    concatenations: usize,
}

impl Reader {
    fn look_at(&mut self, expr: &mut Expr) -> Result<(), QueryError> {
        match expr {
            Expr::Value(value) => {
                let long = matches!(&value.value, Value::SingleQuotedString(text) if text.len() > LITERAL_BYTES_MAX);
                if long {
                    return Err(QueryError::invalid(format!("a text literal has more than {LITERAL_BYTES_MAX} bytes")));
                }
            }
            Expr::BinaryOp { op: BinaryOperator::StringConcat, .. } => self.concatenate(1)?,
            Expr::Function(function) => {
                let name = function.name.to_string().to_ascii_lowercase();
                let arguments = match &function.args {
                    FunctionArguments::List(list) => list.args.as_slice(),
                    _ => &[],
                };
                if function.over.is_some() && GROWING.contains(&name.as_str()) {
                    return Err(QueryError::invalid(format!("{name} cannot be used over a window: each row would hold the rows before it")));
                }
                match name.as_str() {
                    "concat" => self.concatenate(arguments.len())?,
                    "attribute" | "attribute_number" => {
                        let column = self.attribute(&name, arguments)?;
                        *expr = Expr::Identifier(Ident::with_quote('"', column));
                    }
                    _ => {}
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn concatenate(&mut self, more: usize) -> Result<(), QueryError> {
        self.concatenations += more;
        if self.concatenations > CONCATENATIONS_MAX {
            return Err(QueryError::invalid(format!("more than {CONCATENATIONS_MAX} texts are put together with || or concat")));
        }
        Ok(())
    }

    /// The name of the attribute's column.
    fn attribute(&mut self, function: &str, arguments: &[FunctionArg]) -> Result<String, QueryError> {
        let [FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(value)))] = arguments else {
            return Err(how(function));
        };
        let Value::SingleQuotedString(text) = &value.value else { return Err(how(function)) };
        let attribute = traceql::parse_attribute(text)
            .map_err(|e| QueryError::invalid(format!("{function}('{text}'): this is not a TraceQL name: {e}")))?;
        if attribute.of_parent {
            return Err(QueryError::invalid(format!("{function}('{text}'): attributes of the parent span cannot be asked for")));
        }
        let content = match function {
            "attribute" => Content::AttributeText(attribute),
            _ => Content::AttributeNumber(attribute),
        };
        let name = format!("{function}({text})");
        if !self.attributes.iter().any(|known| known.name == name) {
            if self.attributes.len() == ATTRIBUTES_MAX {
                return Err(QueryError::invalid(format!("more than {ATTRIBUTES_MAX} attributes are named")));
            }
            self.attributes.push(Column { name: name.clone(), content });
        }
        Ok(name)
    }
}

fn how(function: &str) -> QueryError {
    QueryError::invalid(format!("{function} takes one name in quotes, such as {function}('span.http.route')"))
}
