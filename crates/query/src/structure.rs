//! Relations between the spans of one trace, by their nested-set numbers.
//!
//! A span's interval `left..right` holds the intervals of all its descendants; `parent` is the left number
//! of its parent, -1 for a root. A span whose place in the tree is unknown has left 0: it stands in no
//! relation to any other.

use traceql::ast::{Relation, StructuralForm};

/// The structure columns of the rows of a batch.
#[derive(Clone, Copy)]
pub struct Tree<'a> {
    pub left: &'a [i32],
    pub right: &'a [i32],
    pub parent: &'a [i32],
}

/// The spans that `left form-relation right` selects. Rows are ascending in and out.
pub fn relate(tree: Tree<'_>, relation: Relation, form: StructuralForm, left: &[u32], right: &[u32]) -> Vec<u32> {
    match form {
        StructuralForm::Plain => related(tree, relation, left, right, true),
        StructuralForm::Negated => related(tree, relation, left, right, false),
        StructuralForm::Union => {
            let mut rows = match relation {
                Relation::Descendant => descent(tree, left, right, false),
                Relation::Ancestor => descent(tree, right, left, true),
                Relation::Child => both(tree, relation, Relation::Parent, left, right),
                Relation::Parent => both(tree, relation, Relation::Child, left, right),
                Relation::Sibling => both(tree, relation, relation, left, right),
            };
            rows.sort_unstable();
            rows.dedup();
            rows
        }
    }
}

/// Every row of either side that takes part.
fn both(tree: Tree<'_>, relation: Relation, inverse: Relation, left: &[u32], right: &[u32]) -> Vec<u32> {
    let mut rows = related(tree, relation, left, right, true);
    rows.extend(related(tree, inverse, right, left, true));
    rows
}

/// The union of ancestors and their descendants as Tempo answers it: not all that take part.
///
/// Below each outermost ancestor, those ancestors are in it that hold the last descendant. The descendants below it are in
/// it if it is the first ancestor of the trace, or if a descendant that does not begin before that first one ends before
/// it begins. `unplaced_first` says that an ancestor without a place stands before all others.
fn descent(tree: Tree<'_>, ancestors: &[u32], descendants: &[u32], unplaced_first: bool) -> Vec<u32> {
    let interval = |row: &u32| (tree.left[*row as usize], tree.right[*row as usize], *row);
    let placed = |rows: &[u32]| {
        let mut intervals: Vec<(i32, i32, u32)> = rows.iter().map(interval).filter(|(begin, ..)| *begin > 0).collect();
        intervals.sort_unstable();
        intervals
    };
    let first = ancestors.iter().map(|row| interval(row).0).filter(|begin| unplaced_first || *begin > 0).min();
    let (ancestors, descendants) = (placed(ancestors), placed(descendants));
    let ended = descendants.iter().filter(|(begin, ..)| Some(*begin) >= first).map(|(_, end, _)| *end).min();
    let mut rows = vec![];
    let mut rest = ancestors.as_slice();
    while let [(begin, end, _), ..] = *rest {
        let (below, after) = rest.split_at(rest.partition_point(|(inner, ..)| inner < &end));
        rest = after;
        let from = descendants.partition_point(|(inner, ..)| *inner <= begin);
        let to = descendants.partition_point(|(inner, ..)| *inner < end);
        let held = &descendants[from.min(to)..to];
        let Some((last, ..)) = held.last() else { continue };
        rows.extend(below.iter().filter(|(begin, end, _)| begin < last && last < end).map(|(.., row)| *row));
        if first == Some(begin) || ended.is_some_and(|ended| ended < begin) {
            rows.extend(held.iter().map(|(.., row)| *row));
        }
    }
    rows
}

