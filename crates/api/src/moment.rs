//! Points in time and lengths of time as callers write them. No clock is read here: `now` is an argument everywhere.

use chrono::DateTime;

const SECOND: i64 = 1_000_000_000;

/// Units of a written duration, in nanoseconds. The Go units and Prometheus' longer ones (a year has 365 days).
const UNITS: [(&str, i64); 10] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", SECOND),
    ("m", 60 * SECOND),
    ("h", 3_600 * SECOND),
    ("d", 86_400 * SECOND),
    ("w", 7 * 86_400 * SECOND),
    ("y", 365 * 86_400 * SECOND),
];

/// Reads a point in time as Unix nanoseconds: Unix seconds (whole or with a fraction), Unix nanoseconds
/// (a whole number of more than ten digits), or RFC 3339. The error says what is wrong with the text.
pub fn instant(text: &str) -> Result<i64, String> {
    let wrong = || {
        format!("{text:?} is not a time: write Unix seconds, Unix nanoseconds or RFC 3339 such as 2026-01-31T12:00:00Z")
    };
    let ns = if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        let number: i64 = text.parse().map_err(|_| wrong())?;
        if text.len() > 10 { Some(number) } else { number.checked_mul(SECOND) }
    } else if text.starts_with(|c: char| c.is_ascii_digit()) && text.parse::<f64>().is_ok() {
        seconds(text)
    } else {
        DateTime::parse_from_rfc3339(text).map_err(|_| wrong())?.timestamp_nanos_opt()
    };
    match ns {
        Some(ns) if ns >= 0 => Ok(ns),
        _ => Err(format!("{text:?} is outside the times that can be stored, 1970 to 2262")),
    }
}

/// Reads a length of time in nanoseconds: numbers, each with its unit (`1h30m`, `250ms`, `1.5s`, `2d`), or a bare
/// `0`. May be negative.
pub fn duration(text: &str) -> Result<i64, String> {
    let wrong = || format!("{text:?} is not a duration: write numbers with units (ns us ms s m h d w y), such as 1m30s");
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut total = 0i64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).ok_or_else(wrong)?;
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        // Go also accepts the Greek letter mu beside the micro sign.
        let unit = if unit == "μs" { "us" } else { unit };
        let (_, unit_ns) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        let part = scaled(number, *unit_ns).ok_or_else(wrong)?;
        total = total.checked_add(part).ok_or_else(|| format!("{text:?} is longer than 292 years"))?;
        rest = after;
    }
    Ok(if negative { -total } else { total })
}

/// Reads seconds with an optional fraction, exactly for up to nine decimals. `None` if it is no such number or
/// does not fit.
pub fn seconds(text: &str) -> Option<i64> {
    if let Some(ns) = scaled(text, SECOND) {
        return Some(ns);
    }
    // An exponent, say.
    let ns = text.parse::<f64>().ok()? * SECOND as f64;
    // The largest double below 2^63.
    (ns.is_finite() && ns.abs() < 9.223_372_036_854_774e18).then_some(ns as i64)
}

/// `digits[.digits] * unit`, without a detour over floating point. `None` if malformed or too large.
fn scaled(number: &str, unit: i64) -> Option<i64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let whole: i64 = match whole {
        "" => 0,
        digits if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok()?,
        _ => return None,
    };
    // Beyond 18 decimals nothing is left of any unit's nanoseconds that would not round away.
    let fraction = &fraction[..fraction.len().min(18)];
    let part = match fraction {
        "" => 0,
        digits => (digits.parse::<i128>().ok()? * i128::from(unit) / 10i128.pow(digits.len() as u32)) as i64,
    };
    whole.checked_mul(unit)?.checked_add(part)
}

/// A length of time in the way Go prints it, in the largest units that keep it exact to the nanosecond: `1m30s`.
pub fn format_duration(mut ns: u128) -> String {
    use std::fmt::Write;
    if ns == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (name, unit) in [("h", 3_600), ("m", 60), ("s", 1)] {
        let unit = unit * SECOND as u128;
        if ns >= unit {
            let _ = write!(text, "{}{name}", ns / unit);
            ns %= unit;
        }
    }
    for (name, unit) in [("ms", 1_000_000), ("us", 1_000), ("ns", 1)] {
        if ns >= unit {
            let _ = write!(text, "{}{name}", ns / unit);
            ns %= unit;
        }
    }
    text
}

/// Serde for a configuration key that holds a `std::time::Duration` as text such as `30s`.
pub mod duration_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::time::Duration;

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        let ns = super::duration(&text).map_err(D::Error::custom)?;
        u64::try_from(ns).map(Duration::from_nanos).map_err(|_| D::Error::custom("a duration here cannot be negative"))
    }

    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::format_duration(duration.as_nanos()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn instants_are_read_in_every_notation() {
        for (text, ns) in [
            ("1700000000", 1_700_000_000 * SECOND),
            ("0", 0),
            ("1700000000123456789", 1_700_000_000_123_456_789),
            ("1700000000.25", 1_700_000_000 * SECOND + 250_000_000),
            ("1.7e9", 1_700_000_000 * SECOND),
            ("2023-11-14T22:13:20Z", 1_700_000_000 * SECOND),
            ("2023-11-14T23:13:20.5+01:00", 1_700_000_000 * SECOND + 500_000_000),
        ] {
            assert_eq!(instant(text), Ok(ns), "{text}");
        }
        for bad in ["", "x", "-5", "NaN", "inf", "1e400", "99999999999999999999", "2300-01-01T00:00:00Z", "1700000000s", "1969-01-01T00:00:00Z"] {
            assert!(instant(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_read_in_go_and_prometheus_notation() {
        for (text, ns) in [
            ("0", 0),
            ("0s", 0),
            ("100ms", 100_000_000),
            ("1h30m", 5400 * SECOND),
            ("1.5s", 1_500_000_000),
            (".5s", 500_000_000),
            ("2d", 172_800 * SECOND),
            ("3us", 3_000),
            ("3µs", 3_000),
            ("-2s", -2 * SECOND),
        ] {
            assert_eq!(duration(text), Ok(ns), "{text}");
        }
        for bad in ["", "5", "s", "5 s", "5lightyears", "1.2.3s", "-", ".", ".s", "1000y", "9223372036854775808ns", "1h-5m"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_formatted_duration_reads_back(ns in 0i64..=i64::MAX) {
            prop_assert_eq!(duration(&format_duration(ns as u128)), Ok(ns));
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = (instant(&text), duration(&text), seconds(&text));
        }

        #[test]
        fn number_like_text_does_not_panic(text in "[-+0-9.eE:TZnumshdwyµμ]{0,30}") {
            let _ = (instant(&text), duration(&text), seconds(&text));
        }
    }
}
