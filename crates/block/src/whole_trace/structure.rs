//! Nested-set numbers of one trace: who is below whom.
//!
//! Bounded and iterative: two sorts and linear passes over the spans of the trace, whatever its shape.

use std::mem;

/// Parent id of a span without one. Span ids are never zero.
pub(super) const NO_PARENT: u64 = 0;

const SERVER: i32 = 2;
const CLIENT: i32 = 3;
const ROOT: u32 = u32::MAX;
const ABSENT: u32 = u32::MAX - 1;

/// The spans of one trace, as received.
pub(super) struct Spans<'a> {
    pub ids: &'a [u64],
    pub parents: &'a [u64],
    pub kinds: &'a [i32],
}

/// Where the numbers go: one slot per span, zero before.
pub(super) struct Numbers<'a> {
    pub left: &'a mut [i32],
    pub right: &'a mut [i32],
    pub parent: &'a mut [i32],
    pub child_count: &'a mut [i32],
}

/// Working memory, kept from trace to trace.
#[derive(Default)]
pub(super) struct Numbering {
    /// (span id, row), sorted. Once ids are known to be clear: only the row that children attach to.
    by_id: Vec<(u64, u32)>,
    parent_row: Vec<u32>,
    /// Children of row `r` are `children[begin[r]..begin[r + 1]]`.
    begin: Vec<u32>,
    children: Vec<u32>,
    next: Vec<u32>,
    stack: Vec<u32>,
}

impl Numbering {
    pub fn number(&mut self, spans: &Spans<'_>, out: &mut Numbers<'_>) {
        let count = spans.ids.len();
        if count == 1 && spans.parents[0] != spans.ids[0] {
            if spans.parents[0] == NO_PARENT {
                (out.left[0], out.right[0], out.parent[0]) = (1, 2, -1);
            }
            return;
        }
        self.by_id.clear();
        self.by_id.extend(spans.ids.iter().zip(0u32..).map(|(id, row)| (*id, row)));
        self.by_id.sort_unstable();
        if !self.find_parents(spans) {
            self.count_children_by_id(spans, out);
            return;
        }
        self.list_children(count, out);
        self.walk(count, out);
    }

    /// Fills `parent_row`. False if it is not clear which span an id means.
    fn find_parents(&mut self, spans: &Spans<'_>) -> bool {
        self.parent_row.clear();
        self.parent_row.resize(spans.ids.len(), ABSENT);
        // Zipkin: the two sides of a call may share one id. Both are below the parent they name, and what names
        // the id as its parent is below the server's.
        let mut kept = 0;
        let mut at = 0;
        while at < self.by_id.len() {
            let (id, row) = self.by_id[at];
            let same = self.by_id[at..].iter().take_while(|(other, _)| *other == id).count();
            self.by_id[kept] = match same {
                1 => (id, row),
                2 => {
                    let other = self.by_id[at + 1].1;
                    match (spans.kinds[row as usize], spans.kinds[other as usize]) {
                        (CLIENT, SERVER) => (id, other),
                        (SERVER, CLIENT) => (id, row),
                        _ => return false,
                    }
                }
                _ => return false,
            };
            kept += 1;
            at += same;
        }
        self.by_id.truncate(kept);

        let mut last = (NO_PARENT, ROOT);
        for (parent, slot) in spans.parents.iter().zip(&mut self.parent_row) {
            if *parent != last.0 {
                let found = self.by_id.binary_search_by_key(parent, |(id, _)| *id);
                last = (*parent, found.map_or(ABSENT, |at| self.by_id[at].1));
                if *parent == NO_PARENT {
                    last.1 = ROOT;
                }
            }
            *slot = last.1;
        }
        true
    }

    fn list_children(&mut self, count: usize, out: &mut Numbers<'_>) {
        self.begin.clear();
        self.begin.resize(count + 1, 0);
        for parent in self.parent_row.iter().filter(|row| **row < ABSENT) {
            out.child_count[*parent as usize] += 1;
        }
        let mut total = 0;
        for (begin, children) in self.begin.iter_mut().zip(out.child_count.iter().chain([&0])) {
            *begin = total;
            total += *children as u32;
        }
        self.next.clear();
        self.next.extend_from_slice(&self.begin[..count]);
        self.children.clear();
        self.children.resize(total as usize, 0);
        for (row, parent) in self.parent_row.iter().enumerate().filter(|(_, parent)| **parent < ABSENT) {
            let next = &mut self.next[*parent as usize];
            self.children[*next as usize] = row as u32;
            *next += 1;
        }
        self.next.copy_from_slice(&self.begin[..count]);
    }

    /// Depth first from every root. Spans in a cycle are below no root and keep their zeros.
    fn walk(&mut self, count: usize, out: &mut Numbers<'_>) {
        let mut number = 0;
        let mut step = || {
            number += 1;
            number
        };
        let parents = mem::take(&mut self.parent_row);
        for root in (0..count as u32).filter(|row| parents[*row as usize] == ROOT) {
            out.left[root as usize] = step();
            out.parent[root as usize] = -1;
            self.stack.push(root);
            while let Some(top) = self.stack.last().map(|row| *row as usize) {
                let next = self.next[top];
                if next < self.begin[top + 1] {
                    self.next[top] += 1;
                    let child = self.children[next as usize];
                    out.left[child as usize] = step();
                    out.parent[child as usize] = out.left[top];
                    self.stack.push(child);
                } else {
                    out.right[top] = step();
                    self.stack.pop();
                }
            }
        }
        self.parent_row = parents;
    }

    /// For traces whose structure stays unknown: every span with an id counts the spans that name it as parent.
    fn count_children_by_id(&mut self, spans: &Spans<'_>, out: &mut Numbers<'_>) {
        self.by_id.clear();
        self.by_id.extend(spans.ids.iter().zip(0u32..).map(|(id, row)| (*id, row)));
        self.by_id.sort_unstable();
        self.next.clear();
        self.next.resize(self.by_id.len(), 0);
        for parent in spans.parents.iter().filter(|id| **id != NO_PARENT) {
            let at = self.by_id.partition_point(|(id, _)| id < parent);
            if self.by_id.get(at).is_some_and(|(id, _)| id == parent) {
                self.next[at] += 1;
            }
        }
        let mut first = 0;
        for at in 0..self.by_id.len() {
            if self.by_id[at].0 != self.by_id[first].0 {
                first = at;
            }
            out.child_count[self.by_id[at].1 as usize] = self.next[first] as i32;
        }
    }
}
