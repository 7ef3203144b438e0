//! TraceQL made of what users of other APIs typed. The syntax tree is built and printed, so that no text of theirs is
//! read as anything but a name or a value.

use traceql::ast::{
    Attribute, AttributeName, ComparisonOp, FieldExpr, Intrinsic, Kind, Pipeline, Query, QueryBody, Scope, Span, SpanOfName,
    SpansetExpr, SpansetOp, Stage, Static, Status,
};

/// A condition on one span.
pub type Condition = FieldExpr;

pub fn all(conditions: impl IntoIterator<Item = Condition>) -> Option<Condition> {
    conditions.into_iter().reduce(|left, right| FieldExpr::And(Box::new(left), Box::new(right)))
}

pub fn any(conditions: impl IntoIterator<Item = Condition>) -> Option<Condition> {
    conditions.into_iter().reduce(|left, right| FieldExpr::Or(Box::new(left), Box::new(right)))
}

fn compare(op: ComparisonOp, name: AttributeName, value: Static) -> Condition {
    let left = Box::new(attribute(name));
    FieldExpr::Compare { op, left, right: Box::new(FieldExpr::Static(value, Span::default())), span: Span::default() }
}

fn attribute(name: AttributeName) -> FieldExpr {
    FieldExpr::Attribute(Attribute { of_parent: false, name, span: SpanOfName::default() })
}

fn key(scope: Scope, key: &str) -> AttributeName {
    AttributeName::Key { scope: Some(scope), key: key.to_owned() }
}

pub fn equal(intrinsic: Intrinsic, value: Static) -> Condition {
    compare(ComparisonOp::Equal, AttributeName::Intrinsic(intrinsic), value)
}

pub fn text(text: &str) -> Static {
    Static::String(text.to_owned())
}

/// Nanoseconds, both included.
pub fn duration(least: Option<i64>, most: Option<i64>) -> impl Iterator<Item = Condition> {
    let bound = |op, nanos| compare(op, AttributeName::Intrinsic(Intrinsic::Duration), Static::Duration(nanos));
    let least = least.map(|nanos| bound(ComparisonOp::GreaterEqual, nanos));
    least.into_iter().chain(most.map(|nanos| bound(ComparisonOp::LessEqual, nanos)))
}

/// The name of a span's attribute in TraceQL.
pub fn span_attribute(name: &str) -> String {
    attribute(key(Scope::Span, name)).to_string()
}

pub fn service(name: &str) -> Condition {
    compare(ComparisonOp::Equal, key(Scope::Resource, "service.name"), text(name))
}

/// Equal whatever the case of letters.
fn alike(name: AttributeName, value: &str) -> Condition {
    if value.to_lowercase() == value.to_uppercase() {
        return compare(ComparisonOp::Equal, name, text(value));
    }
    let pattern: String = value.chars().flat_map(escaped).collect();
    compare(ComparisonOp::Match, name, Static::String(format!("(?i)^{pattern}$")))
}

/// A character of a pattern that stands for itself.
fn escaped(c: char) -> impl Iterator<Item = char> {
    let special = c.is_ascii_punctuation() || c.is_ascii_whitespace();
    let hex: String = if special { format!("\\x{{{:x}}}", c as u32) } else { c.to_string() };
    hex.chars().collect::<Vec<_>>().into_iter()
}

pub fn service_alike(name: &str) -> Condition {
    alike(key(Scope::Resource, "service.name"), name)
}

pub fn name_alike(name: &str) -> Condition {
    alike(AttributeName::Intrinsic(Intrinsic::Name), name)
}

/// One of the attributes that name the other side of a call.
pub fn remote_alike(name: &str) -> Option<Condition> {
    any(translate::zipkin::REMOTE_NAMES.map(|attribute| alike(key(Scope::Span, attribute), name)))
}

/// The scopes whose attributes both APIs show as tags of a span or as fields of its logs.
const TAG_SCOPES: [Scope; 4] = [Scope::Span, Scope::Resource, Scope::Event, Scope::Instrumentation];

/// There is a tag of this name, or an event.
pub fn mentions(name: &str) -> Option<Condition> {
    let exists = |scope| FieldExpr::Exists {
        exists: true,
        operand: Box::new(attribute(key(scope, name))),
        span: Span::default(),
    };
    let error = (name == "error").then(|| equal(Intrinsic::Status, Static::Status(Status::Error)));
    any([Scope::Span, Scope::Resource].map(exists).into_iter().chain([equal(Intrinsic::EventName, text(name))]).chain(error))
}

/// There is a tag of this name whose value, as text, is this. What OTLP has a field for is asked of the field.
pub fn tag(name: &str, value: &str) -> Option<Condition> {
    let attributes = TAG_SCOPES.into_iter().flat_map(|scope| {
        let statics = meanings(value).into_iter();
        statics.map(move |value| compare(ComparisonOp::Equal, key(scope, name), value))
    });
    any(attributes.chain(field(name, value)))
}

