//! Reads logfmt (`key=value key2="a value"`), the notation of Tempo's old tag search.

/// The pairs in the order written. A key without `=` has an empty value. The error says what is wrong and where.
pub fn parse(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(rest.len());
        let key = &rest[..end];
        if key.is_empty() {
            return Err(format!("a tag's name is missing before {:?}", head(rest)));
        }
        if key.contains('"') {
            return Err(format!("a tag's name cannot hold a quote: {key:?}"));
        }
        rest = &rest[end..];
        let mut value = String::new();
        if let Some(after) = rest.strip_prefix('=') {
            (value, rest) = if let Some(quoted) = after.strip_prefix('"') {
                unquote(quoted).map_err(|wrong| format!("the value of {key:?} {wrong}"))?
            } else {
                let end = after.find(char::is_whitespace).unwrap_or(after.len());
                let (bare, rest) = after.split_at(end);
                if bare.contains(['"', '=']) {
                    return Err(format!("the value of {key:?} must be quoted: {bare:?}"));
                }
                (bare.to_owned(), rest)
            };
            if !rest.is_empty() && !rest.starts_with(char::is_whitespace) {
                return Err(format!("a space is missing after the value of {key:?}, before {:?}", head(rest)));
            }
        }
        if pairs.iter().any(|(known, _)| known == key) {
            return Err(format!("tag {key:?} is given twice"));
        }
        pairs.push((key.to_owned(), value));
        rest = rest.trim_start();
    }
    Ok(pairs)
}

/// Reads up to the closing quote. Escapes are those of JSON.
fn unquote(text: &str) -> Result<(String, &str), String> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => match chars.next().map(|(_, escaped)| escaped) {
                Some('n') => value.push('\n'),
                Some('t') => value.push('\t'),
                Some('r') => value.push('\r'),
                Some('b') => value.push('\u{8}'),
                Some('f') => value.push('\u{c}'),
                Some(c @ ('"' | '\\' | '/' | '\'')) => value.push(c),
                Some('u') => {
                    let digits = text.get(at + 2..at + 6).ok_or("ends inside an escape")?;
                    let code = u32::from_str_radix(digits, 16).map_err(|_| format!("has a bad escape \\u{digits}"))?;
                    value.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                    chars.nth(3);
                }
                Some(other) => return Err(format!("has an unknown escape \\{other}")),
                None => return Err("ends inside an escape".to_owned()),
            },
            c => value.push(c),
        }
    }
    Err("has no closing quote".to_owned())
}

fn head(text: &str) -> String {
    text.chars().take(20).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, pairs: &[(&str, &str)]) {
        let owned: Vec<_> = pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        assert_eq!(parse(text), Ok(owned), "{text}");
    }

    #[test]
    fn pairs_are_read() {
        check("", &[]);
        check("service.name=orders", &[("service.name", "orders")]);
        check(r#" a=1  b="x \"y\" \\ z" "#, &[("a", "1"), ("b", r#"x "y" \ z"#)]);
        check(r#"a= b c="""#, &[("a", ""), ("b", ""), ("c", "")]);
        check(r#"a="\u00fc""#, &[("a", "ü")]);
    }

    #[test]
    fn what_is_malformed_is_refused() {
        for bad in [r#"a="b"#, "=b", r#"a"b=1"#, r#"a=b"c"#, "a=b=c", "a=1 a=2", r#"a="b"c"#, r#"a="\x""#, r#"a="\u12"#, r#"a="\"#] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_quoted_value_reads_back(value in any::<String>()) {
            let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
            prop_assert_eq!(parse(&format!("k=\"{quoted}\"")), Ok(vec![("k".to_owned(), value)]));
        }

        #[test]
        fn no_text_panics(text in any::<String>(), near in r#"[ab=" \\u0-9ü]{0,40}"#) {
            let _ = (parse(&text), parse(&near));
        }
    }
}
