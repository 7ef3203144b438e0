//! What is a query, what it means, and what is said of what is none.

use traceql::ast::*;
use traceql::parse;

/// The queries of `queries.txt`: facts about the language, from the reference documents and from recorded answers.
#[test]
fn known_queries_are_read_or_refused() {
    let mut wrong = Vec::new();
    for line in include_str!("../queries.txt").lines().filter(|line| !line.starts_with('#')) {
        let (expected, query) = line.split_once('\t').expect("a kind, a tab, a query");
        let found = match parse(query) {
            Ok(parsed) if parsed.is_metrics() => "metrics".to_owned(),
            Ok(_) => "search".to_owned(),
            Err(_) if expected == "refused" => "refused".to_owned(),
            Err(error) => error.to_string(),
        };
        if found != expected {
            wrong.push(format!("{query}\n  expected {expected}, found {found}"));
        }
        if let Ok(parsed) = parse(query) {
            assert_eq!(parse(&parsed.to_string()).as_ref(), Ok(&parsed), "{query}");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A query and its canonical text.
#[track_caller]
fn canonical(query: &str, expected: &str) {
    match parse(query) {
        Ok(parsed) => assert_eq!(parsed.to_string(), expected, "{query}"),
        Err(error) => panic!("{}", error.render(query)),
    }
    assert_eq!(parse(expected), parse(query), "{query}");
}

#[test]
fn precedence() {
    let table = [
        // `&&` and `||` share a level and lean left.
        ("{ .a || .b && .c }", "{ (.a || .b) && .c }"),
        ("{ .a && .b || .c }", "{ (.a && .b) || .c }"),
        ("{ .a || (.b && .c) }", "{ .a || (.b && .c) }"),
        ("{ .a && (.b && .c) }", "{ .a && .b && .c }"),
        ("{ .a = 1 && .b = 2 }", "{ .a = 1 && .b = 2 }"),
        ("{ .a + 1 > .b * 2 }", "{ .a + 1 > .b * 2 }"),
        ("{ (.a + 1) * 2 > 3 }", "{ (.a + 1) * 2 > 3 }"),
        ("{ .a - (.b - .c) = 0 }", "{ .a - (.b - .c) = 0 }"),
        ("{ .a - .b - .c = 0 }", "{ .a - .b - .c = 0 }"),
        ("{ .a ^ .b ^ .c = 0 }", "{ .a ^ .b ^ .c = 0 }"),
        ("{ (.a ^ .b) ^ .c = 0 }", "{ (.a ^ .b) ^ .c = 0 }"),
        ("{ -.a ^ 2 = 0 }", "{ -.a ^ 2 = 0 }"),
        ("{ (-.a) ^ 2 = 0 }", "{ (-.a) ^ 2 = 0 }"),
        ("{ -.a + .b = 0 }", "{ -.a + .b = 0 }"),
        ("{ -(.a + .b) = 0 }", "{ -(.a + .b) = 0 }"),
        ("{ -2 * .a = 0 }", "{ -2 * .a = 0 }"),
        ("{ (-2) * .a = 0 }", "{ (-2) * .a = 0 }"),
        ("{ .a * -2 = 0 }", "{ .a * (-2) = 0 }"),
        ("{ !.a = true }", "{ !.a = true }"),
        ("{ !(.a = true) }", "{ !(.a = true) }"),
        ("{ !.a && .b }", "{ !.a && .b }"),
        ("{ .a = .b = .c }", "{ .a = .b = .c }"),
        ("{ .a = (.b = .c) }", "{ .a = (.b = .c) }"),
        // Spansets.
        ("{ .a } || { .b } && { .c }", "({ .a } || { .b }) && { .c }"),
        ("{ .a } >> { .b } && { .c }", "({ .a } >> { .b }) && { .c }"),
        ("{ .a } && { .b } >> { .c }", "{ .a } && ({ .b } >> { .c })"),
        ("{ .a } > { .b } ~ { .c }", "{ .a } > { .b } ~ { .c }"),
        ("{ .a } > ({ .b } > { .c })", "{ .a } > ({ .b } > { .c })"),
        // Scalars.
        ("count() + 1 * 2 > -3", "count() + 2 > -3"),
        ("(count() + 1) * 2 > 3", "(count() + 1) * 2 > 3"),
        ("-count() ^ 2 < 0", "-count() ^ 2 < 0"),
    ];
    for (query, expected) in table {
        canonical(query, expected);
    }
}

#[test]
fn names_have_one_text() {
    let table = [
        ("{ span:duration > 1s }", "{ duration > 1s }"),
        ("{ trace:rootService = \"a\" }", "{ rootServiceName = \"a\" }"),
        ("{ trace:duration > 1s }", "{ traceDuration > 1s }"),
        ("{ span:id = \"a\" }", "{ span:id = \"a\" }"),
        ("{ instrumentation:name = \"a\" }", "{ instrumentation:name = \"a\" }"),
        ("{ span.\"a\" }", "{ span.a }"),
        ("{ .a.\"b c\".d }", "{ .\"a.b c.d\" }"),
        ("{ .\"5xx\" }", "{ .\"5xx\" }"),
        ("{ span.\"5xx\" }", "{ span.5xx }"),
        ("{ span.\"a\\\"b\\\\c\" }", "{ span.\"a\\\"b\\\\c\" }"),
        ("{ .a+.b = 1 }", "{ .a+.b = 1 }"),
        ("{ parent.service.name = 1 }", "{ parent.service.name = 1 }"),
        ("{ parent.\"span.x\" = 1 }", "{ parent.\"span.x\" = 1 }"),
        ("{ parent.span.x = 1 }", "{ parent.span.x = 1 }"),
        ("{ parent.span:name = \"a\" }", "{ parent.name = \"a\" }"),
        ("{ parent.name = \"a\" }", "{ parent.name = \"a\" }"),
        ("{ parent.\"name\" = \"a\" }", "{ parent.\"name\" = \"a\" }"),
        ("{ parent.span.name = \"a\" }", "{ parent.span.name = \"a\" }"),
        ("{ parent.span:id = \"a\" }", "{ parent.span:id = \"a\" }"),
        ("{ parent.nestedSetLeft = 1 }", "{ parent.nestedSetLeft = 1 }"),
        ("{ parent = nil }", "{ parent = nil }"),
    ];
    for (query, expected) in table {
        canonical(query, expected);
    }
    // A label keeps inner quotes as they are.
    let label = |name: &str| traceql::parse_attribute(name).unwrap().to_string();
    assert_eq!(label("span.\"with space\""), "span.\"with space\"");
    assert_eq!(label("span.\"quo\\\"ted\""), "span.quo\"ted");
    assert_eq!(label("span.\"a \\\"b\\\"\""), "span.\"a \"b\"\"");
    assert_eq!(label("span.ünïcode/キー"), "span.ünïcode/キー");
    assert_eq!(label("span:kind"), "kind");
    assert_eq!(label(".5xx"), ".5xx");
}

#[test]
fn constants_are_folded() {
    let table = [
        ("{ }", "{ }"),
        ("{ true }", "{ }"),
        ("{ 1 + 1 = 2 }", "{ }"),
        ("{ 2 ^ 3 = 8 }", "{ }"),
        ("{ 2 ^ 3 ^ 0 = 2 }", "{ }"),
        ("{ -2 ^ 2 = -4 }", "{ }"),
        ("{ 7 / 2 = 3 && 7.0 / 2 = 3.5 }", "{ }"),
        ("{ 1 = 1.0 }", "{ }"),
        ("{ 1s = 1000000000 }", "{ }"),
        ("{ nil = nil }", "{ false }"),
        ("{ nil != nil }", "{ false }"),
        ("{ \"a\" < \"b\" }", "{ }"),
        ("{ \"abc\" =~ \"b\" }", "{ false }"),
        ("{ \"abc\" !~ \"b\" }", "{ }"),
        ("{ 2 in [1, 2] }", "{ }"),
        ("{ 2 not in [1, 2] }", "{ false }"),
        ("{ !(1 > 2) }", "{ }"),
        ("{ error = ok || server = server }", "{ }"),
        ("{ duration > 2 * 100ms }", "{ duration > 200ms }"),
        ("{ duration > 1m + 2500ms }", "{ duration > 1m2.5s }"),
        ("{ .a = -9223372036854775807 - 1 }", "{ .a = minInt }"),
        ("{ .a = maxInt }", "{ .a = 9223372036854775807 }"),
        ("{ \"a\" = \"a\" && kind = server }", "{ true && kind = server }"),
        ("{ nil = .a }", "{ .a = nil }"),
        ("count() > 2 * 3", "count() > 6"),
        ("({ } | rate()) * (2 + 3)", "({ } | rate()) * 5"),
        ("({ } | rate()) * -1s", "({ } | rate()) * (-1)"),
    ];
    for (query, expected) in table {
        canonical(query, expected);
    }
}

#[test]
fn pipelines_and_metrics() {
    let table = [
        ("{.a}|{.b}", "{ .a } | { .b }"),
        ("({ .a } | count() > 2)", "{ .a } | count() > 2"),
        ("{ .a } | ({ .b } | { .c })", "{ .a } | { .b } | { .c }"),
        ("({ .a } | count() > 2) && ({ .b })", "({ .a } | count() > 2) && { .b }"),
        ("{ } | sum(duration) > 1s && { .a }", "{ } | (sum(duration) > 1s) && { .a }"),
        ("({ } | count()) > 1", "({ } | count()) > 1"),
        ("1 < ({ .a } | by(name) | max(duration)) / 2", "1 < ({ .a } | by(name) | max(duration)) / 2"),
        ("by(name) | count() > 1 | coalesce()", "by(name) | count() > 1 | coalesce()"),
        ("select(.a,span:name)", "select(.a, name)"),
        ("{ } | rate( ) by (name , .a)", "{ } | rate() by(name, .a)"),
        ("{ } | rate() | topk(5) > 0.5 | bottomk(3)", "{ } | rate() | topk(5) > 0.5 | bottomk(3)"),
        ("{ } | rate() > 1.5s", "{ } | rate() > 1.5"),
        ("{ } | rate() != -2", "{ } | rate() != -2"),
        ("({ } | rate()) | topk(2)", "{ } | rate() | topk(2)"),
        ("{ } | rate() + 1", "({ } | rate()) + 1"),
        ("2 * ({ } | rate() > 1)", "2 * ({ } | rate() > 1)"),
        (
            "({ status = error } | rate() by(name)) / ({ } | rate() by(name)) * 100",
            "(({ status = error } | rate() by(name)) / ({ } | rate() by(name))) * 100",
        ),
        ("{ } | quantile_over_time(duration, .5, 1)", "{ } | quantile_over_time(duration, 0.5, 1)"),
        ("{ } | compare({})", "{ } | compare({ true })"),
        ("{ } | compare({ .a }, 5, 10, 20)", "{ } | compare({ .a }, 5, 10, 20)"),
        ("{ } with(a=1) with(b=-1s, a=\"x\")", "{ } with(a=1, b=-1s, a=\"x\")"),
        ("{ } // comment\n | /* two\nlines */ rate()", "{ } | rate()"),
    ];
    for (query, expected) in table {
        canonical(query, expected);
    }
    let hints = parse("{ } with(a=1) with(a=2)").unwrap();
    assert_eq!(hints.hint("a"), Some(&Static::Int(2)));
    assert_eq!(hints.hint("b"), None);
}

#[test]
fn accepts() {
    for query in [
        "{ name != nil }",
        "{ parent.span:name = nil }",
        "{ resource.service.name != nil }",
        "{ .a = nil && span.b != nil }",
        "{ 1. = 1 }",
        "{ } | min_over_time(name)",
        "{ } | quantile_over_time(status, .5) by (kind)",
        "{ } | compare({ .a }, 5, 0, 0)",
        "{ .a = error }",
        "{ .a in [\"x\", 1, true] }",
        "{ status in [ok, error] && kind not in [server] }",
        "{ duration in [1s, 5] }",
        "{ .a > .b && .c =~ `x` }",
        "{ (.a = .b) = true }",
        "{ -.a < 0 && -duration < 1s }",
        "{ .a } | by(.b + 1) | by(name = \"x\") | avg(.c * 2) > 1.5",
        "{ } | count() > 1s",
        "{ } | max(nestedSetLeft) > min(span:childCount) + 2",
        "{ } | rate() by(parent.span:name)",
        "{ } | sum_over_time(event:timeSinceStart)",
        "{ } | by(.a) | rate()",
        "({ } | rate()) - ({ } | count_over_time() by(name) | topk(2))",
        "{ .x = \"\\u00e9\\n\" }",
        "{\n\t.a\n=\n1\n}",
    ] {
        if let Err(error) = parse(query) {
            panic!("{}", error.render(query));
        }
    }
}

/// Each with where it is wrong, and a part of what is said.
#[test]
fn refuses_with_a_reason() {
    let table: &[(&str, &str, &str)] = &[
        ("", "", "query is empty"),
        ("  // nothing", "", "query is empty"),
        ("{", "", "found the end of the query"),
        ("{ } |", "", "found the end of the query"),
        ("{ } }", "}", "closes nothing"),
        ("{ } { }", "{", "side by side"),
        ("hello", "hello", "unknown function `hello`"),
        ("duration > 1s", "duration", "conditions stand in braces"),
        (".a = 1", ".a", "outside of braces"),
        ("{ foo = 1 }", "foo", "`.foo`"),
        ("{ duraton > 1s }", "duraton", "did you mean `duration`?"),
        ("{ childCount > 1 }", "childCount", "did you mean `span:childCount`?"),
        ("{ span:nam = 1 }", "span:nam", "did you mean `span:name`?"),
        ("{ service.name = 1 }", "service.name", "`resource.service.name`"),
        ("{ .a = 1 and .b = 2 }", "and", "expected an operator or `}`, found `and`"),
        ("{ .a == 1 }", "=", "one `=`"),
        ("{ .a = 1 | .b = 2 }", "|", "written `||`"),
        ("{ .a = [1] }", "[", "in [...]"),
        ("{ .a in [] }", "]", "expected a literal"),
        ("{ .a in [nil] }", "nil", "cannot be in a list"),
        ("{ .a in [.b ] }", ".b", "expected a literal"),
        ("{ status in [server] }", "status in [server]", "a status cannot be compared with a kind"),
        ("{ name }", "name", "a filter is true or false, but this is a string"),
        ("{ .a + 1 }", ".a + 1", "a filter is true or false"),
        ("{ nil }", "nil", "this is nil"),
        ("{ .a < nil }", ".a < nil", "`= nil` or `!= nil`"),
        ("{ duration = nil }", "duration = nil", "never holds"),
        ("{ resource.service.name = nil }", "resource.service.name = nil", "never holds"),
        ("{ parent }", "parent", "the parent span"),
        ("{ parent = 1 }", "parent", "can only be compared with `nil`"),
        ("{ parent.trace:id = \"a\" }", "parent.trace:id", "belongs to the trace"),
        ("{ parent.rootName = \"a\" }", "parent.rootName", "belongs to the trace"),
        ("{ } | select(parent)", "parent", "is not a value"),
        ("{ } | by(parent)", "parent", "is not a value"),
        ("{ status > ok }", "status > ok", "cannot be compared by `>`"),
        ("{ .a > true }", ".a > true", "cannot be compared by `>`"),
        ("{ status = 2 }", "status = 2", "a status cannot be compared with an integer"),
        ("{ 3 = kind }", "3 = kind", "cannot be compared with"),
        ("{ status = 3.5 }", "status = 3.5", "a status cannot be compared with a float"),
        ("{ name =~ .a }", ".a", "needs a regular expression as a string"),
        ("{ name =~ \"(\" }", "\"(\"", "unclosed group"),
        ("{ name =~ \"a)(b\" }", "\"a)(b\"", "unopened group"),
        ("{ kind =~ \"a\" }", "kind", "matches strings"),
        ("{ .a && \"x\" }", "\"x\"", "this is a string"),
        ("{ !name }", "name", "true or false"),
        ("{ -name = 1 }", "name", "this is a string"),
        ("{ .a / 0 = 1 }", ".a / 0", "division by zero"),
        ("{ .a % (1 - 1) = 1 }", ".a % (1 - 1", "division by zero"),
        ("{ 1 / 0 = 1 }", "1 / 0", "division by zero"),
        ("{ maxInt + 1 = 1 }", "maxInt + 1", "64 bits"),
        ("{ -minInt = 1 }", "-minInt", "64 bits"),
        ("{ } | count()", "count()", "`count() > 2`"),
        ("({ } | count())", "({ } | count())", "not compared"),
        ("{ } | count() | count() > 1", "count()", "not compared"),
        ("{ } | count > 3", "count", "write `count()`"),
        ("{ } | count(.a) > 3", ".a", "takes nothing"),
        ("{ } | avg() > 3", ")", "needs a number"),
        ("{ } | avg(name) > 3", "name", "this is a string"),
        ("{ } | avg(3) > 3", "3", "the same for every span"),
        ("{ } | by(3)", "3", "the same for every span"),
        ("{ } | by(.a, .b)", ",", "| by(a) | by(b)"),
        ("{ } | 1 > 2", "1 > 2", "does not look at the spans"),
        ("({ } | 5) > 2", "5", "does not look at its spans"),
        ("{ } | count() =~ 3", "=~", "does not compare numbers"),
        ("{ } > 3", ">", "between spansets and a number"),
        ("{ } && count() > 1", "&&", "in parentheses"),
        ("{ } + { }", "+", "arithmetic is between numbers"),
        ("{ } | count() > \"a\"", "\"a\"", "a string cannot stand here"),
        ("coalesce()", "coalesce", "cannot come first"),
        ("({ }) && (coalesce())", "coalesce", "cannot come first"),
        ("rate()", "rate", "put spansets before it"),
        ("{ } | rates()", "rates", "did you mean `rate`?"),
        ("{ } | topk(3)", "topk", "there are none"),
        ("{ } | rate() | rate()", "rate", "one metrics function"),
        ("{ } | rate() | topk(0)", "0", "at least 1"),
        ("{ } | rate() | topk(1.5)", "1.5", "number of series"),
        ("{ } | rate() > \"a\"", "\"a\"", "a number or a duration"),
        ("{ } | rate() by (1)", "1", "expected an attribute"),
        ("{ } | rate() by (parent)", "parent", "is not a value"),
        ("{ } | quantile_over_time(duration, 1.5)", "1.5", "not from 0 to 1"),
        ("{ } | compare({ .a }) by (.b)", ".b", "nothing can follow"),
        ("{ } | compare({ .a }) > 1", "> 1", "nothing can follow"),
        ("{ } | compare({ .a }, 5, 20, 10)", "10", "after its start"),
        ("({ } | compare({ })) + 1", "{ } | compare({ })", "part of arithmetic"),
        ("({ } | rate()) / 0", "{ } | rate()", "divided by zero"),
        ("{ } | rate() / { } | rate()", "/", "in parentheses"),
        ("{ } | rate() > 1 + 2", "+", "ambiguous"),
        ("({ } | rate()) / ({ } | rate()) > 1", "> 1", "one metrics query"),
        ("({ } | rate()) + count()", "({ } | rate()) + count()", "an aggregate of spansets"),
        ("{ } with(foo)", ")", "`=`"),
        ("{ } with()", ")", "name of a hint"),
        ("{ } with(a=.b)", ".b", "literal"),
        ("({ } with(a=1))", "with", "expected `)`"),
    ];
    for (query, at, message) in table {
        let error = parse(query).expect_err(query);
        assert!(error.to_string().contains(message), "{query}: {error}");
        let found = &query[error.span.start as usize..error.span.end as usize];
        assert_eq!(found, *at, "{query}: {error}");
    }
}

#[test]
fn errors_begin_with_their_place() {
    let error = parse("{ .a = 1 }\n  | foo()").unwrap_err();
    assert!(error.to_string().starts_with("parse error at line 2, col 5: unknown function `foo`; "), "{error}");
    assert_eq!((error.line, error.column), (2, 5));
}

#[test]
fn trees_are_what_they_should_be() {
    let attribute = |name| {
        FieldExpr::Attribute(Attribute { of_parent: false, name, span: SpanOfName::default() })
    };
    let key = |scope, key: &str| attribute(AttributeName::Key { scope, key: key.to_owned() });
    let constant = |value| Box::new(FieldExpr::Static(value, Span::default()));
    let compare = |op, left, value| FieldExpr::Compare { op, left: Box::new(left), right: constant(value), span: Span::default() };

    let query = parse("{ resource.service.name = \"a\" && !(status = error) } | count() > 2").unwrap();
    let filter = FieldExpr::And(
        Box::new(compare(ComparisonOp::Equal, key(Some(Scope::Resource), "service.name"), Static::String("a".into()))),
        Box::new(FieldExpr::Not(Box::new(compare(
            ComparisonOp::Equal,
            attribute(AttributeName::Intrinsic(Intrinsic::Status)),
            Static::Status(Status::Error),
        )))),
    );
    let count = ScalarExpr::Aggregate(Aggregate { function: AggregateFunction::Count, argument: None, span: Span::default() });
    let expected = Query {
        body: QueryBody::Search(Pipeline {
            stages: vec![
                Stage::Spansets(SpansetExpr::Filter(filter)),
                Stage::ScalarFilter {
                    op: ComparisonOp::Greater,
                    left: count,
                    right: ScalarExpr::Static(Static::Int(2), Span::default()),
                    span: Span::default(),
                },
            ],
        }),
        hints: Vec::new(),
    };
    assert_eq!(query, expected);
}
