//! Whether an answer is as recorded, and where it is not.

use serde_json::Value;

pub fn matches(name: &str, want: &Value, got: &Value) -> bool {
    if name.starts_with("tags")
        && let (Some(want), Some(got)) = (want["scopes"].as_object(), got["scopes"].as_object())
        && !want.is_empty()
        && !got.is_empty()
    {
        // More attributes than the reference lists are welcome.
        let has = |scope: &String, name: &Value| got.get(scope).and_then(Value::as_array).is_some_and(|n| n.contains(name));
        return want.iter().all(|(scope, names)| names.as_array().unwrap().iter().all(|name| has(scope, name)));
    }
    near(want, got)
}

/// Equal, but for the last digits of floating-point numbers.
fn near(want: &Value, got: &Value) -> bool {
    match (want, got) {
        (Value::Number(a), Value::Number(b)) if a.is_f64() || b.is_f64() => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            (a - b).abs() <= 1e-5 * a.abs().max(b.abs()).max(1e-12)
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| near(a, b)))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| near(a, b)),
        _ => want == got,
    }
}

/// The first difference, for a person. `body` is the answer before it was brought to its normal form.
pub fn difference(want: &Value, got: &Value, body: &Value) -> String {
    if want["status"] != got["status"] {
        return format!("status want {} got {}: {}", want["status"], got["status"], short(body));
    }
    for (part, want) in want.as_object().unwrap() {
        let Some(got) = got.get(part) else { return format!("{part}: missing") };
        if near(want, got) {
            continue;
        }
        return match (want, got) {
            (Value::Object(a), Value::Object(b)) => {
                let missing: Vec<_> = a.keys().filter(|key| !b.contains_key(*key)).collect();
                let extra: Vec<_> = b.keys().filter(|key| !a.contains_key(*key)).collect();
                let other: Vec<_> = a.keys().filter(|key| b.get(*key).is_some_and(|b| !near(&a[*key], b))).collect();
                let counts = format!("missing {}, extra {}, different {}", missing.len(), extra.len(), other.len());
                let Some(first) = missing.first().or(extra.first()).or(other.first()) else { return counts };
                let show = |map: &serde_json::Map<String, Value>| map.get(*first).map_or("nothing".into(), short);
                format!("{part}: {} expected, {} got, {counts}; {first:?}: want {} got {}", a.len(), b.len(), show(a), show(b))
            }
            (Value::Array(a), Value::Array(b)) => {
                let only = |a: &[Value], b: &[Value]| a.iter().find(|x| !b.contains(x)).map_or("nothing".into(), short);
                format!("{part}: {} expected, {} got; want only {}, got only {}", a.len(), b.len(), only(a, b), only(b, a))
            }
            _ => format!("{part}: want {} got {}", short(want), short(got)),
        };
    }
    "nothing".to_owned()
}

fn short(value: &Value) -> String {
    value.to_string().chars().take(400).collect()
}
