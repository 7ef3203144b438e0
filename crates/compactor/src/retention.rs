//! How long traces are kept: an ordered list of rules, each with a time to keep what it matches.
//!
//! The first rule that matches a trace decides; what none matches is kept for the default time. Without any time nothing is
//! ever deleted. Rules see whole traces. The time counts from the end of the window in which the trace began, or from
//! when the window's newest block was written if that is later: what arrives late is kept as long as what came in time.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use model::{TenantId, TraceId};
use xxhash_rust::xxh3::xxh3_64;

/// Of one tenant. The default keeps everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Retention {
    pub rules: Vec<Rule>,
    /// For traces that no rule matches. `None`: for ever.
    pub keep: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// A TraceQL search. `None` matches every trace.
    pub query: Option<String>,
    /// The share of the matching traces that the rule takes, 0 to 1, chosen by trace id: the same everywhere.
    pub sample: f64,
    /// `None`: for ever.
    pub keep: Option<Duration>,
}

/// Of all tenants.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Retentions {
    pub default: Retention,
    pub tenants: BTreeMap<TenantId, Retention>,
}

impl Retentions {
    pub fn of(&self, tenant: &TenantId) -> &Retention {
        self.tenants.get(tenant).unwrap_or(&self.default)
    }
}

impl Retention {
    /// Whether anything can ever be deleted.
    pub fn is_limited(&self) -> bool {
        self.keep.is_some() || self.rules.iter().any(|rule| rule.keep.is_some())
    }

    /// How many of the times have passed at `age`: between two changes of this number nothing new is to be deleted.
    pub fn passed(&self, age: Duration) -> usize {
        let keeps = self.rules.iter().map(|rule| rule.keep).chain([self.keep]);
        keeps.flatten().filter(|keep| *keep <= age).count()
    }

    /// Whether nothing is kept at `age`, whatever the rules match.
    pub fn all_passed(&self, age: Duration) -> bool {
        self.passed(age) == self.rules.len() + 1
    }

    /// Which rule decides over a trace, by the traces that each rule's query matches. The number of rules: none does.
    pub fn decider(&self, trace: &TraceId, matching: &[Option<HashSet<TraceId>>]) -> usize {
        let decides = |(rule, matching): (&Rule, &Option<HashSet<TraceId>>)| {
            sampled(trace, rule.sample) && matching.as_ref().is_none_or(|matching| matching.contains(trace))
        };
        self.rules.iter().zip(matching).position(decides).unwrap_or(self.rules.len())
    }

    /// How long what `decider` decides over is kept.
    pub fn keep_of(&self, decider: usize) -> Option<Duration> {
        self.rules.get(decider).map_or(self.keep, |rule| rule.keep)
    }
}

/// Whether a trace is in the sample. A larger sample holds all of a smaller one.
fn sampled(trace: &TraceId, share: f64) -> bool {
    // 53 bits: what a double holds exactly.
    ((xxh3_64(&trace.0) >> 11) as f64) < share * (1u64 << 53) as f64
}

/// What was found out about windows: nothing is left to delete there while the blocks and the passed times are the same.
/// Bounded by the windows of the tables.
#[derive(Debug, Default)]
pub(crate) struct Checked(HashMap<(TenantId, String), u64>);

impl Checked {
    pub fn is_done(&self, tenant: &TenantId, window: &str, state: u64) -> bool {
        self.0.get(&(tenant.clone(), window.to_owned())) == Some(&state)
    }

    pub fn done(&mut self, tenant: &TenantId, window: &str, state: u64) {
        self.0.insert((tenant.clone(), window.to_owned()), state);
    }

    /// Forgets windows that the tenant no longer has.
    pub fn retain(&mut self, tenant: &TenantId, windows: &HashSet<&str>) {
        self.0.retain(|(of, window), _| of != tenant || windows.contains(window.as_str()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn rule(query: &str, sample: f64, keep: Option<Duration>) -> Rule {
        Rule { query: Some(query.into()), sample, keep }
    }

    fn trace(number: u128) -> TraceId {
        TraceId(number.to_be_bytes())
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let retention = Retention {
            rules: vec![rule("a", 1.0, Some(90 * DAY)), rule("b", 1.0, None)],
            keep: Some(7 * DAY),
        };
        let sets = [Some(HashSet::from([trace(1), trace(2)])), Some(HashSet::from([trace(2), trace(3)]))];
        let decider = |number| retention.decider(&trace(number), &sets);
        assert_eq!([decider(1), decider(2), decider(3), decider(4)], [0, 0, 1, 2]);
        assert_eq!([0, 1, 2].map(|d| retention.keep_of(d)), [Some(90 * DAY), None, Some(7 * DAY)]);
    }

    #[test]
    fn a_sample_is_a_share_and_the_same_for_everyone() {
        let taken = |share| (0..10_000).filter(|n| sampled(&trace(*n), share)).collect::<HashSet<_>>();
        assert_eq!((taken(0.0).len(), taken(1.0).len()), (0, 10_000));
        let (tenth, half) = (taken(0.1), taken(0.5));
        assert!((900..1100).contains(&tenth.len()), "{}", tenth.len());
        assert!(tenth.is_subset(&half));
    }

    #[test]
    fn without_a_time_nothing_passes() {
        assert!(!Retention::default().is_limited());
        assert!(!Retention::default().all_passed(Duration::MAX));
        let some = Retention { rules: vec![rule("a", 1.0, None)], keep: Some(DAY) };
        assert!(some.is_limited() && !some.all_passed(Duration::MAX));
        assert_eq!([some.passed(Duration::ZERO), some.passed(DAY)], [0, 1]);
        let all = Retention { rules: vec![rule("a", 1.0, Some(2 * DAY))], keep: Some(DAY) };
        assert!(!all.all_passed(DAY) && all.all_passed(2 * DAY));
    }
}
