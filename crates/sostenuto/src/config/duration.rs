//! Durations as people write them in Go: `1h30m`, `500ms`, `1.5s`. Days (`7d`) are accepted too.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A length of time. Prints so that it reads back as the same value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration(pub Duration);

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a duration; write for example 500ms, 30s, 1h30m or 7d")]
pub struct DurationError {
    text: String,
}

/// Longest first, so that `m` does not take the start of `ms`.
const UNITS: [(&str, u64); 9] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

impl GoDuration {
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    pub const fn from_secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    fn parse(text: &str) -> Option<Duration> {
        let mut rest = text.trim();
        if rest == "0" {
            return Some(Duration::ZERO);
        }
        if rest.is_empty() {
            return None;
        }
        let mut total = Duration::ZERO;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
            let (number, after) = rest.split_at(digits);
            let (unit, nanos) = UNITS.iter().find(|(unit, _)| after.starts_with(unit))?;
            let part = match number.parse::<u64>() {
                Ok(whole) => Duration::from_nanos(whole.checked_mul(*nanos)?),
                Err(_) => {
                    let value = number.parse::<f64>().ok()?;
                    Duration::try_from_secs_f64(value * *nanos as f64 / 1e9).ok()?
                }
            };
            total = total.checked_add(part)?;
            rest = &after[unit.len()..];
        }
        Some(total)
    }
}

impl FromStr for GoDuration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text).map(Self).ok_or_else(|| DurationError { text: text.to_owned() })
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = self.0.as_nanos();
        if left == 0 {
            return f.write_str("0s");
        }
        for (unit, nanos) in UNITS.iter().rev().filter(|(unit, _)| unit.is_ascii() && *unit != "d") {
            let count = left / u128::from(*nanos);
            if count > 0 {
                write!(f, "{count}{unit}")?;
                left %= u128::from(*nanos);
            }
        }
        Ok(())
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_go_reads_is_read() {
        for (text, nanos) in [
            ("0", 0),
            ("500ms", 500_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5s", 1_500_000_000),
            ("10us", 10_000),
            ("10µs", 10_000),
            ("1d", 86_400_000_000_000),
            ("1m500ms", 60_500_000_000),
        ] {
            assert_eq!(text.parse(), Ok(GoDuration(Duration::from_nanos(nanos))), "{text}");
        }
        for bad in ["", "5", "s", "1x", "1h 30m", "-5s", "1..5s", "99999999999999999999h"] {
            assert!(bad.parse::<GoDuration>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn printing_loses_nothing(nanos in any::<u64>()) {
            let duration = GoDuration(Duration::from_nanos(nanos));
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }
    }
}
