//! Which attributes get a column of their own.
//!
//! Decided anew for every batch and block from what it holds, so that nobody has to configure it.
//! Columns differ between blocks; a value never does: what has no column is in its scope's key/value list.

use std::collections::{BTreeMap, HashMap};

use model::{AttributeScope, AttributeType};

use crate::schema;

/// One possible attribute column: the values of one type of one key of one scope.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AttributeColumn {
    pub scope: AttributeScope,
    pub key: String,
    pub kind: AttributeType,
}

impl AttributeColumn {
    /// The column's name in batches and blocks.
    pub fn name(&self) -> String {
        schema::attribute_column(self.scope, &self.key, self.kind)
    }

    /// The attribute behind a column name. `None` for fixed columns.
    pub fn parse(name: &str) -> Option<Self> {
        let (scope, rest) = [AttributeScope::Resource, AttributeScope::Span, AttributeScope::Instrumentation]
            .into_iter()
            .find_map(|scope| Some((scope, name.strip_prefix(scope.as_str())?.strip_prefix('.')?)))?;
        let (key, kind) = match rest.rsplit_once(':') {
            None => (rest, AttributeType::String),
            Some((key, kind)) => (key, AttributeType::ALL.into_iter().find(|t| t.as_str() == kind)?),
        };
        Some(Self { scope, key: key.to_owned(), kind })
    }
}

/// When an attribute gets a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromotionPolicy {
    /// On fewer rows than this a column costs more in the footer than it saves.
    pub rows_min: u64,
    /// An attribute must be on one row in this many.
    pub rows_per_value_max: u64,
    /// The most attribute columns of a batch or block; the most frequent win.
    pub columns_max: usize,
}

impl Default for PromotionPolicy {
    fn default() -> Self {
        Self { rows_min: 8, rows_per_value_max: 256, columns_max: 256 }
    }
}

impl PromotionPolicy {
    /// Chooses columns for `rows` rows, given on how many of them each candidate is set.
    ///
    /// Delta compares column names without case: of names that differ only in case the most frequent
    /// gets the column. The answer is sorted by column name and does not depend on the order of `counts`.
    pub fn decide(&self, rows: u64, counts: impl IntoIterator<Item = (AttributeColumn, u64)>) -> Promotion {
        let least = self.rows_min.max(rows / self.rows_per_value_max.max(1));
        let mut candidates: Vec<(String, AttributeColumn, u64)> = counts
            .into_iter()
            .filter(|(column, count)| {
                *count >= least && schema::kv_column(column.scope).is_some() && schema::promotable(&column.key)
            })
            .map(|(column, count)| (column.name(), column, count))
            .collect();
        candidates.sort_by(|a, b| b.2.cmp(&a.2).then_with(|| a.0.cmp(&b.0)));
        let mut taken: HashMap<String, ()> = HashMap::new();
        candidates.retain(|(name, _, _)| taken.insert(name.to_lowercase(), ()).is_none());
        candidates.truncate(self.columns_max);
        Promotion::new(candidates.into_iter().map(|(_, column, _)| column))
    }
}

/// The attribute columns of a batch or block, by column name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Promotion {
    columns: BTreeMap<String, AttributeColumn>,
}

impl Promotion {
    pub fn new(columns: impl IntoIterator<Item = AttributeColumn>) -> Self {
        Self { columns: columns.into_iter().map(|column| (column.name(), column)).collect() }
    }

    /// In column order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &AttributeColumn)> {
        self.columns.iter().map(|(name, column)| (name.as_str(), column))
    }

    pub fn len(&self) -> usize {
        self.columns.len()
    }

    pub fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(key: &str, kind: AttributeType) -> AttributeColumn {
        AttributeColumn { scope: AttributeScope::Span, key: key.into(), kind }
    }

    #[test]
    fn column_names_read_back() {
        for scope in [AttributeScope::Resource, AttributeScope::Span, AttributeScope::Instrumentation] {
            for kind in AttributeType::ALL {
                let column = AttributeColumn { scope, key: "http.request.header.x-y".into(), kind };
                assert_eq!(AttributeColumn::parse(&column.name()), Some(column));
            }
        }
        for field in schema::FIXED_FIELDS.iter() {
            assert_eq!(AttributeColumn::parse(field.name()), None);
        }
        assert_eq!(AttributeColumn::parse("span.a:uuid"), None);
    }

    #[test]
    fn frequent_enough_attributes_are_chosen() {
        let policy = PromotionPolicy { columns_max: 2, ..Default::default() };
        let chosen = |rows, counts: &[(&str, AttributeType, u64)]| {
            let counts = counts.iter().map(|(key, kind, count)| (column(key, *kind), *count));
            policy.decide(rows, counts).iter().map(|(name, _)| name.to_owned()).collect::<Vec<_>>()
        };
        use AttributeType::{Long, String};
        assert_eq!(chosen(10, &[("a", String, 8), ("b", String, 7)]), ["span.a"]);
        assert_eq!(chosen(25_600, &[("a", String, 99), ("b", Long, 100)]), ["span.b:long"]);
        assert_eq!(chosen(10, &[("a", String, 8), ("c", String, 9), ("b", String, 8)]), ["span.a", "span.c"]);
        assert_eq!(chosen(10, &[("user.ID", String, 9), ("user.id", String, 10)]), ["span.user.id"]);
        assert_eq!(chosen(10, &[("with space", String, 10), ("a:long", String, 10), ("", String, 10)]), [""; 0]);
    }
}
