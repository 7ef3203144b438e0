//! Names and values of attributes, asked of every place and of the naive evaluator.

use std::collections::{BTreeMap, BTreeSet};

use query::{TagNamesRequest, TagScope, TagValuesRequest, TimeRange};
use rand::{Rng, rngs::StdRng};

use crate::{
    agreement::{World, count, each_query, fail, runtime},
    data::{BASE, SECOND},
    naive::{
        Patterns, Trace,
        tags::{self, Wanted},
    },
    places::tenant,
};

#[test]
fn tags_agree() {
    runtime().block_on(each_query(6, count(1_000), |asker| asker.single_filter(), check_tags));
}

async fn check_tags(world: &World, traces: &[Trace<'_>], rng: &mut StdRng, text: &str) -> bool {
    // As it is being typed.
    let query = match rng.random_range(0..4) {
        0 => String::new(),
        1 => text.replacen(" }", " && span.http.method = }", 1),
        _ => text.to_owned(),
    };
    let filter = traceql::lenient_filter(&query);
    let start = BASE as i64 + rng.random_range(-60..600) * SECOND as i64;
    let range = rng.random_bool(0.4).then(|| (start, start + rng.random_range(0..300) * SECOND as i64));
    let wanted = Wanted { filter: filter.as_ref(), range };
    let time_range = range.map(|(start, end)| TimeRange { start, end });
    let (patterns, seen) = (Patterns::default(), format!("{query:?} in {range:?}"));

    let names = tags::names(traces, &wanted, &patterns);
    // Without a filter all names of the blocks in the range are listed.
    if filter.is_some() || range.is_none() {
        for place in &world.places {
            let request = TagNamesRequest { scope: TagScope::All, query: query.clone(), range: time_range, limit: 0 };
            let answer = place.engine.tag_names(&[tenant()], request).await.unwrap_or_else(|e| fail(world, place, &seen, &e.to_string(), None));
            let scopes = answer.scopes.into_iter().filter(|scope| scope.name != "intrinsic");
            let found: BTreeMap<String, BTreeSet<String>> = scopes.map(|scope| (scope.name, scope.tags.into_iter().collect())).collect();
            if found != names {
                fail(world, place, &seen, &format!("names\nexpected {names:?}\n   found {found:?}"), None);
            }
        }
    }
    let name = names_of(traces, rng);
    let attribute = traceql::parse_attribute(&name).expect("a name");
    let values = tags::values(traces, &attribute, &wanted, &patterns);
    let limit = if rng.random_bool(0.2) { 3 } else { 0 };
    let expected: Vec<_> = values.iter().cloned().take(if limit == 0 { usize::MAX } else { limit }).collect();
    for place in &world.places {
        let request = TagValuesRequest { name: name.clone(), query: query.clone(), range: time_range, limit };
        let answer = place.engine.tag_values(&[tenant()], request).await.unwrap_or_else(|e| fail(world, place, &seen, &e.to_string(), None));
        let found: Vec<_> = answer.tag_values.into_iter().map(|value| (value.r#type, value.value)).collect();
        if found != expected {
            fail(world, place, &seen, &format!("values of {name}\nexpected {expected:?}\n   found {found:?}"), None);
        }
    }
    !names.is_empty()
}

/// Of an attribute that some span has, or an intrinsic.
fn names_of(traces: &[Trace<'_>], rng: &mut StdRng) -> String {
    const INTRINSICS: [&str; 16] = [
        "name", "duration", "kind", "status", "statusMessage", "rootName", "rootServiceName", "traceDuration", "event:name",
        "event:timeSinceStart", "instrumentation:name", "instrumentation:version", "span:childCount", "trace:id", "parent.name",
        "nestedSetLeft",
    ];
    if rng.random_bool(0.3) {
        return INTRINSICS[rng.random_range(0..INTRINSICS.len())].to_owned();
    }
    let names = tags::names(traces, &Wanted { filter: None, range: None }, &Patterns::default());
    let all: Vec<(&String, &String)> = names.iter().flat_map(|(scope, keys)| keys.iter().map(move |key| (scope, key))).collect();
    let (scope, key) = all[rng.random_range(0..all.len())];
    let key = format!("\"{}\"", key.replace('\\', "\\\\").replace('"', "\\\""));
    match rng.random_range(0..6) {
        0 if scope == "span" || scope == "resource" => format!(".{key}"),
        1 => format!("parent.{scope}.{key}"),
        _ => format!("{scope}.{key}"),
    }
}
