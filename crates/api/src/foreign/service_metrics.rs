//! The numbers of Jaeger's monitor page: rates of calls and errors and quantiles of durations, by service or operation.
//!
//! TraceQL counts spans in intervals of `step`; each point sums up the whole intervals that make up the last `ratePer`
//! before it. Points are whole multiples of `step`, none later than `endTs`, so that each has all of its time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::{
    Router,
    extract::{Path, State},
    response::IntoResponse,
    routing::get,
};
use chrono::{DateTime, SecondsFormat};
use http::{HeaderMap, Uri, header};
use model::ErrorKind;
use proto::{otlp::common::v1::any_value, tempopb::TimeSeries};
use query::MetricsRequest;
use serde_json::{Value, json};

use super::{
    conditions,
    jaeger::{Answer, malformed},
};
use crate::{
    Failure,
    query_string::Parameters,
    state::{Call, Shared, now},
};

const MILLISECOND: i64 = 1_000_000;
const LOOKBACK_DEFAULT_MS: i64 = 3_600_000;
const STEP_DEFAULT_MS: i64 = 5_000;
const RATE_PER_DEFAULT_MS: i64 = 600_000;
/// Services of one question.
const SERVICES_MAX: usize = 100;
/// The series of a histogram: the upper bound of durations.
const BUCKET: &str = "__bucket";

pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/api/metrics/{kind}", get(metrics))
}

async fn metrics(State(api): State<Arc<Shared>>, Path(kind): Path<String>, headers: HeaderMap, uri: Uri) -> Answer {
    let call = api.call(&headers, &uri)?;
    let asked = Asked::read(&call.parameters, api.limits().steps_max, now())?;
    let (name, help, series) = match kind.as_str() {
        "calls" => ("call_rate", "calls per second", calls(&api, &call, &asked).await?),
        "errors" => ("error_rate", "the share of calls that failed", errors(&api, &call, &asked).await?),
        "latencies" => {
            let quantile = call.parameters.get("quantile").and_then(|text| text.parse().ok());
            let quantile = quantile.filter(|quantile| (0.0..=1.0).contains(quantile));
            let quantile = quantile.ok_or_else(|| malformed("quantile", "it must be a number from 0 to 1"))?;
            ("latencies", "milliseconds that the quickest calls take, up to the quantile", latencies(&api, &call, &asked, quantile).await?)
        }
        _ => return Err(Failure::new(ErrorKind::NotFound, "no such metric: there are latencies, calls and errors").into()),
    };
    let body = asked.family(name, help, series);
    let text = match call.parameters.get("prettyPrint") {
        Some("true") => format!("{body:#}"),
        _ => body.to_string(),
    };
    Ok((call.account.headers(), [(header::CONTENT_TYPE, "application/json")], text).into_response())
}

/// Times in nanoseconds.
struct Asked {
    services: Vec<String>,
    by_operation: bool,
    kinds: Vec<String>,
    /// The first and the last point.
    first: i64,
    last: i64,
    step: i64,
    /// Steps that a point looks back.
    window: i64,
}

/// Service and operation, the latter only if it was asked for.
type Group = (String, Option<String>);
/// By point in time, milliseconds.
type Points = BTreeMap<i64, f64>;

impl Asked {
    fn read(parameters: &Parameters, steps_max: u64, now: i64) -> Result<Self, Failure> {
        let all = |name| parameters.iter().filter(move |(n, _)| *n == name).map(|(_, value)| value.to_owned());
        let services: Vec<String> = all("service").filter(|service| !service.is_empty()).collect();
        if services.is_empty() || services.len() > SERVICES_MAX {
            return Err(malformed("service", format!("name from 1 to {SERVICES_MAX} services")));
        }
        let by_operation = match parameters.get("groupByOperation") {
            None | Some("false" | "0") => false,
            Some("true" | "1") => true,
            Some(other) => return Err(malformed("groupByOperation", format!("{other:?} is neither true nor false"))),
        };
        let mut kinds: Vec<String> = all("spanKind").collect();
        if kinds.is_empty() {
            kinds.push("server".to_owned());
        }
        if let Some(kind) = kinds.iter().find(|kind| kind.is_empty() || conditions::kind(kind).is_none()) {
            return Err(malformed("spanKind", format!("unsupported span kind: '{kind}'")));
        }
        let millis = |name, default: Option<i64>| {
            let read = |text: &str| match text.parse::<i64>() {
                Ok(ms) if ms > 0 && ms <= i64::MAX / MILLISECOND => Ok(ms * MILLISECOND),
                _ => Err(format!("must be milliseconds, more than 0; found {text:?}")),
            };
            let found = parameters.read(name, read)?;
            Ok::<_, Failure>(found.or(default.map(|ms| ms * MILLISECOND)))
        };
        let end = millis("endTs", None)?.unwrap_or(now);
        let lookback = millis("lookback", Some(LOOKBACK_DEFAULT_MS))?.unwrap_or_default();
        let step = millis("step", Some(STEP_DEFAULT_MS))?.unwrap_or(1);
        let rate_per = millis("ratePer", Some(RATE_PER_DEFAULT_MS))?.unwrap_or_default();
        let window = rate_per.div_euclid(step) + i64::from(rate_per.rem_euclid(step) > 0);
        let last = end - end.rem_euclid(step);
        let start = end.saturating_sub(lookback).max(0);
        // The next multiple at or after the start.
        let first = (start - start.rem_euclid(step)).saturating_add(if start.rem_euclid(step) > 0 { step } else { 0 }).min(last);
        let steps = (last - first) / step;
        if u64::try_from(steps.saturating_add(window)).unwrap_or(u64::MAX) > steps_max {
            return Err(malformed("step", format!("lookback and ratePer have more than {steps_max} steps of this length")));
        }
        Ok(Self { services, by_operation, kinds, first, last, step, window })
    }

