use proptest::prelude::*;
use prost::Message;
use proto::otlp::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList, any_value::Value},
    resource::v1::Resource,
    trace::v1::{
        ResourceSpans, ScopeSpans, Span, Status,
        span::{Event, Link},
    },
};

use super::*;

const SALT: &[u8] = b"0123456789abcdef";
const CARD: &str = "4111 1111 1111 1111";

fn holding(value: Value) -> AnyValue {
    AnyValue { value: Some(value) }
}

fn text(text: &str) -> AnyValue {
    holding(Value::StringValue(text.to_owned()))
}

fn attribute(key: &str, value: AnyValue) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
}

/// A request with these attributes at every place, and these words in every name and message.
fn request(attributes: Vec<KeyValue>, words: &str) -> Vec<u8> {
    let event = Event { name: words.to_owned(), attributes: attributes.clone(), time_unix_nano: 5, ..Event::default() };
    let link = Link { trace_id: vec![7; 16], span_id: vec![7; 8], attributes: attributes.clone(), ..Link::default() };
    let span = Span {
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        name: words.to_owned(),
        start_time_unix_nano: 1,
        end_time_unix_nano: 4_111_111_111_111_111,
        attributes: attributes.clone(),
        events: vec![event],
        links: vec![link],
        status: Some(Status { message: words.to_owned(), code: 2 }),
        ..Span::default()
    };
    let scope = InstrumentationScope { name: "scope".to_owned(), attributes: attributes.clone(), ..InstrumentationScope::default() };
    let spans = ScopeSpans { scope: Some(scope), spans: vec![span.clone(), span], ..ScopeSpans::default() };
    let resource = Resource { attributes, ..Resource::default() };
    let resource_spans = ResourceSpans { resource: Some(resource), scope_spans: vec![spans], ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![resource_spans] }.encode_to_vec()
}

fn rule(name: &str, action: Action) -> RuleSettings {
    RuleSettings { name: name.to_owned(), action, ..RuleSettings::default() }
}

fn keys(action: Action, keys: &[&str]) -> RuleSettings {
    RuleSettings { keys: keys.iter().map(|key| (*key).to_owned()).collect(), ..rule("keys", action) }
}

fn redactor(rules: &[RuleSettings]) -> Redactor {
    Redactor::new(rules, Some(SALT)).unwrap()
}

/// After one rule on every place.
fn check(rule: RuleSettings, before: Vec<KeyValue>, words: &str, after: Vec<KeyValue>, words_after: &str) {
    let redactor = redactor(std::slice::from_ref(&rule));
    let got = redactor.redact(request(before, words).into());
    let expected = request(after, words_after);
    let decode = |bytes: &[u8]| ExportTraceServiceRequest::decode(bytes).unwrap();
    assert_eq!(decode(&got), decode(&expected), "{rule:?}");
}

#[test]
fn whole_values_go_by_key() {
    let before = || {
        vec![
            attribute("user.Email", text("anna@shop.example")),
            attribute("n", holding(Value::IntValue(7))),
            attribute("http.request.header.authorization", holding(Value::ArrayValue(ArrayValue { values: vec![text("x")] }))),
        ]
    };
    let all = ["*.email", "http.request.header.*"];
    check(keys(Action::Drop, &all), before(), "w", vec![attribute("n", holding(Value::IntValue(7)))], "w");
    let masked = |with: &dyn Fn(&AnyValue) -> AnyValue| {
        let mut after = before();
        for index in [0, 2] {
            after[index].value = after[index].value.as_ref().map(with);
        }
        after
    };
    check(keys(Action::Mask, &all), before(), "w", masked(&|_| text("****")), "w");
    let hashed = redactor(&[]).hash(b"anna@shop.example");
    assert_eq!(hashed.len(), "hash:".len() + 32);
    let mut after = before();
    after[0].value = Some(text(&hashed));
    check(keys(Action::Hash, &["user.email"]), before(), "w", after, "w");
    assert_ne!(Redactor::new(&[], Some(b"another salt 0123456789")).unwrap().hash(b"anna@shop.example"), hashed);
    let regex = RuleSettings { key_regex: Some("^user\\.".to_owned()), ..rule("r", Action::Drop) };
    check(regex, before(), "w", before()[1..].to_vec(), "w");
}

