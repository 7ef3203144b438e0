//! Contexts in the headers of requests: W3C's `traceparent` and `tracestate`, B3 in one header or several, and Jaeger's
//! `uber-trace-id`, in this order. The first that can be read counts; one that cannot is as if it were not there.
//!
//! Sources: W3C Trace Context level 2, the B3 propagation specification, Jaeger's client libraries.

use http::{HeaderMap, HeaderValue};

use crate::{Context, Incoming};

/// What is passed on of a `tracestate`, as the specification asks at least.
const TRACE_STATE_BYTES_MAX: usize = 512;

/// What the request says of its trace.
pub fn extract(headers: &HeaderMap) -> Option<Incoming> {
    w3c(headers).or_else(|| b3(headers)).or_else(|| b3_multi(headers)).or_else(|| uber(headers))
}

/// The only value of a header.
fn single<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?.trim();
    values.next().is_none().then_some(value)
}

/// Hexadecimal digits, as many as given at most, that are not all zero.
fn id<const BYTES: usize>(text: &str) -> Option<[u8; BYTES]> {
    if text.is_empty() || text.len() > BYTES * 2 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let number = u128::from_str_radix(text, 16).ok().filter(|number| *number != 0)?;
    number.to_be_bytes()[16 - BYTES..].try_into().ok()
}

fn context(trace_id: [u8; 16], span_id: [u8; 8]) -> Option<Context> {
    Some(Context { trace_id, span_id, trace_state: String::new() })
}

fn w3c(headers: &HeaderMap) -> Option<Incoming> {
    let text = single(headers, "traceparent")?;
    let lower = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    let mut parts = text.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let lengths = [version.len(), trace.len(), span.len(), flags.len()];
    if lengths != [2, 32, 16, 2] || ![version, trace, span, flags].into_iter().all(lower) || version == "ff" {
        return None;
    }
    // Later versions may say more.
    if version == "00" && parts.next().is_some() {
        return None;
    }
    let context = Context { trace_state: trace_state(headers), ..context(id(trace)?, id(span)?)? };
    let flags = u8::from_str_radix(flags, 16).ok()?;
    Some(Incoming { context: Some(context), sampled: Some(flags & 1 == 1) })
}

/// Whole members from the left, as many as fit.
fn trace_state(headers: &HeaderMap) -> String {
    let values = headers.get_all("tracestate").iter().filter_map(|value: &HeaderValue| value.to_str().ok());
    let mut state = String::new();
    for member in values.flat_map(|value| value.split(',')).map(str::trim).filter(|member| !member.is_empty()) {
        if state.len() + 1 + member.len() > TRACE_STATE_BYTES_MAX {
            break;
        }
        if !state.is_empty() {
            state.push(',');
        }
        state.push_str(member);
    }
    state
}

fn b3_sampled(text: &str) -> Option<bool> {
    match text {
        // Debug is recorded at any rate.
        "1" | "d" => Some(true),
        "0" => Some(false),
        _ => None,
    }
}

/// `{trace}-{span}-{sampled}-{parent}`, of which the last two may be missing, or `{sampled}` alone.
fn b3(headers: &HeaderMap) -> Option<Incoming> {
    let text = single(headers, "b3")?;
    let parts: Vec<&str> = text.splitn(5, '-').collect();
    match parts.as_slice() {
        [sampled] => Some(Incoming { context: None, sampled: Some(b3_sampled(sampled)?) }),
        [trace, span, rest @ ..] if rest.len() <= 2 => {
            let sampled = rest.first().map(|text| b3_sampled(text).ok_or(())).transpose().ok()?;
            Some(Incoming { context: b3_context(trace, span), sampled }).filter(|incoming| incoming.context.is_some())
        }
        _ => None,
    }
}

fn b3_context(trace: &str, span: &str) -> Option<Context> {
    if !matches!(trace.len(), 16 | 32) || span.len() != 16 {
        return None;
    }
    context(id(trace)?, id(span)?)
}

fn b3_multi(headers: &HeaderMap) -> Option<Incoming> {
    let sampled = match (single(headers, "x-b3-flags"), single(headers, "x-b3-sampled")) {
        (Some("1"), _) => Some(true),
        (_, Some("1" | "true")) => Some(true),
        (_, Some("0" | "false")) => Some(false),
        _ => None,
    };
    let ids = single(headers, "x-b3-traceid").zip(single(headers, "x-b3-spanid"));
    let context = ids.and_then(|(trace, span)| b3_context(trace, span));
    (context.is_some() || sampled.is_some()).then_some(Incoming { context, sampled })
}

