//! One rule: what it is about, and what it finds in a text.

use std::ops::Range;

use regex::{Regex, RegexBuilder};

use crate::{
    cards, secrets,
    settings::{Action, Detector, Place, RedactError, RuleSettings},
};

/// Of a compiled pattern.
const PATTERN_BYTES_MAX: usize = 1 << 20;

pub(crate) struct Rule {
    pub name: String,
    pub action: Action,
    /// `None`: any key.
    keys: Option<Regex>,
    values: Option<Regex>,
    detectors: Vec<Detector>,
    places: Vec<Place>,
}

impl Rule {
    pub(crate) fn new(settings: &RuleSettings, salted: bool) -> Result<Self, RedactError> {
        let RuleSettings { name, action, keys, key_regex, value_regex, detectors, scopes } = settings;
        let fail = |what: String| RedactError { rule: Some(name.clone()), what };
        if name.is_empty() || name.len() > 64 {
            return Err(RedactError { rule: None, what: "each rule needs a name of at most 64 bytes".to_owned() });
        }
        if *action == Action::Hash && !salted {
            return Err(fail("to hash, distributor.redaction.salt_file must be set".to_owned()));
        }
        let compile = |pattern: &str, what: &str| {
            let compiled = RegexBuilder::new(pattern).size_limit(PATTERN_BYTES_MAX).build();
            compiled.map_err(|error| fail(format!("{what} is no pattern: {error}")))
        };
        let globs = keys.iter().map(|glob| glob_pattern(glob));
        let patterns: Vec<String> = globs.chain(key_regex.clone()).collect();
        let by_key = !patterns.is_empty();
        let keys = match by_key {
            true => Some(compile(&patterns.iter().map(|p| format!("(?:{p})")).collect::<Vec<_>>().join("|"), "the key")?),
            false => None,
        };
        let values = value_regex.as_deref().map(|pattern| compile(pattern, "value_regex")).transpose()?;
        if values.as_ref().is_some_and(|pattern| pattern.is_match("")) {
            return Err(fail("value_regex matches the empty text, which is everywhere".to_owned()));
        }
        if !by_key && values.is_none() && detectors.is_empty() {
            return Err(fail("is about everything; give keys, key_regex, value_regex or detectors".to_owned()));
        }
        let places = if scopes.is_empty() { Place::ALL.to_vec() } else { scopes.clone() };
        Ok(Self { name: name.clone(), action: *action, keys, values, detectors: detectors.clone(), places })
    }

    pub(crate) fn is_about(&self, place: Place) -> bool {
        self.places.contains(&place)
    }

    /// Of texts without a key, such as a status message, only rules about values know anything.
    pub(crate) fn matches_key(&self, key: Option<&str>) -> bool {
        match (&self.keys, key) {
            (None, _) => true,
            (Some(keys), Some(key)) => keys.is_match(key),
            (Some(_), None) => false,
        }
    }

    /// Whether it takes whole values, and not parts of texts.
    pub(crate) fn takes_whole(&self) -> bool {
        self.values.is_none() && self.detectors.is_empty()
    }

    /// The parts of a text that it is about: in order, without overlap.
    pub(crate) fn find(&self, text: &str) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        if let Some(values) = &self.values {
            found.extend(values.find_iter(text).map(|part| part.range()).filter(|part| !part.is_empty()));
        }
        for detector in &self.detectors {
            match detector {
                Detector::CardNumber => cards::find(text, &mut found),
                Detector::Secret => secrets::find(text, &mut found),
            }
        }
        found.sort_by_key(|part| (part.start, part.end));
        found.dedup_by(|later, earlier| {
            let joins = later.start <= earlier.end;
            if joins {
                earlier.end = earlier.end.max(later.end);
            }
            joins
        });
        found
    }
}

fn glob_pattern(glob: &str) -> String {
    let mut pattern = "(?is)^".to_owned();
    for character in glob.chars() {
        match character {
            '*' => pattern.push_str(".*"),
            '?' => pattern.push('.'),
            other => pattern.push_str(&regex::escape(other.encode_utf8(&mut [0; 4]))),
        }
    }
    pattern + "$"
}
