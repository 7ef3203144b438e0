//! A client of OTLP/HTTP and of the Tempo API.

use std::{collections::BTreeMap, time::Duration};

use prost::Message;
use proto::otlp::{
    collector::trace::v1::ExportTraceServiceResponse,
    trace::v1::{Span, TracesData},
};
use reqwest::{StatusCode, header, header::{HeaderMap, HeaderValue}};
use serde_json::Value;

use crate::spans::TimeRange;

/// No answer of these tests takes long.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Where tenants are named.
const TENANT: &str = "x-scope-orgid";

#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    http2: reqwest::Client,
    api: String,
    otlp: String,
    grpc: String,
    tenant: Option<String>,
    token: Option<String>,
}

/// How to get to a server whose ports are not open to everybody.
#[derive(Clone, Default)]
pub struct Access {
    /// The authorities that are trusted, PEM. `None` is plain text.
    pub authority: Option<String>,
    /// A client's certificate and key, PEM.
    pub identity: Option<String>,
    /// An API key or a token.
    pub token: Option<String>,
}

impl Access {
    pub fn scheme(&self) -> &'static str {
        if self.authority.is_some() { "https" } else { "http" }
    }

    pub fn builder(&self) -> reqwest::ClientBuilder {
        let mut builder = reqwest::Client::builder().no_proxy().tls_built_in_root_certs(false).timeout(TIMEOUT);
        if let Some(pem) = &self.authority {
            for authority in reqwest::Certificate::from_pem_bundle(pem.as_bytes()).unwrap() {
                builder = builder.add_root_certificate(authority);
            }
        }
        if let Some(pem) = &self.identity {
            builder = builder.identity(reqwest::Identity::from_pem(pem.as_bytes()).unwrap());
        }
        builder
    }
}

/// The answer to a request that may be refused.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Client {
    /// Of the server that listens on these addresses.
    pub fn new(access: &Access, api: &str, otlp: &str, grpc: &str) -> Self {
        let scheme = access.scheme();
        let http2 = access.builder().http2_prior_knowledge().build().unwrap();
        let (api, otlp, grpc) =
            (format!("{scheme}://{api}"), format!("{scheme}://{otlp}/v1/traces"), format!("{scheme}://{grpc}"));
        let (http, token) = (access.builder().build().unwrap(), access.token.clone());
        Self { http, http2, api, otlp, grpc, tenant: None, token }
    }

    /// The same with other credentials.
    pub fn showing(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    /// The same, speaking for a tenant.
    pub fn of(&self, tenant: &str) -> Self {
        Self { tenant: Some(tenant.to_owned()), ..self.clone() }
    }

    /// Names the tenant.
    fn named(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        let request = match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        match &self.tenant {
            // Any bytes: some tests name a tenant as no client should.
            Some(tenant) => request.header(TENANT, HeaderValue::from_bytes(tenant.as_bytes()).unwrap()),
            None => request,
        }
    }

    /// Any body to OTLP/HTTP; `encoding` may be empty.
    pub async fn post(&self, content_type: &str, encoding: &str, body: Vec<u8>) -> Answer {
        let post = self.http.post(&self.otlp).header(header::CONTENT_TYPE, content_type).body(body);
        let post = if encoding.is_empty() { post } else { post.header(header::CONTENT_ENCODING, encoding) };
        let answer = self.named(post).send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Answer { status, headers, body: answer.bytes().await.unwrap().to_vec() }
    }

    /// One OTLP request in protobuf. `Err` says why it was not acknowledged and must be repeated: it was refused for now,
    /// or there was no answer. An answer that a correct server never gives fails the test.
    pub async fn try_push(&self, request: Vec<u8>) -> Result<(), String> {
        let post = self.http.post(&self.otlp).header(header::CONTENT_TYPE, "application/x-protobuf").body(request);
        let answer = async {
            let answer = self.named(post).send().await?;
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

    /// One call of OTLP/gRPC whose message is these bytes, compressed as `encoding` says; it may be empty.
    pub async fn call(&self, encoding: &str, message: &[u8]) -> Answer {
        let mut body = vec![u8::from(!encoding.is_empty())];
        body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        body.extend(message);
        self.call_framed(encoding, body).await
    }

    /// As [`Self::call`], with the prefix of the message, or what stands in its place, in the body.
    pub async fn call_framed(&self, encoding: &str, body: Vec<u8>) -> Answer {
        let url = format!("{}/opentelemetry.proto.collector.trace.v1.TraceService/Export", self.grpc);
        let post = self.http2.post(url).header(header::CONTENT_TYPE, "application/grpc").header(header::TE, "trailers").body(body);
        let post = if encoding.is_empty() { post } else { post.header("grpc-encoding", encoding) };
        let answer = self.named(post).send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Answer { status, headers, body: answer.bytes().await.unwrap().to_vec() }
    }

    /// A push that must pass.
    pub async fn push(&self, request: Vec<u8>) {
        self.try_push(request).await.unwrap();
    }

    /// Status and body; text that is not JSON becomes a string.
    pub async fn get(&self, path: &str, parameters: &[(&str, String)]) -> (u16, Value) {
        let (status, _, body) = self.get_marked(path, parameters).await;
        (status, body)
    }

    /// Status, what the answer says that it lacks, and body.
    pub async fn get_marked(&self, path: &str, parameters: &[(&str, String)]) -> (u16, Option<String>, Value) {
        let get = self.http.get(format!("{}{path}", self.api)).query(parameters);
        let answer = self.named(get).header(header::ACCEPT, "application/json").send().await.unwrap();
        let status = answer.status().as_u16();
        let partial = answer.headers().get("sostenuto-partial").map(|text| text.to_str().unwrap().to_owned());
        let body = answer.text().await.unwrap();
        (status, partial, serde_json::from_str(&body).unwrap_or(Value::String(body)))
    }

    /// Makes blocks of everything live; the server's report.
    pub async fn flush(&self) -> Value {
        let answer = self.named(self.http.post(format!("{}/flush", self.api))).send().await.unwrap();
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
        let answer = self.named(get).header(header::ACCEPT, "application/protobuf").send().await.unwrap();
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