    /// Stamps of the points, milliseconds.
    fn points(&self) -> impl Iterator<Item = i64> + '_ {
        (0..=(self.last - self.first) / self.step).map(|point| (self.first + point * self.step) / MILLISECOND)
    }

    fn window_seconds(&self) -> f64 {
        (self.step * self.window) as f64 / 1e9
    }

    /// For each point the sum over its window.
    fn windowed(&self, samples: &Points) -> Points {
        let step_ms = |steps: i64| steps * self.step / MILLISECOND;
        let sum = |point| samples.range(point - step_ms(self.window) + 1..=point).map(|(_, count)| count).sum();
        self.points().map(|point| (point, sum(point))).collect()
    }

    fn family(&self, name: &str, help: &str, series: BTreeMap<Group, Points>) -> Value {
        let (name, by) = match self.by_operation {
            true => (format!("service_operation_{name}"), "service & operation"),
            false => (format!("service_{name}"), "service"),
        };
        let label = |name: &str, value: String| json!({ "name": name, "value": value });
        let point = |(ms, value): (i64, f64)| {
            let time = DateTime::from_timestamp_millis(ms).unwrap_or_default().to_rfc3339_opts(SecondsFormat::AutoSi, true);
            json!({ "gaugeValue": { "doubleValue": value }, "timestamp": time })
        };
        let metrics = series.into_iter().map(|((service, operation), points)| {
            let operation = operation.map(|operation| label("operation", operation));
            let labels: Vec<Value> = operation.into_iter().chain([label("service_name", service)]).collect();
            json!({ "labels": labels, "metricPoints": points.into_iter().map(point).collect::<Vec<_>>() })
        });
        let metrics: Vec<Value> = metrics.collect();
        json!({ "name": name, "type": "GAUGE", "help": format!("{help}, grouped by {by}"), "metrics": metrics })
    }

    /// `function` over the spans that are asked for.
    async fn series(&self, api: &Shared, call: &Call, function: &str, failed: bool) -> Result<Vec<TimeSeries>, Failure> {
        let services = conditions::any(self.services.iter().map(|service| conditions::service(service)));
        let kinds = conditions::any(self.kinds.iter().filter_map(|kind| conditions::kind(kind)));
        let failed = failed.then(conditions::failed);
        let filter = conditions::query(conditions::all(services.into_iter().chain(kinds).chain(failed)));
        let by = if self.by_operation { "resource.service.name, name" } else { "resource.service.name" };
        let request = MetricsRequest {
            query: format!("{filter} | {function} by ({by}) with(exemplars=false)"),
            // One step more than the first window has, so that there are several at any time.
            start: (self.first - (self.window + 1) * self.step).max(0),
            end: self.last,
            step: Some(self.step),
            exemplars: None,
            exemplars_max: 0,
            series_max: None,
        };
        let query = call.account.engine().query_range(&call.tenants, request);
        Ok(api.gate.run(&call.tenants, query).await?.series)
    }

    /// Spans in each window, by group.
    async fn counts(&self, api: &Shared, call: &Call, failed: bool) -> Result<BTreeMap<Group, Points>, Failure> {
        let series = self.series(api, call, "count_over_time()", failed).await?;
        Ok(series.iter().map(|series| (group(series, self.by_operation), self.windowed(&samples(series)))).collect())
    }
}

fn label<'s>(series: &'s TimeSeries, key: &str) -> Option<&'s any_value::Value> {
    series.labels.iter().find(|label| label.key == key)?.value.as_ref()?.value.as_ref()
}

fn group(series: &TimeSeries, by_operation: bool) -> Group {
    let text = |key| match label(series, key) {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        _ => String::new(),
    };
    (text("resource.service.name"), by_operation.then(|| text("name")))
}