/// The values that are written like this.
fn meanings(text: &str) -> Vec<Static> {
    let mut all = vec![Static::String(text.to_owned())];
    match text.parse::<i64>() {
        Ok(number) if number.to_string() == text => all.push(Static::Int(number)),
        _ => all.extend(text.parse().ok().filter(|number: &f64| number.is_finite()).map(Static::Float)),
    }
    all.extend(text.parse().ok().map(Static::Bool));
    all
}

fn field(name: &str, value: &str) -> Vec<Condition> {
    let status = |status| equal(Intrinsic::Status, Static::Status(status));
    let message = || equal(Intrinsic::StatusMessage, text(value));
    match (name, value) {
        ("error", "true" | "") => vec![status(Status::Error)],
        ("error", _) => all([status(Status::Error), message()]).into_iter().collect(),
        ("otel.status_code", "OK") => vec![status(Status::Ok)],
        ("otel.status_code", "ERROR") => vec![status(Status::Error)],
        ("otel.status_description", _) => vec![message()],
        ("span.kind", word) => kind(word).into_iter().collect(),
        ("otel.scope.name" | "otel.library.name", _) => vec![equal(Intrinsic::InstrumentationName, text(value))],
        ("otel.scope.version" | "otel.library.version", _) => vec![equal(Intrinsic::InstrumentationVersion, text(value))],
        ("event", _) => vec![equal(Intrinsic::EventName, text(value))],
        _ => match name.strip_prefix("otel.scope.") {
            Some(name) if !name.is_empty() => {
                let statics = meanings(value).into_iter();
                statics.map(|value| compare(ComparisonOp::Equal, key(Scope::Instrumentation, name), value)).collect()
            }
            _ => vec![],
        },
    }
}

pub fn failed() -> Condition {
    equal(Intrinsic::Status, Static::Status(Status::Error))
}

/// OpenTracing's words for kinds. `None` for what is none.
pub fn kind(word: &str) -> Option<Condition> {
    let kind = match word {
        "internal" => Kind::Internal,
        "server" => Kind::Server,
        "client" => Kind::Client,
        "producer" => Kind::Producer,
        "consumer" => Kind::Consumer,
        "" | "unspecified" => Kind::Unspecified,
        _ => return None,
    };
    Some(equal(Intrinsic::Kind, Static::Kind(kind)))
}

/// Finds traces in which each condition holds for some span.
pub fn query(conditions: impl IntoIterator<Item = Condition>) -> String {
    let filters = conditions.into_iter().map(SpansetExpr::Filter);
    let joined = filters.reduce(|left, right| SpansetExpr::Binary {
        op: SpansetOp::And,
        left: Box::new(left),
        right: Box::new(right),
        span: Span::default(),
    });
    let everything = || SpansetExpr::Filter(FieldExpr::Static(Static::Bool(true), Span::default()));
    let stages = vec![Stage::Spansets(joined.unwrap_or_else(everything))];
    Query { body: QueryBody::Search(Pipeline { stages }), hints: vec![] }.to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_is_typed_stays_a_name_or_a_value(name in ".{0,12}", value in ".{0,12}", quoted in "[\"\\\\{}a .]{0,8}") {
            let conditions = [
                service(&value), service_alike(&quoted), name_alike(&value), remote_alike(&value).unwrap(),
                mentions(&quoted).unwrap(), tag(&name, &quoted).unwrap(), tag(&quoted, &value).unwrap(),
            ];
            let text = query(conditions.clone());
            let parsed = traceql::parse(&text);
            // Keys that TraceQL cannot name are refused as a whole.
            if let Ok(parsed) = parsed {
                prop_assert_eq!(parsed.to_string(), text);
            } else {
                prop_assert!(name.is_empty() || quoted.is_empty(), "{}: {:?}", text, parsed);
            }
        }
    }

    #[test]
    fn patterns_mean_their_text() {
        for value in ["a.b", "(x)", "Ünï", "a\\d", "[a]", "x{2}", "a b-c_d"] {
            let FieldExpr::Compare { right, .. } = service_alike(value) else { panic!("a comparison") };
            let FieldExpr::Static(Static::String(pattern), _) = *right else { panic!("a text") };
            let pattern = traceql::compile_regex(&pattern).unwrap();
            assert!(pattern.is_match(value) && pattern.is_match(&value.to_uppercase()), "{value}");
            assert!(!pattern.is_match(&format!("{value}x")) && !pattern.is_match("ab"), "{value}");
        }
    }

    #[test]
    fn conditions_read_as_expected() {
        let check = |condition: Option<Condition>, expected: &str| assert_eq!(query(condition), expected);
        check(None, "{ }");
        check(Some(service("a\"b")), r#"{ resource.service.name = "a\"b" }"#);
        check(kind("server"), "{ kind = server }");
        check(
            all(duration(Some(1_000_000), Some(2_000_000))),
            "{ duration >= 1ms && duration <= 2ms }",
        );
        let error = query(tag("error", "true"));
        assert!(error.contains("span.error = true") && error.ends_with("|| status = error }"), "{error}");
        let number = query(tag("http.status_code", "200"));
        assert!(number.contains(r#"span.http.status_code = "200" || span.http.status_code = 200"#), "{number}");
    }
}
