//! Attribute names and values: what a person picks from when writing a query.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
};

use arrow::array::Array;
use block::schema;
use model::{AttributeScope, AttributeType, TenantId};
use proto::tempopb;
use traceql::ast::{Attribute, AttributeName, FieldExpr, Intrinsic, Scope, SpanOfName};

use crate::{
    engine::{Answer, Engine},
    layout::{Layout, Place},
    matching::{Asks, Matching},
    metrics::groups::column_codes,
    reader::{KeyValues, Reader},
    reads::Reads,
    request::{QueryError, TagNamesRequest, TagScope, TagValuesRequest, TimeRange},
    search::asks_whole_trace,
    source::Source,
    traces::TraceRows,
    value::{Value, kind_word, status_word},
};

/// Names or values are collected up to this many bytes; the answer is what was found until then.
const ANSWER_BYTES_MAX: usize = 1_000_000;

const INTRINSICS: [&str; 25] = [
    "duration", "event:name", "event:timeSinceStart", "instrumentation:name", "instrumentation:version", "kind", "link:spanID",
    "link:traceID", "name", "rootName", "rootServiceName", "span:duration", "span:id", "span:kind", "span:name",
    "span:parentID", "span:status", "span:statusMessage", "status", "statusMessage", "trace:duration", "trace:id",
    "trace:rootName", "trace:rootService", "traceDuration",
];

/// About what a value of common length takes in memory.
const VALUE_BYTES: usize = 100;

type Names = BTreeMap<AttributeScope, BTreeSet<String>>;

impl Engine {
    /// Names by scope: resource, span, event, link, instrumentation, then intrinsics. Scopes without names are left out.
    pub fn tag_names<'a>(&'a self, tenants: &'a [TenantId], request: TagNamesRequest) -> Answer<'a, tempopb::SearchTagsV2Response> {
        Box::pin(self.names(tenants, request))
    }

    async fn names(&self, tenants: &[TenantId], request: TagNamesRequest) -> Result<tempopb::SearchTagsV2Response, QueryError> {
        let reads = self.reads();
        let names = self.despite_broken_blocks(&reads, || self.all_names(tenants, &request, &reads)).await?;
        let limit = if request.limit == 0 { usize::MAX } else { request.limit };
        let mut bytes = 0;
        let mut scopes = vec![];
        for (scope, found) in names {
            let within = |name: &String| {
                bytes += name.len();
                bytes <= ANSWER_BYTES_MAX
            };
            let tags: Vec<String> = found.into_iter().take(limit).take_while(within).collect();
            if !tags.is_empty() {
                scopes.push(tempopb::SearchTagsV2Scope { name: scope.as_str().into(), tags });
            }
        }
        if matches!(request.scope, TagScope::All | TagScope::Intrinsic) {
            let tags = INTRINSICS.iter().map(|name| (*name).to_owned()).collect();
            scopes.push(tempopb::SearchTagsV2Scope { name: "intrinsic".into(), tags });
        }
        Ok(tempopb::SearchTagsV2Response { scopes, metrics: Some(metrics(&reads)) })
    }

    async fn all_names(&self, tenants: &[TenantId], request: &TagNamesRequest, reads: &Arc<Reads>) -> Result<Names, QueryError> {
        let filter = traceql::lenient_filter(&request.query);
        let mut names = Names::new();
        if request.scope != TagScope::Intrinsic {
            for tenant in tenants {
                for (scope, found) in self.names_of(tenant, request, filter.as_ref(), reads).await? {
                    names.entry(scope).or_default().extend(found);
                }
            }
        }
        Ok(names)
    }

