//! Fuzz target: no bytes make the parser panic, and what it reads prints to text that reads back as the same.
//!
//! Bytes come at random here, the same in every run; `CONTRIBUTING.md` says how to let coverage guide them.

use proptest::prelude::*;

/// Without `PROPTEST_CASES`.
const TEXTS: u32 = 12_000;
const BYTES_MAX: usize = 120;

/// Nearer to queries than random characters are.
const SCRAPS: &[&str] = &[
    "{", "}", "(", ")", "[", "]", ",", "|", "&&", "||", "=", "!=", "=~", "!~", ">", ">>", "!>>", "&<", "~", "!", "-", "+", "*",
    "/", "%", "^", ".a", "span.\"b c\"", "resource.service.name", "parent.x", "parent", "parent.name", "span:id", "name",
    "duration", "status", "nil", "true", "error", "server", "minInt", "maxInt", "1", "0", "0.5", "1e300", "100ms", "\"text\"",
    "\"(\"", "`raw`", "in", "not", "by", "count()", "avg(duration)", "coalesce()", "select(", "rate()",
    "quantile_over_time(duration, .5)", "compare({ }, 5)", "topk(3)", "with(a=1)", "{ }", "foo", "//", "&>>", "event:name",
    "sum_over_time(.a)",
];
const CHARACTERS: &str = "{}()[]|&=~!<>+*/%^.,:\"'`\\abcde0123456789 µé\n-";
const QUERY: &str = "({ .a = \"é\" && duration > 1.5s } &>> { span.\"b c\" =~ `x|y` }) | by(name) | avg(.x) > -2 | rate() by(kind) | topk(3) with(a=1)";

/// The first byte says what the others stand for.
fn text_of(bytes: &[u8]) -> String {
    let Some((kind, rest)) = bytes.split_first() else { return String::new() };
    let scraps = || rest.iter().map(|byte| SCRAPS[usize::from(*byte) % SCRAPS.len()]).collect::<Vec<_>>().join(" ");
    match kind % 6 {
        0 => String::from_utf8_lossy(rest).into_owned(),
        1 => {
            let characters: Vec<char> = CHARACTERS.chars().collect();
            rest.iter().map(|byte| characters[usize::from(*byte) % characters.len()]).collect()
        }
        2 => scraps(),
        3 => format!("{{ {} }}", scraps()),
        4 => format!("{{ }} | {}", scraps()),
        // A query, cut anywhere, and something in the place of the rest.
        _ => {
            let cut = rest.first().map_or(0, |byte| usize::from(*byte)).min(QUERY.len());
            let cut = (0..=cut).rev().find(|at| QUERY.is_char_boundary(*at)).unwrap_or(0);
            format!("{}{}", &QUERY[..cut], String::from_utf8_lossy(rest.get(1..).unwrap_or_default()))
        }
    }
}

fn answered(text: &str) {
    match traceql::parse(text) {
        Ok(query) => assert_eq!(traceql::parse(&query.to_string()).as_ref(), Ok(&query), "{text}"),
        Err(error) => {
            assert!(error.to_string().starts_with("parse error at line "), "{error}");
            error.render(text);
        }
    }
    traceql::lenient_filter(text);
    let _ = traceql::parse_attribute(text);
    let _ = traceql::compile_regex(text);
}

fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").map_or(TEXTS, |number| number.parse().expect("PROPTEST_CASES is a number"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..BYTES_MAX)) {
        answered(&text_of(&bytes));
    }
}

/// Every cut of a query and every single character.
#[test]
fn any_beginning_of_a_query_is_answered() {
    for (at, character) in QUERY.char_indices() {
        answered(&QUERY[..at]);
        answered(&character.to_string());
    }
}

#[cfg(fuzzing)]
#[test]
fn parser() {
    bolero::check!().for_each(|bytes: &[u8]| answered(&text_of(bytes)));
}
