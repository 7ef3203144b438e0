//! The comparable part of an answer: order, job counters and the wording of errors left out.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

pub fn normal(path: &str, status: u16, body: &Value, detail: bool) -> Value {
    if status != 200 {
        return json!({ "status": status });
    }
    let mut out = json!({ "status": 200 });
    if !body.is_object() {
        return out;
    }
    if path.contains("/traces/") {
        out["spans"] = spans(body);
    } else if path.ends_with("/api/search") {
        out["traces"] = traces(body, detail);
    } else if path.contains("/api/metrics/") {
        out["series"] = series(body);
    } else if body.get("scopes").is_some() {
        let scope = |scope: &Value| (text(&scope["name"], ""), sorted(list(&scope["tags"]).cloned().collect()));
        out["scopes"] = list(&body["scopes"]).map(scope).collect::<Map<_, _>>().into();
    } else if body.get("tagNames").is_some() {
        out["names"] = sorted(list(&body["tagNames"]).cloned().collect());
    } else if body.get("tagValues").is_some() {
        out["values"] = sorted(list(&body["tagValues"]).map(|value| value.to_string().into()).collect());
    }
    out
}

/// A recorded normal form in the order and spelling that [`normal`] uses.
pub fn canonical(mut want: Value) -> Value {
    if let Some(spans) = want.get_mut("spans") {
        for span in spans.as_array_mut().unwrap() {
            // Events and links.
            for place in [14, 15] {
                span[place] = sorted(list(&span[place]).cloned().collect());
            }
        }
        *spans = sorted(list(spans).cloned().collect());
    }
    if let Some(traces) = want.get_mut("traces").and_then(Value::as_object_mut) {
        for trace in traces.values_mut() {
            for set in trace[4].as_array_mut().unwrap() {
                if let Some(spans) = set.get_mut("spans") {
                    *spans = sorted(list(spans).cloned().collect());
                }
            }
            trace[4] = sorted(list(&trace[4]).cloned().collect());
        }
    }
    if let Some(names) = want.get_mut("names") {
        *names = sorted(list(names).cloned().collect());
    }
    if let Some(values) = want.get_mut("values") {
        let respell = |text: &Value| serde_json::from_str::<Value>(text.as_str().unwrap()).unwrap().to_string().into();
        *values = sorted(list(values).map(respell).collect());
    }
    want
}

fn spans(body: &Value) -> Value {
    let trace = body.get("trace").unwrap_or(body);
    let resources = if list(&trace["resourceSpans"]).next().is_some() { &trace["resourceSpans"] } else { &trace["batches"] };
    let mut all = Vec::new();
    for resource in list(resources) {
        for scope in list(&resource["scopeSpans"]) {
            let about = &scope["scope"];
            for span in list(&scope["spans"]) {
                let event = |event: &Value| json!([text(&event["timeUnixNano"], "0"), text(&event["name"], ""), attributes(&event["attributes"])]);
                let link = |link: &Value| json!([hex_id(&link["traceId"], 32), hex_id(&link["spanId"], 16), attributes(&link["attributes"])]);
                all.push(json!([
                    hex_id(&span["spanId"], 16),
                    hex_id(&span["parentSpanId"], 16),
                    text(&span["name"], ""),
                    text(&span["kind"], ""),
                    text(&span["startTimeUnixNano"], "0"),
                    text(&span["endTimeUnixNano"], "0"),
                    text(&span["status"]["code"], ""),
                    text(&span["status"]["message"], ""),
                    text(&span["traceState"], ""),
                    attributes(&span["attributes"]),
                    attributes(&resource["resource"]["attributes"]),
                    text(&about["name"], ""),
                    text(&about["version"], ""),
                    attributes(&about["attributes"]),
                    sorted(list(&span["events"]).map(event).collect()),
                    sorted(list(&span["links"]).map(link).collect()),
                ]));
            }
        }
    }
    sorted(all)
}

/// A spanset of more spans than this is compared by their number alone: which of them are shown is not defined.
const SPANS_COMPARED_MAX: u64 = 12;

fn traces(body: &Value, detail: bool) -> Value {
    let mut traces = Map::new();
    for trace in list(&body["traces"]) {
        let mut sets = Vec::new();
        for set in list(&trace["spanSets"]) {
            let matched = set["matched"].as_u64().unwrap_or(0);
            let mut about = json!({ "matched": matched, "attrs": attributes(&set["attributes"]) });
            if matched <= SPANS_COMPARED_MAX {
                let span = |span: &Value| {
                    let id = format!("{:0>16}", text(&span["spanID"], ""));
                    match detail {
                        true => json!([id, text(&span["durationNanos"], "0"), attributes(&span["attributes"])]),
                        false => id.into(),
                    }
                };
                about["spans"] = sorted(list(&set["spans"]).map(span).collect());
            }
            sets.push(about);
        }
        let duration = trace.get("durationMs").cloned().unwrap_or(0.into());
        let (service, name) = (text(&trace["rootServiceName"], ""), text(&trace["rootTraceName"], ""));
        let about = json!([service, name, text(&trace["startTimeUnixNano"], "0"), duration, sorted(sets)]);
        traces.insert(format!("{:0>32}", text(&trace["traceID"], "")), about);
    }
    traces.into()
}