    async fn names_of(
        &self,
        tenant: &TenantId,
        request: &TagNamesRequest,
        filter: Option<&FieldExpr>,
        reads: &Arc<Reads>,
    ) -> Result<Names, QueryError> {
        let wanted = move |scope: AttributeScope| match request.scope {
            TagScope::All => true,
            TagScope::Only(only) => only == scope,
            TagScope::Intrinsic => false,
        };
        let sources = self.sources(tenant, reads).await?;
        let mut names = Names::new();
        let Some(filter) = filter else {
            for source in sources.all.iter().filter(|s| s.overlaps(request.range)) {
                for (scope, key, entry) in source.layout().catalogue.iter() {
                    if wanted(scope) && entry.count() > 0 {
                        names.entry(scope).or_default().insert(key.to_owned());
                    }
                }
            }
            return Ok(names);
        };
        let matching = Matching {
            condition: Some(filter),
            started: request.range,
            sources: request.range,
            left_out: &BTreeSet::new(),
            columns: &|_| Ok(None),
            asks: Asks::Span,
        };
        let add = |part: Names| {
            for (scope, found) in part.into_iter().filter(|(scope, _)| wanted(*scope)) {
                names.entry(scope).or_default().extend(found);
            }
            Ok(())
        };
        self.each_match(&sources, &matching, reads, |rows| Ok(names_in(&rows)), add).await?;
        Ok(names)
    }

    /// Values with their types, sorted.
    pub fn tag_values<'a>(&'a self, tenants: &'a [TenantId], request: TagValuesRequest) -> Answer<'a, tempopb::SearchTagValuesV2Response> {
        Box::pin(self.typed_values(tenants, request))
    }

