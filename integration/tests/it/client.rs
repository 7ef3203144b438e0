//! A client of OTLP/HTTP and of the Tempo API.

use std::{collections::BTreeMap, time::Duration};

use prost::Message;
use proto::otlp::{
    collector::trace::v1::ExportTraceServiceResponse,
    trace::v1::{Span, TracesData},
};
use reqwest::{StatusCode, header};
use serde_json::Value;

use crate::spans::TimeRange;

/// No answer of these tests takes long.
const TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    api: String,
    otlp: String,
}

impl Client {
    /// Of the server that listens on these two addresses.
    pub fn new(api: &str, otlp: &str) -> Self {
        let http = reqwest::Client::builder().no_proxy().tls_built_in_root_certs(false).timeout(TIMEOUT).build();
        Self { http: http.unwrap(), api: format!("http://{api}"), otlp: format!("http://{otlp}/v1/traces") }
    }

    /// One OTLP request in protobuf. `Err` says why it was not acknowledged and must be repeated: it was refused for now,
    /// or there was no answer. An answer that a correct server never gives fails the test.
    pub async fn try_push(&self, request: Vec<u8>) -> Result<(), String> {
        let post = self.http.post(&self.otlp).header(header::CONTENT_TYPE, "application/x-protobuf").body(request);
        let answer = async {
            let answer = post.send().await?;
            Ok::<_, reqwest::Error>((answer.status(), answer.bytes().await?))
        };
        match answer.await {
            Ok((StatusCode::OK, body)) => {
                let response = ExportTraceServiceResponse::decode(body).unwrap();
                // Without rejected spans it is a warning: the corpus has an attribute that is cut to the size limit.
                let rejected = response.partial_success.as_ref().is_some_and(|partial| partial.rejected_spans != 0);
                assert!(!rejected, "all spans of the tests are valid: {response:?}");
                Ok(())
            }
            Ok((StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS, body)) => {
                Err(String::from_utf8_lossy(&body).into_owned())
            }
            Ok((status, body)) => panic!("a push was answered with {status}: {}", String::from_utf8_lossy(&body)),
            Err(error) => Err(error.to_string()),
        }
    }

    /// A push that must pass.
    pub async fn push(&self, request: Vec<u8>) {
        self.try_push(request).await.unwrap();
    }

    /// Status and body; text that is not JSON becomes a string.
    pub async fn get(&self, path: &str, parameters: &[(&str, String)]) -> (u16, Value) {
        let get = self.http.get(format!("{}{path}", self.api)).query(parameters);
        let answer = get.header(header::ACCEPT, "application/json").send().await.unwrap();
        let status = answer.status().as_u16();
        let body = answer.text().await.unwrap();
        (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
    }

    /// Makes blocks of everything live; the server's report.
    pub async fn flush(&self) -> Value {
        let answer = self.http.post(format!("{}/flush", self.api)).send().await.unwrap();
        let status = answer.status();
        let body = answer.text().await.unwrap();
        assert_eq!(status, StatusCode::OK, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// How many spans a TraceQL filter finds, by the metrics API.
    pub async fn count(&self, filter: &str, range: TimeRange) -> u64 {
        let query = format!("{filter} | count_over_time()");
        let (start, end) = (range.start_s.to_string(), range.end_s.to_string());
        let (status, body) = self.get("/api/metrics/query", &[("q", query), ("start", start), ("end", end)]).await;
        assert_eq!(status, 200, "{body}");
        let series = body["series"].as_array().map_or(&[] as &[Value], Vec::as_slice);
        series.iter().map(|series| series["value"].as_f64().unwrap_or(0.0) as u64).sum()
    }

    /// The spans of a trace, by protobuf; none if there is no such trace.
    pub async fn trace(&self, id: &[u8]) -> Vec<Span> {
        let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let get = self.http.get(format!("{}/api/traces/{hex}", self.api));
        let answer = get.header(header::ACCEPT, "application/protobuf").send().await.unwrap();
        let status = answer.status();
        let body = answer.bytes().await.unwrap();
        match status {
            StatusCode::OK => {
                let trace = TracesData::decode(body).unwrap();
                let scopes = trace.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
                scopes.flat_map(|scope| scope.spans).collect()
            }
            StatusCode::NOT_FOUND => Vec::new(),
            status => panic!("a trace was answered with {status}: {}", String::from_utf8_lossy(&body)),
        }
    }

    /// How often each span id stands in the trace.
    pub async fn span_ids(&self, trace_id: &[u8]) -> BTreeMap<Vec<u8>, usize> {
        let mut ids = BTreeMap::new();
        for span in self.trace(trace_id).await {
            assert_eq!(span.trace_id, trace_id);
            *ids.entry(span.span_id).or_default() += 1;
        }
        ids
    }

    /// A number of `/metrics` that has no labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let (status, body) = self.get("/metrics", &[]).await;
        assert_eq!(status, 200);
        let text = body.as_str().unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")).trim().parse().unwrap()
    }
}