fn samples(series: &TimeSeries) -> Points {
    series.samples.iter().map(|sample| (sample.timestamp_ms, sample.value)).collect()
}

async fn calls(api: &Shared, call: &Call, asked: &Asked) -> Result<BTreeMap<Group, Points>, Failure> {
    let mut all = asked.counts(api, call, false).await?;
    all.values_mut().flat_map(|points| points.values_mut()).for_each(|count| *count /= asked.window_seconds());
    Ok(all)
}

/// A point without calls has no share of them.
async fn errors(api: &Shared, call: &Call, asked: &Asked) -> Result<BTreeMap<Group, Points>, Failure> {
    let failed = asked.counts(api, call, true).await?;
    let mut all = asked.counts(api, call, false).await?;
    for (group, points) in &mut all {
        points.retain(|_, calls| *calls > 0.0);
        let failed = failed.get(group);
        for (point, value) in points {
            *value = failed.and_then(|failed| failed.get(point)).copied().unwrap_or(0.0) / *value;
        }
    }
    Ok(all)
}

/// In milliseconds. A point without calls has none.
async fn latencies(api: &Shared, call: &Call, asked: &Asked, quantile: f64) -> Result<BTreeMap<Group, Points>, Failure> {
    let mut histograms: BTreeMap<Group, BTreeMap<u8, Points>> = BTreeMap::new();
    for series in asked.series(api, call, "histogram_over_time(duration)", false).await? {
        let Some(any_value::Value::DoubleValue(seconds)) = label(&series, BUCKET) else { continue };
        // Buckets end at powers of two of nanoseconds.
        let power = (seconds * 1e9).log2().round() as u8;
        histograms.entry(group(&series, asked.by_operation)).or_default().insert(power, asked.windowed(&samples(&series)));
    }
    Ok(histograms.into_iter().map(|(group, buckets)| (group, quantiles(&buckets, quantile))).collect())
}

fn quantiles(buckets: &BTreeMap<u8, Points>, quantile: f64) -> Points {
    let points: BTreeSet<i64> = buckets.values().flat_map(|points| points.keys().copied()).collect();
    let at = |point: i64| {
        let counts = buckets.iter().map(|(power, points)| (*power, points.get(&point).copied().unwrap_or(0.0) as u64));
        let histogram: BTreeMap<u8, u64> = counts.filter(|(_, count)| *count > 0).collect();
        (!histogram.is_empty()).then(|| (point, query::duration_quantile(&histogram, quantile) * 1000.0))
    };
    points.into_iter().filter_map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn asked(parameters: &str) -> Result<Asked, String> {
        Asked::read(&Parameters::parse(Some(parameters)).unwrap(), 10_000, 10_000 * SECOND + 1).map_err(|failure| failure.message)
    }

    #[test]
    fn points_are_multiples_of_the_step_and_look_back_over_whole_steps() {
        let asked = asked("service=a&service=b&endTs=100500&lookback=20000&step=5000&ratePer=12000").unwrap();
        assert_eq!(asked.services, ["a", "b"]);
        assert_eq!(asked.points().collect::<Vec<_>>(), [85_000, 90_000, 95_000, 100_000]);
        assert_eq!((asked.window, asked.window_seconds()), (3, 15.0));
        let samples = [(75_000, 1.0), (80_000, 2.0), (85_000, 4.0), (100_000, 8.0)].into();
        let sums: Vec<f64> = asked.windowed(&samples).into_values().collect();
        assert_eq!(sums, [7.0, 6.0, 4.0, 8.0]);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        for (parameters, named) in [
            ("", "service"),
            ("service=", "service"),
            ("service=a&spanKind=servant", "spanKind"),
            ("service=a&groupByOperation=perhaps", "groupByOperation"),
            ("service=a&step=0", "step"),
            ("service=a&step=1", "step"),
            ("service=a&endTs=soon", "endTs"),
            ("service=a&lookback=-1", "lookback"),
        ] {
            let wrong = asked(parameters).err().unwrap_or_default();
            assert!(wrong.contains(named), "{parameters}: {wrong:?}");
        }
        let asked = asked("service=a").unwrap();
        assert_eq!((asked.window, asked.points().count(), asked.kinds), (120, 720, vec!["server".to_owned()]));
    }

    #[test]
    fn a_quantile_lies_in_the_bucket_of_its_call() {
        let points = |count| Points::from([(0, count), (1, 0.0)]);
        let buckets = BTreeMap::from([(20, points(9.0)), (30, points(1.0))]);
        let median = quantiles(&buckets, 0.5);
        assert_eq!(median.len(), 1, "no point without calls");
        assert!(median[&0] > 0.5 && median[&0] <= 1.048_576, "{median:?}");
        let most = quantiles(&buckets, 1.0)[&0];
        assert!((most - 1_073.741_824).abs() < 1e-6, "{most}");
    }
}
