//! The parameters of a request's URL.
//!
//! Names and values are percent-decoded once and are valid UTF-8. The first of several equal names counts, and an
//! empty value counts as absent, as Tempo's clients expect.

use crate::Failure;

/// More parameters than any client sends. A request with more is refused.
const PARAMETERS_MAX: usize = 1_000;

#[derive(Debug, Default)]
pub struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Reads the part of a URL after `?`.
    pub fn parse(query: Option<&str>) -> Result<Self, Failure> {
        let mut parameters = Vec::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            if parameters.len() == PARAMETERS_MAX {
                return Err(Failure::invalid(format!("a request has at most {PARAMETERS_MAX} parameters")));
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decode = |text: &str| {
                percent_decode(&text.replace('+', " "))
                    .ok_or_else(|| Failure::invalid(format!("parameter {name:?} is not valid percent-encoded UTF-8")))
            };
            parameters.push((decode(name)?, decode(value)?));
        }
        Ok(Self(parameters))
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(n, _)| n == name)?;
        (!value.is_empty()).then_some(value)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// A whole number from 0 to 2^32 - 1.
    pub fn number(&self, name: &str) -> Result<Option<u32>, Failure> {
        self.get(name)
            .map(|text| {
                text.parse().map_err(|_| {
                    Failure::invalid(format!("{name} must be a whole number from 0 to {}; found {text:?}", u32::MAX))
                })
            })
            .transpose()
    }

    /// A parameter read by `read`, whose error says what is wrong with the text.
    pub fn read<T>(&self, name: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, Failure> {
        self.get(name).map(|text| read(text).map_err(|wrong| Failure::invalid(format!("{name}: {wrong}")))).transpose()
    }
}

/// `None` if an escape is malformed or the result is not UTF-8.
pub fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let [high, low, after @ ..] = after else { return None };
        let digit = |b: u8| char::from(b).to_digit(16);
        bytes.push((digit(*high)? * 16 + digit(*low)?) as u8);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_value_counts_and_empty_is_absent() {
        let p = Parameters::parse(Some("q=%7B+.a%3D%22%C3%BC%22+%7D&limit=3&limit=4&start=&flag")).unwrap();
        assert_eq!(p.get("q"), Some("{ .a=\"ü\" }"));
        assert_eq!(p.number("limit").unwrap(), Some(3));
        assert_eq!(p.get("start"), None);
        assert_eq!(p.get("flag"), None);
        assert!(Parameters::parse(Some("q=%f")).is_err());
        assert!(Parameters::parse(Some("q=%ff")).is_err());
        assert!(Parameters::parse(Some(&"a&".repeat(PARAMETERS_MAX + 1))).is_err());
    }

    #[test]
    fn numbers_are_whole_and_not_negative() {
        for bad in ["abc", "-1", "1.5", "4294967296", "1%20"] {
            assert!(Parameters::parse(Some(&format!("limit={bad}"))).unwrap().number("limit").is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding(text in any::<String>()) {
            let encoded: String = text.bytes().map(|b| format!("%{b:02X}")).collect();
            prop_assert_eq!(percent_decode(&encoded), Some(text));
        }
    }
}
