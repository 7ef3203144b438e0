//! The program's own metrics, in the text format of Prometheus.
//!
//! Components hand in closures that read a number; each scrape calls them. Labels come from fixed sets, so the
//! number of series is bounded.

use crate::process;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text},
    metrics::{
        MetricType,
        counter::ConstCounter,
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
        info::Info,
    },
    registry::Registry,
};
use std::{
    borrow::Cow,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Seconds. From an answer out of memory to the default limit of a query.
const REQUEST_BUCKETS: [f64; 13] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0];

#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    requests: Family<RequestLabels, Histogram, fn() -> Histogram>,
    running: Gauge,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    route: String,
    status_code: u16,
}

/// What was built, for `/metrics` and `/api/status/buildinfo`.
#[derive(Clone, Debug)]
pub struct BuildInfo {
    pub version: String,
    pub revision: String,
    pub branch: String,
    pub built_by: String,
    pub built_at: String,
    /// Version of the compiler.
    pub compiler: String,
}

impl Metrics {
    pub fn new(build: &BuildInfo) -> Self {
        let mut registry = Registry::default();
        let requests = Family::new_with_constructor(request_histogram as fn() -> Histogram);
        registry.register(
            "sostenuto_request_duration_seconds",
            "Time to answer a request of the API; status_code is that of HTTP, for gRPC methods that of gRPC (0 to 16)",
            requests.clone(),
        );
        let running = Gauge::default();
        registry.register("sostenuto_requests_running", "Requests of the API that run now", running.clone());
        let labels = [("version", &build.version), ("revision", &build.revision), ("branch", &build.branch), ("rustc", &build.compiler)];
        let labels: Vec<(String, String)> = labels.into_iter().map(|(k, v)| (k.to_owned(), v.clone())).collect();
        registry.register("sostenuto_build", "What this program was built from", Info::new(labels));
        let metrics = Self { registry: Arc::new(Mutex::new(registry)), requests, running };
        process::register(&metrics);
        metrics
    }

    /// For metrics that a component keeps itself, such as histograms. Names start with `sostenuto_`, and end with
    /// the unit; counters get `_total` added.
    pub fn register(&self, register: impl FnOnce(&mut Registry)) {
        register(&mut self.lock());
    }

    /// A number that goes up and down, read by `read` at each scrape.
    pub fn gauge(&self, name: &'static str, help: &'static str, read: impl Fn() -> f64 + Send + Sync + 'static) {
        self.collect(name, help, Read::Gauge(Box::new(read)));
    }

    /// A number that only grows, read by `read` at each scrape. `_total` is added to the name.
    pub fn counter(&self, name: &'static str, help: &'static str, read: impl Fn() -> f64 + Send + Sync + 'static) {
        self.collect(name, help, Read::Counter(Box::new(read)));
    }

    /// Gauges that differ in one label. `read` gives the label's values, few and from a bounded set.
    pub fn gauges(
        &self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        read: impl Fn() -> Vec<(String, f64)> + Send + Sync + 'static,
    ) {
        self.collect(name, help, Read::Gauges(label, Box::new(read)));
    }

    /// Counters that differ in one label.
    pub fn counters(
        &self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        read: impl Fn() -> Vec<(String, f64)> + Send + Sync + 'static,
    ) {
        self.collect(name, help, Read::Counters(label, Box::new(read)));
    }

    /// Everything, as Prometheus reads it.
    pub fn text(&self) -> String {
        let mut out = String::new();
        text::encode(&mut out, &self.lock()).expect("a string takes all that is written");
        out
    }

    pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    pub(crate) fn observe(&self, method: &'static str, route: String, status_code: u16, took: Duration) {
        self.requests.get_or_create(&RequestLabels { method, route, status_code }).observe(took.as_secs_f64());
    }

    pub(crate) fn running(&self) -> &Gauge {
        &self.running
    }

    fn collect(&self, name: &'static str, help: &'static str, read: Read) {
        self.lock().register_collector(Box::new(Reader { name, help, read }));
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        // A reader that panicked half way has changed nothing in the registry.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn request_histogram() -> Histogram {
    Histogram::new(REQUEST_BUCKETS)
}

type ReadOne = Box<dyn Fn() -> f64 + Send + Sync>;
type ReadMany = Box<dyn Fn() -> Vec<(String, f64)> + Send + Sync>;

enum Read {
    Gauge(ReadOne),
    Counter(ReadOne),
    Gauges(&'static str, ReadMany),
    Counters(&'static str, ReadMany),
}

struct Reader {
    name: &'static str,
    help: &'static str,
    read: Read,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reader({})", self.name)
    }
}

impl Collector for Reader {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let kind = match self.read {
            Read::Gauge(_) | Read::Gauges(..) => MetricType::Gauge,
            Read::Counter(_) | Read::Counters(..) => MetricType::Counter,
        };
        let mut metric = encoder.encode_descriptor(self.name, self.help, None, kind)?;
        match &self.read {
            Read::Gauge(read) => ConstGauge::new(read()).encode(metric),
            Read::Counter(read) => ConstCounter::new(read()).encode(metric),
            Read::Gauges(label, read) => {
                for (value, number) in read() {
                    ConstGauge::new(number).encode(metric.encode_family(&[(*label, escaped(&value).as_ref())])?)?;
                }
                Ok(())
            }
            Read::Counters(label, read) => {
                for (value, number) in read() {
                    ConstCounter::new(number).encode(metric.encode_family(&[(*label, escaped(&value).as_ref())])?)?;
                }
                Ok(())
            }
        }
    }
}

/// Label values are written as they are; a quote in one would break the whole page.
fn escaped(value: &str) -> Cow<'_, str> {
    if !value.contains(['\\', '"', '\n']) {
        return value.into();
    }
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build() -> BuildInfo {
        let word = |s: &str| s.to_owned();
        BuildInfo {
            version: word("1.2.3"),
            revision: word("abc"),
            branch: word("main"),
            built_by: word("me"),
            built_at: word("today"),
            compiler: word("1.95"),
        }
    }

    #[test]
    fn closures_are_read_at_each_scrape() {
        let metrics = Metrics::new(&build());
        metrics.gauge("sostenuto_live_bytes", "Bytes", || 5.0);
        metrics.counter("sostenuto_spans_received", "Spans", || 7.0);
        metrics.counters("sostenuto_spans_discarded", "Spans", "reason", || {
            vec![("too_large".to_owned(), 1.0), ("quo\"te".to_owned(), 2.0)]
        });
        metrics.observe("GET", "/api/search".to_owned(), 200, Duration::from_millis(7));
        let text = metrics.text();
        for line in [
            "# TYPE sostenuto_live_bytes gauge",
            "sostenuto_live_bytes 5.0",
            "sostenuto_spans_received_total 7.0",
            "sostenuto_spans_discarded_total{reason=\"too_large\"} 1.0",
            "sostenuto_spans_discarded_total{reason=\"quo\\\"te\"} 2.0",
            "sostenuto_request_duration_seconds_bucket{le=\"0.01\",method=\"GET\",route=\"/api/search\",status_code=\"200\"} 1",
            "sostenuto_build_info{version=\"1.2.3\",revision=\"abc\",branch=\"main\",rustc=\"1.95\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
