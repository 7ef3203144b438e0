//! No text makes the parser panic, overflow its stack or run long.

use std::fmt::Write;

#[track_caller]
fn refused(query: &str, message: &str) {
    let error = traceql::parse(query).expect_err("should be refused");
    assert!(error.to_string().contains(message), "{error}");
    error.render(query);
    traceql::lenient_filter(query);
}

#[test]
fn deep_nesting_is_an_error() {
    let n = 100_000;
    for (open, close) in [("(", ")"), ("!", ""), ("-", ""), ("!-", ""), ("-(", ")"), ("1 ^ ", "1"), (".a ^ -", "")] {
        let n = n / (open.len() + close.len());
        refused(&format!("{{ {}.a{} }}", open.repeat(n), close.repeat(n)), "more than");
        refused(&format!("{{ {}.a", open.repeat(n)), "more than");
    }
    refused(&"(".repeat(n), "nested more than");
    refused(&format!("{}{{ }}{}", "(".repeat(n / 2), ")".repeat(n / 2)), "nested more than");
    refused(&format!("{{ }} | {}count() > 1", "-".repeat(n)), "nested more than");
    refused(&format!("{{ }} | {}count(){} > 1", "(".repeat(n / 2), ")".repeat(n / 2)), "nested more than");
    refused(&"{".repeat(n), "expected");
    refused(&"({ } | ".repeat(n / 8), "more than");
    refused(&"{ } | by(".repeat(n / 10), "expected");
    refused(&"{ } | count() > ( { } | ".repeat(n / 30), "more than");
}

#[test]
fn high_trees_are_an_error() {
    for op in ["+", "-", "*", "%", "^", "=", ">"] {
        refused(&format!("{{ .a{} }}", format!(" {op} .a").repeat(1_000)), "more than");
        refused(&format!("{{ .a{} }}", format!(" {op} .a").repeat(15_000)), "more than");
    }
    for op in ["&&", "||", ">>", "!~"] {
        refused(&format!("{{ }}{}", format!(" {op} {{ }}").repeat(1_000)), "more than");
    }
    refused(&format!("{{ }} | count(){} > 1", " + count()".repeat(1_000)), "more than");
    refused(&format!("({{ }} | rate()){}", " + 1".repeat(1_000)), "more than");
}

/// Up to the bounds, reading, printing and dropping fit into half of what a thread usually has.
#[test]
fn nesting_within_the_bounds_needs_little_stack() {
    let read_and_printed = || {
        let mut read = 0;
        let shapes = [
            ("{ ", "(", ".a = 1", ")", " }"),
            ("{ ", "!", ".a", "", " }"),
            ("{ ", "!(.b || ", ".a", ")", " }"),
            ("{ ", ".b && (.c || ", ".a", ")", " }"),
            ("{ ", ".b = (", ".a", ")", " }"),
            ("{ ", "(", ".a", " && .b) || .c", " }"),
            ("{ ", "", ".a", " && .b || .c", " }"),
            ("{ 0 < ", "-", ".a", "", " }"),
            ("{ 0 < ", ".b * (-2) - (", ".a", ")", " }"),
            ("{ 0 < ", "", ".a", " * (-2) - .b", " }"),
            ("{ 0 < ", ".a ^ ", ".a", "", " }"),
            ("{ 0 < ", ".a ^ -", ".a", "", " }"),
            ("{ 0 < ", "(", ".a", " ^ .b)", " }"),
            ("{ } | 1 < ", "count() ^ -", "count()", "", ""),
            ("", "(", "{ } | count() > 1", ")", ""),
            ("", "({ } && ", "{ }", " | count() > 1)", ""),
            ("", "", "{ }", " && { } || { }", ""),
            ("{ } | 1 < ", "({ } | count() + ", "count()", ")", ""),
            ("{ } | 1 < ", "-(-1 * ", "count()", ")", ""),
            ("", "-1 * (", "{ } | rate()", ")", ""),
            ("", "", "({ } | rate())", " * -1", ""),
        ];
        for (start, open, middle, close, end) in shapes {
            for n in 0..=traceql::NESTING_MAX {
                let query = format!("{start}{}{middle}{}{end}", open.repeat(n), close.repeat(n));
                if let Ok(tree) = traceql::parse(&query) {
                    assert_eq!(traceql::parse(&tree.to_string()).as_ref(), Ok(&tree), "{query}");
                    read += 1;
                }
            }
        }
        read
    };
    let thread = std::thread::Builder::new().stack_size(1024 * 1024).spawn(read_and_printed).unwrap();
    assert!(thread.join().unwrap() > 500);
}

#[test]
fn long_chains_of_choices_are_read() {
    let mut query = "{ status = error".to_owned();
    for n in 0..1_000 {
        write!(query, " || resource.service.name = \"service {n}\"").unwrap();
    }
    query.push_str(" }");
    let read = traceql::parse(&query).unwrap();
    assert_eq!(read.to_string(), query);

    let values: Vec<String> = (0..3_000).map(|n| n.to_string()).collect();
    assert!(traceql::parse(&format!("{{ .a in [{}] }}", values.join(", "))).is_ok());
}

#[test]
fn large_queries_are_an_error() {
    refused(&format!("{{ .a{} }}", " || .a".repeat(5_000)), "more than 4096 parts");
    refused(&format!("{{ }}{}", " | { }".repeat(10_000)), "more than 4096 parts");
    refused(&format!("{{ }} | select(.a{})", ", .a".repeat(10_000)), "more than 4096 parts");
    refused(&format!("{{ .a in [1{}] }}", ", 1".repeat(10_000)), "more than 4096 parts");
    refused(&format!("{{ }} with(a=1{})", ", a=1".repeat(10_000)), "more than 4096 parts");
    refused(&format!("{{ }} | rate(){}", " > 1".repeat(10_000)), "more than 4096 parts");
    refused(&format!("{{ }} {}", " ".repeat(200_000)), "at most 131072");
    refused(&format!("{{ .a =~ \"{}\" }}", "a".repeat(5_000)), "4096");
    refused(r#"{ .a =~ "(\\pL{1000}){1000}" }"#, "when compiled");
    let many: Vec<String> = (0..11).map(|n| format!(".a =~ \"{n}\"")).collect();
    refused(&format!("{{ {} }}", many.join(" && ")), "more than 10 regular expressions");
    assert!(traceql::parse(&format!("{{ {} }}", many[..10].join(" && "))).is_ok());
    assert!(traceql::parse_attribute(&format!(".{}", "a".repeat(200_000))).is_err());
}
