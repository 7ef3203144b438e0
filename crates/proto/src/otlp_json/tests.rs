use proptest::prelude::*;

use super::*;
use crate::arbitrary::request;

fn one_span(fields: &str) -> Result<Span, JsonError> {
    let body = format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{{{fields}}}]}}]}}]}}"#);
    decode(body.as_bytes()).map(|mut request| request.resource_spans.remove(0).scope_spans.remove(0).spans.remove(0))
}

fn one_value(value: &str) -> Result<Option<Value>, JsonError> {
    let span = one_span(&format!(r#""attributes":[{{"key":"k","value":{value}}}]"#))?;
    Ok(span.attributes[0].value.clone().and_then(|value| value.value))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read_back(request in request()) {
        prop_assert_eq!(decode(&encode(&request)), Ok(request));
    }

    #[test]
    fn random_text_never_panics(text in r#"[\[\]{}:,"\\a-e0-9 .-]{0,60}"#) {
        let _ = decode(text.as_bytes());
        let _ = one_span(&text);
        let _ = one_value(&text);
    }

    #[test]
    fn a_broken_body_never_panics(request in request(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut body = encode(&request);
        let at = at.index(body.len());
        prop_assert!(at == 0 || decode(&body[..at]).is_err());
        body[at] = byte;
        let _ = decode(&body);
    }
}

#[test]
fn the_whole_of_a_request_is_read() {
    let body = r#"{ "resourceSpans": [ {
        "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}], "droppedAttributesCount": 1},
        "scopeSpans": [ {
          "scope": {"name": "lib", "version": "1", "attributes": [{"key": "s", "value": {"boolValue": true}}]},
          "spans": [ {
            "traceId": "5B8EFFF798038103D269B633813FC60C", "spanId": "eee19b7ec3c1b174", "parentSpanId": "EEE19B7EC3C1B173",
            "traceState": "a=b", "flags": 257, "name": "I'm a \"span\"", "kind": 2,
            "startTimeUnixNano": "1544712660000000000", "endTimeUnixNano": 1544712661000000000,
            "attributes": [
              {"key": "i", "value": {"intValue": "-9223372036854775808"}}, {"key": "n", "value": {"intValue": 7}},
              {"key": "d", "value": {"doubleValue": 1.5}}, {"key": "b", "value": {"bytesValue": "AQID"}},
              {"key": "a", "value": {"arrayValue": {"values": [{"stringValue": "x"}, {}]}}},
              {"key": "m", "value": {"kvlistValue": {"values": [{"key": "k", "value": {"stringValue": "v"}}]}}}],
            "events": [{"timeUnixNano": "5", "name": "e", "attributes": [], "droppedAttributesCount": 2}],
            "links": [{"traceId": "01", "spanId": "02", "traceState": "c", "flags": 3}],
            "status": {"message": "m", "code": 2}, "unknown": [[{}], "x"] } ] } ],
        "schemaUrl": "u" } ], "other": null }"#;
    let request = decode(body.as_bytes()).unwrap();
    let resource = &request.resource_spans[0];
    assert_eq!(resource.schema_url, "u");
    assert_eq!(resource.resource.as_ref().unwrap().dropped_attributes_count, 1);
    let span = &resource.scope_spans[0].spans[0];
    assert_eq!(span.trace_id[..3], [0x5b, 0x8e, 0xff]);
    assert_eq!((span.span_id.len(), span.parent_span_id.len(), span.flags, span.kind), (8, 8, 257, 2));
    assert_eq!(span.name, "I'm a \"span\"");
    assert_eq!(span.end_time_unix_nano - span.start_time_unix_nano, 1_000_000_000);
    let values: Vec<_> = span.attributes.iter().map(|a| a.value.clone().unwrap().value.unwrap()).collect();
    assert_eq!(values[0], Value::IntValue(i64::MIN));
    assert_eq!(values[1], Value::IntValue(7));
    assert_eq!(values[2], Value::DoubleValue(1.5));
    assert_eq!(values[3], Value::BytesValue(vec![1, 2, 3]));
    assert!(matches!(&values[4], Value::ArrayValue(array) if array.values.len() == 2));
    assert!(matches!(&values[5], Value::KvlistValue(map) if map.values[0].key == "k"));
    assert_eq!((span.events[0].time_unix_nano, span.links[0].flags), (5, 3));
    assert_eq!(span.status.as_ref().unwrap().code, 2);
}