    async fn typed_values(&self, tenants: &[TenantId], request: TagValuesRequest) -> Result<tempopb::SearchTagValuesV2Response, QueryError> {
        let name = traceql::parse_attribute(&request.name).map_err(|e| {
            QueryError::invalid(format!("please provide a valid tagName: {:?} is not a TraceQL name ({e})", request.name))
        })?;
        let reads = self.reads();
        // A parent has the values that any span has.
        let request = if name.of_parent { TagValuesRequest { query: String::new(), ..request } } else { request };
        let names = [Attribute { of_parent: false, ..name }];
        let values = self.despite_broken_blocks(&reads, || self.values_of(tenants, &names, &request, &reads)).await?;
        let tag_values = values.into_iter().map(|(kind, value)| tempopb::TagValue { r#type: kind.into(), value }).collect();
        Ok(tempopb::SearchTagValuesV2Response { tag_values, metrics: Some(metrics(&reads)) })
    }

    /// Values as plain strings, sorted. A name without a scope is looked up in span and resource.
    pub fn tag_values_v1<'a>(&'a self, tenants: &'a [TenantId], request: TagValuesRequest) -> Answer<'a, tempopb::SearchTagValuesResponse> {
        Box::pin(self.plain_values(tenants, request))
    }

    async fn plain_values(&self, tenants: &[TenantId], request: TagValuesRequest) -> Result<tempopb::SearchTagValuesResponse, QueryError> {
        let reads = self.reads();
        let tag_values = match request.name.as_str() {
            "status.code" => ["error", "ok", "unset"].map(String::from).to_vec(),
            _ => {
                let names = old_names(&request.name);
                let values = self.despite_broken_blocks(&reads, || self.values_of(tenants, &names, &request, &reads)).await?;
                values.into_iter().map(|(_, value)| value).collect::<BTreeSet<_>>().into_iter().collect()
            }
        };
        Ok(tempopb::SearchTagValuesResponse { tag_values, metrics: Some(metrics(&reads)) })
    }

    async fn values_of(
        &self,
        tenants: &[TenantId],
        names: &[Attribute],
        request: &TagValuesRequest,
        reads: &Arc<Reads>,
    ) -> Result<BTreeSet<(&'static str, String)>, QueryError> {
        let mut values = BTreeSet::new();
        let limit = if request.limit == 0 { usize::MAX } else { request.limit };
        if let [Attribute { name: AttributeName::Intrinsic(intrinsic), .. }] = names {
            if let Some(known) = known_values(*intrinsic) {
                return Ok(known.into_iter().take(limit).collect());
            }
        }
        let filter = traceql::lenient_filter(&request.query);
        for tenant in tenants {
            let sources = self.sources(tenant, reads).await?;
            let mut left_out = BTreeSet::new();
            if filter.is_none() {
                for source in sources.all.iter().filter(|source| sources.counts_all(source)) {
                    if let Some(listed) = listed(source, names, request.range) {
                        values.extend(listed);
                        left_out.insert(source.id);
                    }
                }
                if left_out.len() == sources.all.len() {
                    continue;
                }
            }
            let columns = |layout: &Layout| {
                let mut columns = BTreeSet::new();
                for name in names {
                    columns.extend(layout.places(name).columns().map(str::to_owned));
                }
                Ok(Some(columns))
            };
            let matching = Matching {
                condition: filter.as_ref(),
                started: request.range,
                sources: request.range,
                left_out: &left_out,
                columns: &columns,
                asks: if names.iter().any(asks_whole_trace) { Asks::Values } else { Asks::Span },
            };
            let names = names.to_vec();
            let add = |part: BTreeSet<_>| {
                values.extend(part);
                reads.fits(values.len().saturating_mul(VALUE_BYTES))
            };
            self.each_match(&sources, &matching, reads, move |rows| Ok(values_in(&rows, &names)), add).await?;
        }
        let mut bytes = 0;
        Ok(values
            .into_iter()
            .take(limit)
            .take_while(|(_, value)| {
                bytes += value.len();
                bytes <= ANSWER_BYTES_MAX
            })
            .collect())
    }
}

fn metrics(reads: &Reads) -> tempopb::MetadataMetrics {
    let (completed_jobs, total_jobs) = reads.jobs();
    let inspected_bytes = reads.bytes.load(Ordering::Relaxed);
    tempopb::MetadataMetrics { inspected_bytes, total_jobs, completed_jobs, ..Default::default() }
}

/// Intrinsics that are answered without reading spans: those with few values, and those with too many to list.
fn known_values(intrinsic: Intrinsic) -> Option<BTreeSet<(&'static str, String)>> {
    use traceql::ast::{Kind, Status};
    let words = |words: &[&str]| words.iter().map(|w| ("keyword", (*w).to_owned())).collect();
    Some(match intrinsic {
        Intrinsic::Status => words(&[Status::Error, Status::Ok, Status::Unset].map(status_word)),
        Intrinsic::Kind => words(
            &[Kind::Unspecified, Kind::Internal, Kind::Server, Kind::Client, Kind::Producer, Kind::Consumer].map(kind_word),
        ),
        Intrinsic::TraceId
        | Intrinsic::SpanId
        | Intrinsic::ParentId
        | Intrinsic::LinkTraceId
        | Intrinsic::LinkSpanId
        | Intrinsic::Parent => BTreeSet::new(),
        _ => return None,
    })
}

/// What a name of the old endpoint refers to.
fn old_names(name: &str) -> Vec<Attribute> {
    let attribute = |name| Attribute { of_parent: false, name, span: SpanOfName::default() };
    let intrinsic = |i| vec![attribute(AttributeName::Intrinsic(i))];
    match name {
        "name" => intrinsic(Intrinsic::Name),
        "root.name" => intrinsic(Intrinsic::RootName),
        "root.service.name" => intrinsic(Intrinsic::RootServiceName),
        key => [Scope::Span, Scope::Resource]
            .map(|scope| attribute(AttributeName::Key { scope: Some(scope), key: key.to_owned() }))
            .to_vec(),
    }
}

/// The attributes that have a value on some row.
fn names_in(rows: &TraceRows) -> Names {
    let mut names = Names::new();
    let records = &rows.records;
    for (scope, key, entry) in rows.layout.catalogue.iter() {
        let column = |kind| records.column_by_name(&schema::attribute_column(scope, key, kind));
        if entry.promoted_types().any(|kind| column(kind).is_some_and(|c| c.null_count() < c.len())) {
            names.entry(scope).or_default().insert(key.to_owned());
        }
    }
    let mut add_list = |scope, lists: Option<KeyValues>, rows: usize| {
        if let Some(lists) = lists {
            for row in 0..rows {
                for key in lists.keys(row) {
                    let names: &mut BTreeSet<String> = names.entry(scope).or_default();
                    if !names.contains(key) {
                        names.insert(key.to_owned());
                    }
                }
            }
        }
    };
    for scope in [AttributeScope::Resource, AttributeScope::Span, AttributeScope::Instrumentation] {
        let lists = schema::kv_column(scope).and_then(|c| records.column_by_name(c)).and_then(KeyValues::new);
        add_list(scope, lists, records.num_rows());
    }
    for (scope, column) in [(AttributeScope::Event, schema::EVENTS), (AttributeScope::Link, schema::LINKS)] {
        use arrow::array::AsArray;
        let Some(list) = records.column_by_name(column).and_then(|c| c.as_list_opt::<i32>()) else { continue };
        // Filtered lists may share more items than they show; only the shown ones count.
        let (first, last) = (list.value_offsets()[0] as usize, list.value_offsets()[list.len()] as usize);
        let items = list.values().slice(first, last - first);
        let attributes = items.as_struct_opt().and_then(|s| s.column_by_name(schema::NESTED_ATTRIBUTES));
        add_list(scope, attributes.and_then(KeyValues::new), items.len());
    }
    names
}

/// The values in a source without reading its rows, where its catalogue lists them all.
fn listed(source: &Source, names: &[Attribute], range: Option<TimeRange>) -> Option<BTreeSet<(&'static str, String)>> {
    if !source.within(range) {
        return None;
    }
    let layout = source.layout();
    let mut values = BTreeSet::new();
    for name in names {
        let places = layout.places(name);
        match places.single() {
            _ if places.first.is_empty() && places.fallback.is_empty() => {}
            Some(Place::Promoted { column, kind: AttributeType::String }) => match layout.catalogue.values(column) {
                Some(list) => values.extend(list.iter().map(|value| ("string", value.clone()))),
                None => return None,
            },
            _ => return None,
        }
    }
    Some(values)
}

fn values_in(rows: &TraceRows, names: &[Attribute]) -> BTreeSet<(&'static str, String)> {
    let mut values = BTreeSet::new();
    let mut bytes = 0;
    for name in names {
        let places = rows.layout.places(name);
        if let Some((codes, known)) = places.single().and_then(|place| column_codes(rows, place)) {
            let mut used = vec![false; known.len()];
            codes.iter().for_each(|code| used[*code as usize] = true);
            for value in known.into_iter().zip(used).filter(|(_, used)| *used).filter_map(|(value, _)| value.0) {
                add_value(value, &mut values, &mut bytes);
            }
            continue;
        }
        let reader = Reader::new(&places, &rows.records);
        for row in 0..rows.records.num_rows() {
            let full = reader.any(row, |value| {
                add_value(value, &mut values, &mut bytes);
                bytes > ANSWER_BYTES_MAX
            });
            if full {
                return values;
            }
        }
    }
    values
}

fn add_value(value: Value, values: &mut BTreeSet<(&'static str, String)>, bytes: &mut usize) {
    let typed = match value {
        Value::Int(v) => ("int", v.to_string()),
        Value::Float(v) => ("float", float_text(v)),
        Value::Bool(v) => ("bool", v.to_string()),
        Value::String(v) => ("string", v),
        // Whole nanoseconds, as they can stand in a query.
        Value::Duration(v) => ("int", v.to_string()),
        Value::Status(v) => ("keyword", status_word(v).to_owned()),
        Value::Kind(v) => ("keyword", kind_word(v).to_owned()),
        Value::Array(elements) => return elements.into_iter().for_each(|v| add_value(v, values, bytes)),
        Value::Opaque => return,
    };
    let size = typed.1.len();
    if values.insert(typed) {
        *bytes += size;
    }
}

/// A float as Tempo lists it: with a point or an exponent, so that it reads as a float again; from a million on, and below a ten
/// thousandth, with an exponent of a sign and at least two digits.
fn float_text(value: f64) -> String {
    let scientific = format!("{value:e}");
    match scientific.split_once('e').map(|(digits, exponent)| (digits, exponent.parse::<i32>())) {
        Some((digits, Ok(exponent))) if !(-4..6).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        _ => format!("{value:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::float_text;

    /// Pairs that a Tempo was seen to answer.
    #[test]
    fn floats_are_listed_as_in_tempo() {
        for (value, text) in [
            (1e5, "100000.0"), (123_456.5, "123456.5"), (1e6, "1e+06"), (1_234_567.5, "1.2345675e+06"), (1e15, "1e+15"),
            (1.5e21, "1.5e+21"), (1e-4, "0.0001"), (1.5e-5, "1.5e-05"), (1e-7, "1e-07"), (-2.5, "-2.5"), (-0.0, "-0.0"),
        ] {
            assert_eq!(float_text(value), text);
        }
    }
}
