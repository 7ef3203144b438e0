//! Chooses the attribute columns of a merged block before its rows come.
//!
//! The inputs' catalogues say how many rows each of their columns has, and how often a key is in a list, but not with
//! which types. Only where that could make a difference are the lists read.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use block::{
    catalogue::Catalogue,
    merge::attribute_counts,
    promotion::{AttributeColumn, Promotion, PromotionPolicy},
    schema,
};
use model::{AttributeScope, AttributeType};
use storage::OpenBlock;

use crate::{error::JobError, read::each_batch};

type Key = (AttributeScope, String);

pub async fn promotion(inputs: &[Arc<OpenBlock>], policy: &PromotionPolicy) -> Result<Promotion, JobError> {
    let rows = inputs.iter().map(|input| input.entry().rows).sum();
    let catalogues: Vec<&Catalogue> = inputs.iter().map(|input| &*input.sidecar().catalogue).collect();
    let doubtful = doubtful(&catalogues, rows, policy);
    let mut counts: HashMap<AttributeColumn, u64> = HashMap::new();
    for input in inputs {
        let catalogue = &input.sidecar().catalogue;
        let listed: BTreeSet<Key> =
            doubtful.iter().filter(|(scope, key)| catalogue.get(*scope, key).is_some_and(|e| e.in_list > 0)).cloned().collect();
        for (scope, key, entry) in catalogue.iter() {
            // Counted below, together with what is in the list.
            if listed.contains(&(scope, key.to_owned())) {
                continue;
            }
            for (code, set) in &entry.promoted {
                if let Some(kind) = AttributeType::ALL.get(usize::from(*code)) {
                    *counts.entry(AttributeColumn { scope, key: key.to_owned(), kind: *kind }).or_default() += set;
                }
            }
        }
        if listed.is_empty() {
            continue;
        }
        let columns = |name: &str| match AttributeColumn::parse(name) {
            Some(column) => listed.contains(&(column.scope, column.key)),
            None => listed.iter().any(|(scope, _)| schema::kv_column(*scope) == Some(name)),
        };
        let found = each_batch(input, &columns, HashMap::new(), |counts: &mut HashMap<AttributeColumn, u64>, batch| {
            for (column, set) in attribute_counts(batch)? {
                *counts.entry(column).or_default() += set;
            }
            Ok(())
        })
        .await?;
        for (column, set) in found {
            if listed.contains(&(column.scope, column.key.clone())) {
                *counts.entry(column).or_default() += set;
            }
        }
    }
    Ok(policy.decide(rows, counts))
}

/// Keys that are in a list somewhere, and often enough that they could get a column.
fn doubtful(catalogues: &[&Catalogue], rows: u64, policy: &PromotionPolicy) -> BTreeSet<Key> {
    let mut sums: BTreeMap<(AttributeScope, &str), (u64, u64)> = BTreeMap::new();
    for (scope, key, entry) in catalogues.iter().flat_map(|catalogue| catalogue.iter()) {
        let sum = sums.entry((scope, key)).or_default();
        sum.0 += entry.count();
        sum.1 += entry.in_list;
    }
    let least = policy.rows_min.max(rows / policy.rows_per_value_max.max(1));
    sums.into_iter()
        .filter(|((scope, key), (count, in_list))| {
            *in_list > 0 && *count >= least && schema::kv_column(*scope).is_some() && schema::promotable(key)
        })
        .map(|((scope, key), _)| (scope, key.to_owned()))
        .collect()
}