#[test]
fn ids_that_are_not_hex_are_empty() {
    for id in ["W47/95gDgQPSabYzgT/GDA==", "5b8efff798038103d269b633813fc60", "zz", "é"] {
        assert_eq!(one_span(&format!(r#""traceId":"{id}","name":"kept""#)).map(|s| (s.trace_id, s.name)), Ok((vec![], "kept".into())));
    }
    assert_eq!(one_span(r#""spanId":"0aFF""#).map(|span| span.span_id), Ok(vec![0x0a, 0xff]));
    // Other spellings of the name are unknown fields.
    assert_eq!(one_span(r#""trace_id":"0aff""#).map(|span| span.trace_id), Ok(vec![]));
}

#[test]
fn numbers_are_read_as_json_maps_them() {
    assert_eq!(one_value(r#"{"intValue":"12"}"#), Ok(Some(Value::IntValue(12))));
    assert_eq!(one_value(r#"{"intValue":1e3}"#), Ok(Some(Value::IntValue(1000))));
    assert_eq!(one_value(r#"{"intValue":-0.0}"#), Ok(Some(Value::IntValue(0))));
    assert_eq!(one_value(r#"{"doubleValue":"-Infinity"}"#), Ok(Some(Value::DoubleValue(f64::NEG_INFINITY))));
    assert_eq!(one_value(r#"{"doubleValue":2}"#), Ok(Some(Value::DoubleValue(2.0))));
    for bad in [
        r#"{"doubleValue":1e400}"#,
        r#"{"doubleValue":NaN}"#,
        r#"{"doubleValue":"1e400"}"#,
        r#"{"intValue":1.5}"#,
        r#"{"intValue":9223372036854775808}"#,
        r#"{"intValue":"99999999999999999999999999999999999999999999999999999999"}"#,
        r#"{"intValue":01}"#,
        r#"{"intValue":-}"#,
        r#"{"boolValue":"true"}"#,
        r#"{"stringValue":5}"#,
        r#"{"bytesValue":"*"}"#,
    ] {
        assert!(one_value(bad).is_err(), "{bad}");
    }
    assert!(one_span(r#""startTimeUnixNano":-1"#).is_err());
    assert!(one_span(r#""kind":"SPAN_KIND_SERVER""#).unwrap_err().to_string().contains("number"));
}

#[test]
fn null_is_like_absent_and_the_last_of_two_counts() {
    let nulls = r#""traceId":null,"name":null,"kind":null,"attributes":null,"status":null,"startTimeUnixNano":null"#;
    assert_eq!(one_span(nulls).map(|span| (span.name, span.attributes.len())), Ok((String::new(), 0)));
    assert_eq!(one_span(r#""name":"a","name":"b""#).map(|span| span.name), Ok("b".into()));
}

#[test]
fn strings_are_unescaped_and_repaired() {
    assert_eq!(one_span(r#""name":"\u00e9\ud83d\ude00\n""#).map(|span| span.name), Ok("é😀\n".into()));
    assert!(one_span(r#""name":"\ud800""#).is_err(), "a lone surrogate is no character");
    assert!(one_span("\"name\":\"a\nb\"").is_err(), "a control character must be escaped");
    let body = b"{\"resourceSpans\":[{\"schemaUrl\":\"a\xffb\"}]}";
    assert_eq!(decode(body).unwrap().resource_spans[0].schema_url, "a\u{fffd}b");
}

#[test]
fn a_body_is_one_object() {
    for good in ["{}", "\u{feff}{}", " { } \n", "null", r#"{"resourceSpans":[]}"#] {
        assert_eq!(decode(good.as_bytes()), Ok(ExportTraceServiceRequest::default()), "{good}");
    }
    for bad in ["", "[]", "{", "{}x", "{} {}", "\"\"", "{\"a\"}", "{\"a\":}", "{,}", "{\"a\":1,}", "nul"] {
        assert!(decode(bad.as_bytes()).is_err(), "{bad}");
    }
    let error = decode(br#"{"resourceSpans": 5}"#).unwrap_err();
    assert_eq!(error.to_string(), "expected '[', at byte 18 of the JSON body");
}

#[test]
fn depth_is_bounded() {
    let nested = |levels: usize| {
        let open = r#"{"arrayValue":{"values":["#.repeat(levels);
        one_value(&format!(r#"{open}{{"stringValue":"x"}}{}"#, "]}}".repeat(levels)))
    };
    let depth = |value: Option<Value>| {
        let (mut depth, mut value) = (0, value);
        while let Some(Value::ArrayValue(array)) = value {
            depth += 1;
            value = array.values.into_iter().next().and_then(|value| value.value);
        }
        depth
    };
    for (levels, kept) in [(1, 1), (64, 64), (65, 65), (66, 65), (10_000, 65)] {
        assert_eq!(depth(nested(levels).unwrap()), kept);
    }
    let unknown = format!(r#"{{"unknown":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert!(decode(unknown.as_bytes()).is_ok());
    assert!(decode("[".repeat(100_000).as_bytes()).is_err());
    assert!(decode(r#"{"a":"#.repeat(100_000).as_bytes()).is_err());
}

#[test]
fn memory_is_bounded() {
    for list in [r#"{"resourceSpans":["#, r#"{"resourceSpans":[{"scopeSpans":["#, r#"{"resourceSpans":[{"scopeSpans":[{"spans":["#] {
        let body = format!("{list}{}", "{},".repeat(100_000));
        assert!(decode(body.as_bytes()).unwrap_err().to_string().contains("too many items"), "{list}");
    }
    let body = format!(r#"{{"attributes":[{}]}}"#, vec![r#"{"key":"k","value":{"intValue":1}}"#; 50_000].join(","));
    assert!(decode(format!(r#"{{"resourceSpans":[{{"resource":{body}}}]}}"#).as_bytes()).is_ok());
    let span = r#"{"traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174"}"#;
    let body = format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{}]}}]}}]}}"#, vec![span; 20_000].join(","));
    assert!(decode(body.as_bytes()).is_ok());
}
