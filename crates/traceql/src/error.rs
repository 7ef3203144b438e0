//! What is wrong with a query, where, and what would be right.

use crate::ast::Span;
use std::fmt;

/// A query that is not TraceQL, or is TraceQL that cannot mean anything.
#[derive(Clone, Debug, PartialEq)]
pub struct ParseError {
    /// The bytes of the query text that are wrong. Empty at the end of the text.
    pub span: Span,
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
    /// What is wrong, and what was found.
    pub message: String,
    /// What would be right.
    pub help: Option<String>,
}

/// A `ParseError` before its line and column are known.
#[derive(Debug)]
pub(crate) struct Fault {
    pub span: Span,
    pub message: String,
    pub help: Option<String>,
}

impl Fault {
    pub fn new(span: Span, message: impl Into<String>) -> Self {
        Fault { span, message: message.into(), help: None }
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub fn at(self, query: &str) -> ParseError {
        let start = floor_char_boundary(query, self.span.start as usize);
        let before = &query[..start];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        ParseError {
            span: self.span,
            line: 1 + before.matches('\n').count() as u32,
            column: 1 + before[line_start..].chars().count() as u32,
            message: self.message,
            help: self.help,
        }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "parse error at line {}, col {}: {}", self.line, self.column, self.message)?;
        match &self.help {
            Some(help) => write!(f, "; {help}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ParseError {}

/// The most characters of the query's line that `render` shows on either side of the mistake.
const RENDER_CONTEXT_CHARS: usize = 60;

impl ParseError {
    /// The error for a terminal: the line of the query with the mistake underlined.
    /// `query` is the text that was parsed.
    pub fn render(&self, query: &str) -> String {
        let line: Vec<char> = query
            .lines()
            .nth(self.line as usize - 1)
            .unwrap_or("")
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let column = (self.column as usize - 1).min(line.len());
        let start = floor_char_boundary(query, self.span.start as usize);
        let end = floor_char_boundary(query, self.span.end as usize).max(start);
        let marked = query[start..end].lines().next().unwrap_or("").chars().count().max(1);

        let from = column.saturating_sub(RENDER_CONTEXT_CHARS);
        let to = (column + RENDER_CONTEXT_CHARS).min(line.len());
        let marked = marked.min((to - column).max(1));
        let cut_left = if from > 0 { "…" } else { "" };
        let cut_right = if to < line.len() { "…" } else { "" };
        let shown: String = line[from..to].iter().collect();

        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        let indent = " ".repeat(column - from + cut_left.chars().count());
        let carets = "^".repeat(marked);
        let mut text = format!(
            "parse error at line {}, col {}: {}\n{margin} |\n{number} | {cut_left}{shown}{cut_right}\n{margin} | {indent}{carets}\n",
            self.line, self.column, self.message
        );
        if let Some(help) = &self.help {
            text.push_str(&format!("{margin} = help: {help}\n"));
        }
        text
    }
}

fn floor_char_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(start: u32, end: u32, query: &str) -> ParseError {
        Fault::new(Span { start, end }, "unknown name `foo`").help("write `.foo`").at(query)
    }

    #[test]
    fn counts_lines_and_characters() {
        let query = "{ true } |\n{ \"é\" = foo }";
        let at = query.find("foo").unwrap() as u32;
        let error = error(at, at + 3, query);
        assert_eq!((error.line, error.column), (2, 9));
        assert_eq!(error.to_string(), "parse error at line 2, col 9: unknown name `foo`; write `.foo`");
    }

    #[test]
    fn underlines_the_mistake() {
        let query = "{ foo = 1 }";
        assert_eq!(
            error(2, 5, query).render(query),
            "parse error at line 1, col 3: unknown name `foo`\n  |\n1 | { foo = 1 }\n  |   ^^^\n  = help: write `.foo`\n"
        );
    }

    #[test]
    fn cuts_long_lines_around_the_mistake() {
        let query = format!("{{ {} && foo = 1 && {} }}", "a".repeat(500), "b".repeat(500));
        let at = query.find("foo").unwrap() as u32;
        let text = error(at, at + 3, &query).render(&query);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[2].chars().count() < 140, "{text}");
        let caret = lines[3].chars().position(|c| c == '^').unwrap();
        assert_eq!(lines[2].chars().skip(caret).take(3).collect::<String>(), "foo");
    }

    #[test]
    fn renders_an_error_at_the_end_of_the_text() {
        let query = "{ ";
        assert!(error(2, 2, query).render(query).contains("1 | { \n  |   ^\n"));
        error(2, 2, "").render("");
    }
}
