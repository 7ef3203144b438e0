//! Takes out of spans what must not be stored: rules over attributes, names and status messages of OTLP requests, applied
//! to the bytes as they came.
//!
//! - What no rule touches keeps its bytes, and a request that none touches is handed back as it is, without a copy.
//! - What a rule takes out is nowhere in the bytes that are handed on, also where a client wrote a field twice.
//! - What is no readable message stays as it is: whoever stores spans refuses it.
//! - Nesting is followed as deep as spans may nest; what is deeper is refused with its span later.
//! - Rules run in their order, each on what the ones before have left.

mod cards;
mod counts;
mod rule;
mod secrets;
mod settings;
mod value;
mod walk;
mod wire;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use bytes::Bytes;
use ring::hmac;

pub use counts::Counts;
pub use settings::{Action, Detector, Place, RedactError, RuleSettings};

use rule::Rule;

/// A salt that can be guessed makes hashes of guessed values.
const SALT_BYTES_MIN: usize = 16;
/// Each rule looks at every value.
const RULES_MAX: usize = 64;

pub struct Redactor {
    rules: Vec<Rule>,
    /// Of hashes.
    salt: Option<hmac::Key>,
    counts: Vec<Arc<AtomicU64>>,
}

impl Redactor {
    /// `salt` keys the hashes: the same value is the same hash as long as the salt is the same.
    ///
    /// # Errors
    /// Says which rule cannot be meant, and why.
    pub fn new(rules: &[RuleSettings], salt: Option<&[u8]>) -> Result<Self, RedactError> {
        Self::counting(rules, salt, &Counts::default())
    }

    /// As [`Self::new`]; what rules of these names have counted before goes on.
    ///
    /// # Errors
    /// Says which rule cannot be meant, and why.
    pub fn counting(rules: &[RuleSettings], salt: Option<&[u8]>, counts: &Counts) -> Result<Self, RedactError> {
        let fail = |what: &str| RedactError { rule: None, what: what.to_owned() };
        if rules.len() > RULES_MAX {
            return Err(fail("there may be at most 64 rules"));
        }
        let salt = match salt.map(<[u8]>::trim_ascii) {
            Some(salt) if salt.len() < SALT_BYTES_MIN => return Err(fail("the salt must have at least 16 bytes")),
            salt => salt.map(|salt| hmac::Key::new(hmac::HMAC_SHA256, salt)),
        };
        let rules: Vec<Rule> = rules.iter().map(|settings| Rule::new(settings, salt.is_some())).collect::<Result<_, _>>()?;
        for (index, rule) in rules.iter().enumerate() {
            if rules[..index].iter().any(|before| before.name == rule.name) {
                return Err(RedactError { rule: Some(rule.name.clone()), what: "this name is there twice".to_owned() });
            }
        }
        let counts = rules.iter().map(|rule| counts.of(&rule.name)).collect();
        Ok(Self { rules, salt, counts })
    }

    /// An `ExportTraceServiceRequest` without what the rules take out.
    pub fn redact(&self, request: Bytes) -> Bytes {
        if self.rules.is_empty() {
            return request;
        }
        match walk::request(self, &request) {
            Some(redacted) => redacted.into(),
            None => request,
        }
    }

    /// How many values each rule has taken out or changed, by its name.
    pub fn counts(&self) -> Vec<(String, u64)> {
        self.rules.iter().zip(&self.counts).map(|(rule, count)| (rule.name.clone(), count.load(Relaxed))).collect()
    }

    fn count(&self, rule: usize) {
        self.counts[rule].fetch_add(1, Relaxed);
    }

    /// What stands for a value: the same for the same.
    fn hash(&self, value: &[u8]) -> String {
        let key = self.salt.as_ref().expect("a rule that hashes has a salt");
        let tag = hmac::sign(key, value);
        // 128 bits: no two values of one system meet.
        let hex: String = tag.as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        format!("hash:{hex}")
    }
}

#[cfg(test)]
mod tests;
