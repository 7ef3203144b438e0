//! Whole traces out of spans, in the order they came.

use std::collections::{BTreeMap, HashSet};

use traceql::ast::{Kind, Status};

use super::of_key;
use super::value::Value;
use crate::data::Row;

pub struct Trace<'a> {
    pub id: [u8; 16],
    /// As received; each span once.
    pub nodes: Vec<Node<'a>>,
    pub start: i64,
    pub duration: i64,
    /// Of the spans without a parent id the last received.
    pub root: Option<usize>,
}

pub struct Node<'a> {
    pub row: &'a Row,
    pub start: i64,
    /// Never negative.
    pub duration: i64,
    pub status: Status,
    pub kind: Kind,
    pub parent_id: Option<[u8; 8]>,
    pub place: Place,
    /// Zero where the place is unknown.
    pub left: i64,
    pub right: i64,
    pub children: i64,
}

/// Where a span stands in its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Its parent is not there, or leads to no root, or it is not clear who is who.
    Unknown,
    Root,
    Child(usize),
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub fn short_hex(bytes: &[u8]) -> String {
    hex(bytes).trim_start_matches('0').to_owned()
}

/// All traces, by id.
pub fn traces(rows: &[Row]) -> Vec<Trace<'_>> {
    let mut by_id: BTreeMap<[u8; 16], Vec<Node<'_>>> = BTreeMap::new();
    let mut seen = HashSet::new();
    for row in rows {
        let node = Node::of(row);
        let id: [u8; 16] = row.span.trace_id.as_slice().try_into().expect("generated with 16 bytes");
        if seen.insert((id, &row.span.span_id, node.kind as u8, node.start)) {
            by_id.entry(id).or_default().push(node);
        }
    }
    by_id.into_iter().map(|(id, nodes)| Trace::of(id, nodes)).collect()
}

impl<'a> Node<'a> {
    fn of(row: &'a Row) -> Self {
        let span = &row.span;
        let length = span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano);
        Node {
            row,
            start: span.start_time_unix_nano as i64,
            duration: i64::try_from(length).unwrap_or(i64::MAX),
            status: match span.status.as_ref().map_or(0, |s| s.code) {
                1 => Status::Ok,
                2 => Status::Error,
                _ => Status::Unset,
            },
            kind: Kind::ALL.get(span.kind as usize).copied().unwrap_or(Kind::Unspecified),
            parent_id: span.parent_span_id.as_slice().try_into().ok().filter(|id| *id != [0; 8]),
            place: Place::Unknown,
            left: 0,
            right: 0,
            children: 0,
        }
    }
}

impl<'a> Trace<'a> {
    fn of(id: [u8; 16], nodes: Vec<Node<'a>>) -> Self {
        let start = nodes.iter().map(|node| node.start).min().expect("a trace has a span");
        let end = nodes.iter().map(|node| node.start.saturating_add(node.duration)).max().expect("a trace has a span");
        let root = nodes.iter().rposition(|node| node.parent_id.is_none());
        let mut trace = Trace { id, nodes, start, duration: end.saturating_sub(start), root };
        trace.find_places();
        trace
    }

    pub fn service(&self, span: usize) -> String {
        of_key(&self.nodes[span].row.resource.attributes, "service.name")
            .into_iter()
            .find_map(|name| if let Value::String(name) = name { Some(name) } else { None })
            .unwrap_or_default()
    }

    pub fn nested_parent(&self, node: &Node<'_>) -> i64 {
        match node.place {
            Place::Unknown => 0,
            Place::Root => -1,
            Place::Child(parent) => self.nodes[parent].left,
        }
    }

    fn with_id(&self, id: &[u8]) -> Vec<usize> {
        (0..self.nodes.len()).filter(|at| self.nodes[*at].row.span.span_id == id).collect()
    }

    /// The parent by id: of two sides of a call, the server's.
    fn parents(&self) -> Option<Vec<Place>> {
        (0..self.nodes.len())
            .map(|at| {
                let node = &self.nodes[at];
                let same = self.with_id(&node.row.span.span_id);
                if same.len() > 1 {
                    let other = *same.iter().find(|other| **other != at)?;
                    let kinds = (same.len(), node.kind, self.nodes[other].kind);
                    if !matches!(kinds, (2, Kind::Server, Kind::Client) | (2, Kind::Client, Kind::Server)) {
                        return None;
                    }
                }
                let Some(id) = node.parent_id else { return Some(Place::Root) };
                let named = self.with_id(&id);
                let server = named.iter().find(|n| named.len() == 1 || self.nodes[**n].kind == Kind::Server);
                Some(server.map_or(Place::Unknown, |parent| Place::Child(*parent)))
            })
            .collect()
    }

    fn find_places(&mut self) {
        let count = self.nodes.len();
        let Some(parents) = self.parents() else {
            // Not clear who is who: each span that could be meant counts.
            for at in 0..count {
                let id = self.nodes[at].row.span.span_id.clone();
                let children = self.nodes.iter().filter(|n| n.parent_id.is_some_and(|p| p == id.as_slice())).count();
                self.nodes[at].children = children as i64;
            }
            return;
        };
        for at in 0..count {
            self.nodes[at].children = parents.iter().filter(|p| **p == Place::Child(at)).count() as i64;
        }
        let mut number = 0;
        for root in (0..count).filter(|at| parents[*at] == Place::Root) {
            self.place(root, &parents, &mut number);
        }
    }

    fn place(&mut self, at: usize, parents: &[Place], number: &mut i64) {
        self.nodes[at].place = parents[at];
        *number += 1;
        self.nodes[at].left = *number;
        for child in (0..parents.len()).filter(|child| parents[*child] == Place::Child(at)) {
            self.place(child, parents, number);
        }
        *number += 1;
        self.nodes[at].right = *number;
    }
}
