//! How a job goes on after processes ended while they did it.
//!
//! Nobody can tell whether a process died of a block or was killed from outside. So one that ended condemns nothing: after
//! two, the blocks that were merged are merged in pairs, which are quick and need little memory; only a pair whose own
//! merge was cut off twice as well is set aside. What was cut off is known from claims that were never released, so it is
//! known to every process, for about a day.

use std::collections::HashSet;

/// Merges that were cut off, before it is done another way.
const CUT_OFF_MAX: usize = 2;

/// What to do with a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// All inputs at once.
    Whole,
    /// The first two only.
    Pair,
    /// Nothing: the first two are set aside.
    Aside,
}

/// The work of a claim: the ids of the blocks to merge.
pub fn work<'a>(ids: impl Iterator<Item = &'a String>) -> String {
    ids.map(String::as_str).collect::<Vec<_>>().join(" ")
}

/// `ids` of the inputs, at least two; `cut_off`: the works of claims that were never released.
pub fn way(ids: &[String], cut_off: &[String]) -> Way {
    let pair = work(ids.iter().take(2));
    if cut_off.iter().filter(|work| **work == pair).count() >= CUT_OFF_MAX {
        return Way::Aside;
    }
    let ours: HashSet<&str> = ids.iter().map(String::as_str).collect();
    let met = cut_off.iter().filter(|work| work.split(' ').any(|id| ours.contains(id)));
    if met.count() >= CUT_OFF_MAX { Way::Pair } else { Way::Whole }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(names: &str) -> Vec<String> {
        names.split(' ').map(str::to_owned).collect()
    }

    fn cut_off(works: &[&str]) -> Vec<String> {
        works.iter().map(|work| (*work).to_owned()).collect()
    }

    #[test]
    fn one_end_means_nothing_and_two_mean_pairs() {
        assert_eq!(way(&ids("a b c d"), &[]), Way::Whole);
        assert_eq!(way(&ids("a b c d"), &cut_off(&["a b c d", "retention", "x y", "x y"])), Way::Whole);
        let twice = cut_off(&["a b c d", "a b c d"]);
        assert_eq!(way(&ids("a b c d"), &twice), Way::Pair);
        // What two of them became stands for nothing, but the others were there.
        assert_eq!(way(&ids("m c d"), &twice), Way::Pair);
        assert_eq!(way(&ids("m n"), &twice), Way::Whole);
    }

    #[test]
    fn only_a_pair_is_set_aside() {
        let works = cut_off(&["a b c d", "a b c d", "m c", "m c"]);
        assert_eq!(way(&ids("m c d"), &works), Way::Aside);
        assert_eq!(way(&ids("d e f"), &works), Way::Pair);
        assert_eq!(way(&ids("e f"), &works), Way::Whole);
        // A job of two goes the same way: twice as it was, and then no more.
        assert_eq!(way(&ids("a b"), &cut_off(&["a b"])), Way::Whole);
        assert_eq!(way(&ids("a b"), &cut_off(&["a b", "a b"])), Way::Aside);
    }
}