fn series(body: &Value) -> Value {
    let mut all = Map::new();
    for series in list(&body["series"]) {
        let labels = attributes(&series["labels"]);
        let labels: Vec<&str> = list(&labels).map(|label| label.as_str().unwrap()).collect();
        let value = if series.get("samples").is_some() || series.get("value").is_none() {
            let point = |point: &Value| {
                let value = number(&point["value"]);
                (value != 0.0).then(|| (text(&point["timestampMs"], ""), rounded(value)))
            };
            list(&series["samples"]).filter_map(point).collect::<Map<_, _>>().into()
        } else {
            rounded(number(&series["value"]))
        };
        all.insert(labels.join(" "), value);
    }
    all.into()
}

/// `key=type:value` of each, sorted.
fn attributes(attributes: &Value) -> Value {
    let mut all: Vec<String> =
        list(attributes).map(|a| format!("{}={}", text(&a["key"], ""), typed(&a["value"]))).collect();
    all.sort();
    all.into()
}

/// An `AnyValue` with its type.
fn typed(value: &Value) -> String {
    let Some((kind, inner)) = value.as_object().and_then(|value| value.iter().next()) else { return "empty".to_owned() };
    match kind.as_str() {
        "doubleValue" => format!("double:{}", six_digits(number(inner))),
        "arrayValue" => {
            let items: Vec<String> = list(&inner["values"]).map(typed).collect();
            format!("array:[{}]", items.join(","))
        }
        "kvlistValue" => {
            let item = |item: &Value| format!("{}={}", text(&item["key"], ""), typed(&item["value"]));
            let items: Vec<String> = list(&inner["values"]).map(item).collect();
            format!("kvlist:{{{}}}", items.join(","))
        }
        kind => format!("{}:{}", kind.strip_suffix("Value").unwrap_or(kind), text(inner, "")),
    }
}

/// Ids are hex in search and base64 in traces.
fn hex_id(id: &Value, digits: usize) -> String {
    let id = text(id, "");
    if id.is_empty() {
        return id;
    }
    let base64 = matches!(id.len(), 12 | 24) && (id.ends_with('=') || !id.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let hex = match base64 {
        true => STANDARD.decode(&id).unwrap().iter().map(|byte| format!("{byte:02x}")).collect(),
        false => id.to_lowercase(),
    };
    format!("{hex:0>digits$}")
}

fn list(value: &Value) -> std::slice::Iter<'_, Value> {
    value.as_array().map_or(&[] as &[Value], Vec::as_slice).iter()
}

fn sorted(mut values: Vec<Value>) -> Value {
    values.sort_by_cached_key(|value| value.to_string());
    values.into()
}

/// A string as it is, another scalar as JSON spells it.
fn text(value: &Value, absent: &str) -> String {
    match value {
        Value::Null => absent.to_owned(),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

/// JSON has no NaN and no infinities: these come as strings.
fn number(value: &Value) -> f64 {
    match value {
        Value::String(text) => text.parse().unwrap_or(f64::NAN),
        value => value.as_f64().unwrap_or(0.0),
    }
}

fn rounded(value: f64) -> Value {
    json!(format!("{value:.5e}").parse::<f64>().unwrap())
}

/// As `%.6g` of C prints it.
fn six_digits(value: f64) -> String {
    if !value.is_finite() {
        return format!("{value}").to_lowercase();
    }
    let scientific = format!("{value:.5e}");
    let (digits, exponent) = scientific.split_once('e').unwrap();
    let exponent: i32 = exponent.parse().unwrap();
    let trimmed = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    match exponent {
        -4..6 => trimmed(&format!("{value:.*}", usize::try_from(5 - exponent).unwrap())),
        _ => format!("{}e{}{:02}", trimmed(digits), if exponent < 0 { '-' } else { '+' }, exponent.abs()),
    }
}

#[test]
fn numbers_print_as_in_c() {
    for (value, text) in [
        (0.0, "0"),
        (1.0, "1"),
        (0.1, "0.1"),
        (123_456.0, "123456"),
        (1_234_567.0, "1.23457e+06"),
        (0.000_123_456_7, "0.000123457"),
        (0.000_012_345, "1.2345e-05"),
        (-2.5, "-2.5"),
        (999_999.5, "1e+06"),
        (f64::INFINITY, "inf"),
        (f64::NAN, "nan"),
    ] {
        assert_eq!(six_digits(value), text);
    }
}