/// The rows of `right` that stand in `relation` to some row of `left` (`wanted`), or to none (not).
fn related(tree: Tree<'_>, relation: Relation, left: &[u32], right: &[u32], wanted: bool) -> Vec<u32> {
    let known = |row: &&u32| tree.left[**row as usize] > 0;
    let lefts = |rows: &[u32]| -> Vec<i32> {
        let mut numbers: Vec<i32> = rows.iter().filter(known).map(|r| tree.left[*r as usize]).collect();
        numbers.sort_unstable();
        numbers
    };
    let parents = |rows: &[u32]| -> Vec<i32> {
        let mut numbers: Vec<i32> = rows.iter().filter(known).map(|r| tree.parent[*r as usize]).collect();
        numbers.sort_unstable();
        numbers
    };
    let select = |test: &dyn Fn(usize) -> bool| -> Vec<u32> {
        right.iter().copied().filter(|r| (tree.left[*r as usize] > 0 && test(*r as usize)) == wanted).collect()
    };
    match relation {
        Relation::Child => {
            let numbers = lefts(left);
            select(&|r| numbers.binary_search(&tree.parent[r]).is_ok())
        }
        Relation::Parent => {
            let numbers = parents(left);
            select(&|r| numbers.binary_search(&tree.left[r]).is_ok())
        }
        Relation::Descendant => {
            // Intervals of a tree never cross, so the furthest right end among those that begin before a
            // span tells whether any of them holds it.
            let mut intervals: Vec<(i32, i32)> =
                left.iter().filter(known).map(|r| (tree.left[*r as usize], tree.right[*r as usize])).collect();
            intervals.sort_unstable();
            let mut furthest = i32::MIN;
            for (_, end) in &mut intervals {
                furthest = furthest.max(*end);
                *end = furthest;
            }
            select(&|r| {
                let before = intervals.partition_point(|(begin, _)| *begin < tree.left[r]);
                before > 0 && intervals[before - 1].1 > tree.left[r]
            })
        }
        Relation::Ancestor => {
            let numbers = lefts(left);
            select(&|r| {
                let after = numbers.partition_point(|number| *number <= tree.left[r]);
                numbers.get(after).is_some_and(|number| *number < tree.right[r])
            })
        }
        Relation::Sibling => {
            let numbers = parents(left);
            select(&|r| {
                let parent = tree.parent[r];
                let first = numbers.partition_point(|n| *n < parent);
                let others = numbers[first..].iter().take_while(|n| **n == parent).take(2).count();
                // A span on the left is not its own sibling.
                let itself = usize::from(left.binary_search(&(r as u32)).is_ok());
                others > itself
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 0 root(1..10) has 1 (2..7) and 4 (8..9); 1 has 2 (3..4) and 3 (5..6); 5 has no known place.
    const LEFT: &[i32] = &[1, 2, 3, 5, 8, 0];
    const RIGHT: &[i32] = &[10, 7, 4, 6, 9, 0];
    const PARENT: &[i32] = &[-1, 1, 2, 2, 1, 0];

    fn check(relation: Relation, form: StructuralForm, left: &[u32], right: &[u32], expected: &[u32]) {
        let tree = Tree { left: LEFT, right: RIGHT, parent: PARENT };
        assert_eq!(relate(tree, relation, form, left, right), expected, "{relation:?} {form:?}");
    }

    #[test]
    fn each_relation_selects_the_right_side() {
        let all = &[0, 1, 2, 3, 4, 5];
        check(Relation::Child, StructuralForm::Plain, &[0], all, &[1, 4]);
        check(Relation::Descendant, StructuralForm::Plain, &[1], all, &[2, 3]);
        check(Relation::Parent, StructuralForm::Plain, &[2, 4], all, &[0, 1]);
        check(Relation::Ancestor, StructuralForm::Plain, &[3], all, &[0, 1]);
        check(Relation::Sibling, StructuralForm::Plain, &[2, 4], all, &[1, 3]);
        check(Relation::Sibling, StructuralForm::Plain, &[0], &[0], &[]);
    }

    #[test]
    fn negated_forms_keep_spans_without_a_place() {
        check(Relation::Child, StructuralForm::Negated, &[0], &[0, 1, 2, 5], &[0, 2, 5]);
        check(Relation::Descendant, StructuralForm::Negated, &[], &[1, 2], &[1, 2]);
    }

    #[test]
    fn union_forms_return_both_sides() {
        check(Relation::Descendant, StructuralForm::Union, &[0, 4], &[2, 5], &[0, 2]);
        // 1 holds 2, but not the last.
        check(Relation::Descendant, StructuralForm::Union, &[0, 1], &[2, 4], &[0, 2, 4]);
        check(Relation::Descendant, StructuralForm::Union, &[2, 4], &[3], &[]);
        // 5 counts as the first, and nothing ends before 1 begins.
        check(Relation::Ancestor, StructuralForm::Union, &[3], &[1, 5], &[1]);
        check(Relation::Child, StructuralForm::Union, &[1, 4], &[2, 3], &[1, 2, 3]);
    }
}