#[test]
fn parts_of_texts_go_by_pattern_wherever_they_stand() {
    let nested = |card: &str| {
        let list = holding(Value::ArrayValue(ArrayValue { values: vec![text("a"), text(&format!("pay {card}."))] }));
        let map = holding(Value::KvlistValue(KeyValueList { values: vec![attribute("deep", list)] }));
        vec![attribute("order", map), attribute("note", text(&format!("card {card}"))), attribute("id", holding(Value::BytesValue(vec![1])))]
    };
    let cards = RuleSettings { detectors: vec![Detector::CardNumber], ..rule("cards", Action::Mask) };
    check(cards, nested(CARD), &format!("charged {CARD}"), nested("****"), "charged ****");
    let hash = RuleSettings { detectors: vec![Detector::CardNumber], ..rule("cards", Action::Hash) };
    let hashed = redactor(&[]).hash(CARD.as_bytes());
    check(hash, nested(CARD), "w", nested(&hashed), "w");
    let number = vec![attribute("pan", holding(Value::IntValue(4_111_111_111_111_111)))];
    let cards = RuleSettings { detectors: vec![Detector::CardNumber], ..rule("cards", Action::Mask) };
    check(cards, number, "w", vec![attribute("pan", text("****"))], "w");
    let pattern = RuleSettings { value_regex: Some("[a-z]+@[a-z.]+".to_owned()), ..rule("mail", Action::Mask) };
    check(pattern, vec![attribute("m", text("to a@b.c and d@e.f"))], "from x@y.z", vec![attribute("m", text("to **** and ****"))], "from ****");
    // Dropped: the attribute, and of a text without a key everything.
    let drop = RuleSettings { detectors: vec![Detector::Secret], ..rule("s", Action::Drop) };
    check(drop, vec![attribute("h", text("Bearer abcdefghijklmnop")), attribute("n", text("x"))], "Bearer abcdefghijklmnop", vec![attribute("n", text("x"))], "");
}

#[test]
fn keys_within_values_are_keys() {
    let map = |value: AnyValue| {
        let inner = KeyValueList { values: vec![attribute("password", value), attribute("name", text("x"))] };
        vec![attribute("login", holding(Value::KvlistValue(inner)))]
    };
    for key in ["password", "login.password", "*.password"] {
        check(keys(Action::Mask, &[key]), map(text("hunter2")), "w", map(text("****")), "w");
    }
    check(keys(Action::Mask, &["login.name.password"]), map(text("a")), "w", map(text("a")), "w");
}

#[test]
fn rules_know_their_places_and_count() {
    let place = |scopes: &[Place]| RuleSettings { scopes: scopes.to_vec(), ..keys(Action::Drop, &["k"]) };
    let before = request(vec![attribute("k", text("v"))], "w");
    let attributes = |bytes: &[u8]| {
        let request = ExportTraceServiceRequest::decode(bytes).unwrap();
        let resource = &request.resource_spans[0];
        let (scope, span) = (resource.scope_spans[0].scope.as_ref().unwrap(), &resource.scope_spans[0].spans[1]);
        let counts = [
            resource.resource.as_ref().unwrap().attributes.len(),
            scope.attributes.len(),
            span.attributes.len(),
            span.events[0].attributes.len(),
            span.links[0].attributes.len(),
        ];
        counts.map(|count| count == 1)
    };
    for (index, scope) in [Place::Resource, Place::Scope, Place::Span, Place::Event, Place::Link].into_iter().enumerate() {
        let redactor = redactor(&[place(&[scope])]);
        let after = redactor.redact(before.clone().into());
        let mut expected = [true; 5];
        expected[index] = false;
        assert_eq!(attributes(&after), expected, "{scope:?}");
        let times = if index < 2 { 1 } else { 2 };
        assert_eq!(redactor.counts(), [("keys".to_owned(), times)], "{scope:?}");
    }
    let status = RuleSettings { value_regex: Some("w".to_owned()), scopes: vec![Place::Status], ..rule("s", Action::Drop) };
    let redactor = redactor(&[status]);
    let after = ExportTraceServiceRequest::decode(redactor.redact(before.into())).unwrap();
    let span = &after.resource_spans[0].scope_spans[0].spans[0];
    let status = span.status.as_ref().unwrap();
    assert_eq!((span.name.as_str(), status.message.as_str(), status.code), ("w", "", 2));
}

#[test]
fn what_no_rule_touches_keeps_its_bytes() {
    let before: Bytes = request(vec![attribute("a", text("b"))], "w").into();
    let after = redactor(&[keys(Action::Drop, &["x"])]).redact(before.clone());
    assert_eq!((after.as_ptr(), after.len()), (before.as_ptr(), before.len()), "not even copied");
    for damaged in [&b"\x0a\xff"[..], b"\x0b\x0c", &[0xff; 20], b"\x0a\x02\x0a\x05"] {
        assert_eq!(redactor(&[keys(Action::Drop, &["*"])]).redact(Bytes::copy_from_slice(damaged)), damaged);
    }
}

