//! Credentials that are known by their form.

use std::{ops::Range, sync::OnceLock};

use regex::{Regex, RegexSet};

/// Each with one group: the part that is secret.
const FORMS: [&str; 11] = [
    // AWS: access keys and their temporary kind.
    r"\b((?:AKIA|ASIA|AROA|AIDA|AGPA)[0-9A-Z]{16})\b",
    r#"(?i:aws_?secret_?(?:access_?)?key)["']?\s{0,4}[:=]\s{0,4}["']?([0-9A-Za-z/+]{40})"#,
    // JSON web tokens.
    r"\b(eyJ[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]*)",
    r"(-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----[0-9A-Za-z+/=\s\\:,.-]*)",
    r"(?i)\b(?:bearer|basic)\s+([0-9A-Za-z+/_.~-]{12,}=*)",
    // GitHub, GitLab, Slack, Google, Stripe, and our own keys.
    r"\b(gh[pousr]_[0-9A-Za-z]{36,})",
    r"\b(glpat-[0-9A-Za-z_-]{20,})",
    r"\b(xox[abprs]-[0-9A-Za-z-]{10,})",
    r"\b(AIza[0-9A-Za-z_-]{35})",
    r"\b((?:[sr]k_live_[0-9A-Za-z]{20,})|sos_[0-9A-Za-z.-]{1,64}_[0-9A-Za-z_-]{43})",
    // The password of a URL.
    r"[a-zA-Z][a-zA-Z0-9+.-]*://[^\s/:@]*:([^\s/@]+)@",
];

struct Forms {
    /// Whether any is there: one look for all.
    any: RegexSet,
    each: Vec<Regex>,
}

fn forms() -> &'static Forms {
    static COMPILED: OnceLock<Forms> = OnceLock::new();
    COMPILED.get_or_init(|| {
        // What stands around a credential is told apart as ASCII, so that other letters do not make the search slow.
        let forms = FORMS.map(|form| form.replace(r"\b", r"(?-u:\b)"));
        let each = forms.iter().map(|form| Regex::new(form).expect("checked by the tests")).collect();
        Forms { any: RegexSet::new(&forms).expect("checked by the tests"), each }
    })
}

/// Where secrets are in a text; in no order, and they may overlap.
pub(crate) fn find(text: &str, found: &mut Vec<Range<usize>>) {
    let Forms { any, each } = forms();
    if !any.is_match(text) {
        return;
    }
    for form in each {
        found.extend(form.captures_iter(text).filter_map(|captures| Some(captures.get(1)?.range())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[&str]) {
        let mut found = Vec::new();
        find(text, &mut found);
        found.sort_by_key(|range| range.start);
        assert_eq!(found.into_iter().map(|range| &text[range]).collect::<Vec<_>>(), expected, "{text:?}");
    }

    #[test]
    fn known_forms_are_found_and_other_words_are_not() {
        // Put together here, so that no scanner takes this file for a leak.
        let aws = format!("AKIA{}", "IOSFODNN7EXAMPLE");
        check(&format!("key={aws};"), &[&aws]);
        let secret = format!("wJalrXUtnFEMI/K7MDENG/{}", "bPxRfiCYEXAMPLEKEY");
        check(&format!("AWS_SECRET_ACCESS_KEY={secret}"), &[&secret]);
        check(&format!("\"aws_secret_key\": \"{secret}\""), &[&secret]);
        let token = format!("eyJhbGciOiJIUzI1NiJ9.{}.c2lnbmF0dXJl", "eyJzdWIiOiJhIn0");
        check(&format!("token {token} was sent"), &[&token]);
        let pem = format!("-----BEGIN {}PRIVATE KEY-----\nMIIB\nAA==\n-----END RSA PRIVATE KEY-----", "RSA ");
        check(&format!("key: {pem}!"), &[&pem]);
        check("Authorization: Bearer abcdefghijklmnop==", &["abcdefghijklmnop=="]);
        check("basic dXNlcjpwYXNzd29yZA==", &["dXNlcjpwYXNzd29yZA=="]);
        check("postgres://shop:hunter2@db/orders", &["hunter2"]);
        let github = format!("ghp_{}", "a".repeat(36));
        check(&github, &[&github]);
        let ours = format!("sos_collector_{}", "b".repeat(43));
        check(&format!("x-api-key: {ours}"), &[&ours]);
        for other in ["", "bearer of bad news", "https://shop.example/a?b=c@d", "AKIAX", "eyJ.a.b", "a basic fact", "http://user@host/"] {
            check(other, &[]);
        }
    }
}