/// `{trace}:{span}:{parent}:{flags}`; zeros on the left of an id may be missing, and colons may be escaped.
fn uber(headers: &HeaderMap) -> Option<Incoming> {
    let text = single(headers, "uber-trace-id")?.replace("%3A", ":").replace("%3a", ":");
    let parts: Vec<&str> = text.split(':').collect();
    let [trace, span, _parent, flags] = parts.as_slice() else { return None };
    let flags = u8::from_str_radix(flags, 16).ok()?;
    // Sampled, or debug.
    Some(Incoming { context: context(id(trace)?, id(span)?), sampled: Some(flags & 3 != 0) })
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn read(headers: &[(&str, &str)]) -> Option<Incoming> {
        let pair = |(name, value): &(&str, &str)| {
            (HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap())
        };
        let mut map = HeaderMap::new();
        for (name, value) in headers.iter().map(pair) {
            map.append(name, value);
        }
        extract(&map)
    }

    /// `<trace>/<span> <sampled>`, short.
    fn check(headers: &[(&str, &str)], expected: &str) {
        let said = match read(headers) {
            None => "nothing".to_owned(),
            Some(Incoming { context, sampled }) => {
                let place = context.map_or("nowhere".to_owned(), |c| c.traceparent()[3..52].to_owned());
                format!("{place} {}", sampled.map_or("?".to_owned(), |sampled| sampled.to_string()))
            }
        };
        assert_eq!(said, expected, "{headers:?}");
    }

    #[test]
    fn every_format_is_read() {
        let (place, short) = (format!("{TRACE}-{SPAN}"), format!("{:0>32}-{SPAN}", &TRACE[16..]));
        check(&[("traceparent", &format!("00-{place}-01"))], &format!("{place} true"));
        check(&[("traceparent", &format!("00-{place}-02"))], &format!("{place} false"));
        check(&[("traceparent", &format!("cc-{place}-01-later"))], &format!("{place} true"));
        check(&[("b3", &format!("{place}-1"))], &format!("{place} true"));
        check(&[("b3", &format!("{place}-d-0000000000000001"))], &format!("{place} true"));
        check(&[("b3", &place)], &format!("{place} ?"));
        check(&[("b3", &format!("{}-{SPAN}-0", &TRACE[16..]))], &format!("{short} false"));
        check(&[("b3", "0")], "nowhere false");
        let multi = [("X-B3-TraceId", TRACE), ("X-B3-SpanId", SPAN)];
        check(&multi, &format!("{place} ?"));
        check(&[&multi[..], &[("X-B3-Sampled", "1")]].concat(), &format!("{place} true"));
        check(&[&multi[..], &[("X-B3-Sampled", "0")]].concat(), &format!("{place} false"));
        check(&[&multi[..], &[("X-B3-Flags", "1")]].concat(), &format!("{place} true"));
        check(&[("X-B3-Sampled", "0")], "nowhere false");
        check(&[("uber-trace-id", &format!("{TRACE}:{SPAN}:0:1"))], &format!("{place} true"));
        check(&[("uber-trace-id", &format!("{TRACE}%3Af067aa0ba902b7%3A0%3A0"))], &format!("{place} false"));
    }

    #[test]
    fn what_cannot_be_read_gives_way_to_the_next_format() {
        let zero = "0".repeat(32);
        for wrong in [
            format!("00-{zero}-{SPAN}-01"),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-1"),
            "00".to_owned(),
            String::new(),
        ] {
            check(&[("traceparent", &wrong)], "nothing");
            check(&[("traceparent", &wrong), ("b3", "1")], "nowhere true");
        }
        check(&[("traceparent", &format!("00-{TRACE}-{SPAN}-01")), ("traceparent", &format!("00-{TRACE}-{SPAN}-01"))], "nothing");
        for wrong in ["", "2", "1-2-1", &format!("{TRACE}-{SPAN}-2"), &format!("{TRACE}-{SPAN}-1-2-3"), &format!("{zero}-{SPAN}-1")] {
            check(&[("b3", wrong)], "nothing");
        }
        for wrong in ["", "1:2:3", "1:2:3:4:5", "x:1:0:1", "0:1:0:1", "1:1:0:x"] {
            check(&[("uber-trace-id", wrong)], "nothing");
        }
        check(&[("X-B3-TraceId", TRACE)], "nothing");
        check(&[], "nothing");
    }

    #[test]
    fn a_trace_state_is_kept_in_whole_members() {
        let parent = format!("00-{TRACE}-{SPAN}-01");
        let state = |states: &[&str]| {
            let states: Vec<_> = states.iter().map(|state| ("tracestate", *state)).collect();
            read(&[&[("traceparent", parent.as_str())], states.as_slice()].concat()).unwrap().context.unwrap().trace_state
        };
        assert_eq!(state(&["a=1, b=2", "c=3,"]), "a=1,b=2,c=3");
        let long = format!("x={}", "y".repeat(300));
        assert_eq!(state(&[&long, &long, "c=3"]), long);
    }
}