#[test]
fn a_field_that_is_there_twice_hides_nothing() {
    // key, value, another key, another value: the last ones count, and the first must not stay in the bytes.
    let mut pair = Vec::new();
    wire::put_bytes(&mut pair, 1, b"password");
    wire::put_bytes(&mut pair, 2, &text("hunter2").encode_to_vec());
    wire::put_bytes(&mut pair, 1, b"colour");
    wire::put_bytes(&mut pair, 2, &text("red").encode_to_vec());
    // A value with two fields: the last one counts.
    let mut twice = Vec::new();
    wire::put_bytes(&mut twice, 1, b"hunter2");
    wire::put_bytes(&mut twice, 1, b"blue");
    let mut odd = Vec::new();
    wire::put_bytes(&mut odd, 1, b"shade");
    wire::put_bytes(&mut odd, 2, &twice);
    let wrap = |pair: &[u8]| {
        let mut message = pair.to_vec();
        for number in [9, 2, 2, 1] {
            let mut outer = Vec::new();
            wire::put_bytes(&mut outer, number, &message);
            message = outer;
        }
        message
    };
    let after = redactor(&[keys(Action::Mask, &["password"])]).redact(wrap(&pair).into());
    assert!(!after.windows(7).any(|part| part == b"hunter2"));
    let attributes = |bytes: Bytes| {
        ExportTraceServiceRequest::decode(bytes).unwrap().resource_spans[0].scope_spans[0].spans[0].attributes.clone()
    };
    assert_eq!(attributes(after), [attribute("colour", text("red"))]);
    let after = redactor(&[keys(Action::Mask, &["password"])]).redact(wrap(&odd).into());
    assert!(!after.windows(7).any(|part| part == b"hunter2"));
    assert_eq!(attributes(after), [attribute("shade", text("blue"))]);
}

#[test]
fn rules_that_cannot_be_meant_are_refused() {
    let refused = |rules: &[RuleSettings], salt: Option<&[u8]>| Redactor::new(rules, salt).map(drop).unwrap_err().to_string();
    let good = keys(Action::Mask, &["k"]);
    for (rules, salt, says) in [
        (vec![rule("r", Action::Mask)], None, "about everything"),
        (vec![keys(Action::Hash, &["k"])], None, "salt_file"),
        (vec![good.clone(), good.clone()], None, "twice"),
        (vec![RuleSettings { name: String::new(), ..good.clone() }], None, "name"),
        (vec![RuleSettings { value_regex: Some("(".to_owned()), ..good.clone() }], None, "no pattern"),
        (vec![RuleSettings { value_regex: Some("x*".to_owned()), ..good.clone() }], None, "empty text"),
        (vec![good.clone()], Some(&b"short"[..]), "16 bytes"),
    ] {
        let message = refused(&rules, salt);
        assert!(message.contains(says), "{message}");
    }
}

/// Texts in which cards and keys happen.
fn words() -> impl Strategy<Value = String> {
    prop_oneof![Just(CARD.to_owned()), Just("Bearer abcdefghijklmnop".to_owned()), "[ -~]{0,20}", "\\PC{0,8}"]
}

fn value() -> impl Strategy<Value = AnyValue> {
    let leaf = prop_oneof![
        words().prop_map(|words| text(&words)),
        any::<i64>().prop_map(|number| holding(Value::IntValue(number))),
        any::<bool>().prop_map(|yes| holding(Value::BoolValue(yes))),
        Just(AnyValue { value: None }),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(|values| holding(Value::ArrayValue(ArrayValue { values }))),
            prop::collection::vec(("[a-c]", inner), 0..3).prop_map(|pairs| {
                let values = pairs.into_iter().map(|(key, value)| attribute(&key, value)).collect();
                holding(Value::KvlistValue(KeyValueList { values }))
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn nothing_that_is_detected_stays_and_all_else_does(
        attributes in prop::collection::vec(("[a-c]", value()), 0..4),
        name in words(),
    ) {
        let attributes: Vec<_> = attributes.into_iter().map(|(key, value)| attribute(&key, value)).collect();
        let before = request(attributes, &name);
        let cards = RuleSettings { detectors: vec![Detector::CardNumber, Detector::Secret], ..rule("d", Action::Mask) };
        let redactor = redactor(&[cards]);
        let once = redactor.redact(before.clone().into());
        prop_assert!(!once.windows(CARD.len()).any(|part| part == CARD.as_bytes()));
        prop_assert!(!once.windows(16).any(|part| part == b"abcdefghijklmnop"));
        // What is left has nothing more to take out, and is a message with as many spans.
        prop_assert_eq!(redactor.redact(once.clone()), once.clone());
        let spans = |bytes: &[u8]| ExportTraceServiceRequest::decode(bytes).unwrap().resource_spans[0].scope_spans[0].spans.len();
        prop_assert_eq!(spans(&once), spans(&before));
    }

    #[test]
    fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        redactor(&[keys(Action::Drop, &["*"])]).redact(bytes.into());
    }
}
