//! Durations as text: Prometheus' and Go's notation in, Go's notation out. Nanoseconds inside.

const NANOSECOND: u64 = 1;
const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// The units of a Prometheus duration, in the order they must be written.
const PROMETHEUS_UNITS: [(&str, u64); 7] = [
    ("y", 365 * DAY),
    ("w", 7 * DAY),
    ("d", DAY),
    ("h", HOUR),
    ("m", MINUTE),
    ("s", SECOND),
    ("ms", MILLISECOND),
];

const GO_UNITS: [(&str, u64); 8] = [
    ("ns", NANOSECOND),
    ("us", MICROSECOND),
    ("µs", MICROSECOND), // U+00B5 micro sign
    ("μs", MICROSECOND), // U+03BC Greek mu
    ("ms", MILLISECOND),
    ("s", SECOND),
    ("m", MINUTE),
    ("h", HOUR),
];

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum DurationFault {
    /// Neither notation.
    Malformed,
    /// More than 2^63 - 1 nanoseconds, about 292 years.
    TooLong,
}

/// Reads an unsigned duration: `1h30m`, `2d`, `1.5s`, `250us`.
pub(crate) fn parse(text: &str) -> Result<i64, DurationFault> {
    match prometheus(text) {
        Err(DurationFault::Malformed) => go(text),
        answer => answer,
    }
}

/// Whole numbers, each unit at most once, from years down to milliseconds.
fn prometheus(text: &str) -> Result<i64, DurationFault> {
    let mut rest = text;
    let mut next_unit = 0;
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let (number, unit);
        (number, rest) = split_at_end_of(rest, |c| c.is_ascii_digit());
        (unit, rest) = split_at_end_of(rest, |c| c.is_alphabetic());
        if number.is_empty() {
            return Err(DurationFault::Malformed);
        }
        let place = PROMETHEUS_UNITS[next_unit..]
            .iter()
            .position(|(name, _)| *name == unit)
            .ok_or(DurationFault::Malformed)?;
        let (_, nanoseconds) = PROMETHEUS_UNITS[next_unit + place];
        next_unit += place + 1;
        total = add(total, number, "", nanoseconds)?;
    }
    finish(total, text)
}

/// Any order, fractions allowed.
fn go(text: &str) -> Result<i64, DurationFault> {
    let mut rest = text;
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let (whole, fraction, unit);
        (whole, rest) = split_at_end_of(rest, |c| c.is_ascii_digit());
        (fraction, rest) = match rest.strip_prefix('.') {
            Some(after) => split_at_end_of(after, |c| c.is_ascii_digit()),
            None => ("", rest),
        };
        (unit, rest) = split_at_end_of(rest, |c| c.is_alphabetic());
        if whole.is_empty() && fraction.is_empty() {
            return Err(DurationFault::Malformed);
        }
        let (_, nanoseconds) =
            GO_UNITS.iter().find(|(name, _)| *name == unit).ok_or(DurationFault::Malformed)?;
        total = add(total, whole, fraction, *nanoseconds)?;
    }
    finish(total, text)
}

fn split_at_end_of(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

fn add(total: u128, whole: &str, fraction: &str, unit: u64) -> Result<u128, DurationFault> {
    let whole: u64 = match whole {
        "" => 0,
        digits => digits.parse().map_err(|_| DurationFault::TooLong)?,
    };
    // A unit has at most 3.6e12 nanoseconds: digits beyond the eighteenth change nothing.
    let fraction = &fraction[..fraction.len().min(18)];
    let numerator: u128 = match fraction {
        "" => 0,
        digits => digits.parse().map_err(|_| DurationFault::Malformed)?,
    };
    let unit = u128::from(unit);
    let total = total + u128::from(whole) * unit + numerator * unit / 10_u128.pow(fraction.len() as u32);
    if total > i64::MAX as u128 { Err(DurationFault::TooLong) } else { Ok(total) }
}

fn finish(total: u128, text: &str) -> Result<i64, DurationFault> {
    if text.is_empty() {
        return Err(DurationFault::Malformed);
    }
    i64::try_from(total).map_err(|_| DurationFault::TooLong)
}

/// Nanoseconds in Go's notation: `1m2.5s`, `250µs`, `0s`, `-3h0m0s`.
pub fn go_duration(nanoseconds: i64) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let n = nanoseconds.unsigned_abs();
    match n {
        0 => "0s".to_owned(),
        _ if n < MICROSECOND => format!("{sign}{n}ns"),
        _ if n < MILLISECOND => format!("{sign}{}µs", decimal(n, MICROSECOND)),
        _ if n < SECOND => format!("{sign}{}ms", decimal(n, MILLISECOND)),
        _ => {
            let (hours, minutes) = (n / HOUR, n % HOUR / MINUTE);
            let seconds = decimal(n % MINUTE, SECOND);
            match (hours, minutes) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, _) => format!("{sign}{minutes}m{seconds}s"),
                _ => format!("{sign}{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

/// `n / unit`, exactly, without trailing zeros. `unit` is a power of ten.
fn decimal(n: u64, unit: u64) -> String {
    let (whole, fraction) = (n / unit, n % unit);
    if fraction == 0 {
        return whole.to_string();
    }
    let digits = format!("{fraction:0width$}", width = unit.ilog10() as usize);
    format!("{whole}.{}", digits.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_both_notations() {
        let table: &[(&str, i64)] = &[
            ("0s", 0),
            ("5ns", 5),
            ("250us", 250_000),
            ("250µs", 250_000),
            ("250μs", 250_000),
            ("10ms", 10_000_000),
            ("1.5s", 1_500_000_000),
            (".5s", 500_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1m2.5s", 62_500_000_000),
            ("30m1h", 5_400_000_000_000),
            ("1d", 86_400_000_000_000),
            ("1w2d", 9 * 86_400_000_000_000),
            ("1y", 365 * 86_400_000_000_000),
            ("1s5ms", 1_005_000_000),
            ("0.000000000000000000001h", 0),
        ];
        for (text, nanoseconds) in table {
            assert_eq!(parse(text), Ok(*nanoseconds), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_neither() {
        for text in ["", "5", "s", "5lightyears", "1.5d", "1d.5", "5S", "1e3s", "0x1f", ".s", "1..5s"] {
            assert_eq!(parse(text), Err(DurationFault::Malformed), "{text}");
        }
        for text in ["300y", "9223372036854775808ns", "99999999999999999999s", "999999999999h"] {
            assert_eq!(parse(text), Err(DurationFault::TooLong), "{text}");
        }
    }

    #[test]
    fn writes_go_notation() {
        let table: &[(i64, &str)] = &[
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (2_200_000, "2.2ms"),
            (3_300_000_000, "3.3s"),
            (62_500_000_000, "1m2.5s"),
            (245_000_000_000, "4m5s"),
            (245_001_000_000, "4m5.001s"),
            (18_367_001_000_000, "5h6m7.001s"),
            (480_000_000_001, "8m0.000000001s"),
            (3_600_000_000_000, "1h0m0s"),
            (-100_000_000, "-100ms"),
            (i64::MAX, "2562047h47m16.854775807s"),
            (i64::MIN, "-2562047h47m16.854775808s"),
        ];
        for (nanoseconds, text) in table {
            assert_eq!(go_duration(*nanoseconds), *text);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(n in 0..=i64::MAX) {
            prop_assert_eq!(parse(&go_duration(n)), Ok(n));
        }

        #[test]
        fn any_text_is_answered(text in "[0-9.]{0,20}[a-zµ]{0,3}[0-9.]{0,25}[a-zµ]{0,3}") {
            let _ = parse(&text);
        }
    }
}
