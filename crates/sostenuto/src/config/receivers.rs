//! Where spans come in.
//!
//! As in a Collector: without the section every port is open; with it, the receivers and protocols that it names are on.

use serde::{Deserialize, Deserializer, Serialize};

use super::{Kafka, Size, TlsFiles, with_host};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receivers {
    #[serde(default = "Otlp::off", deserialize_with = "named", skip_serializing_if = "Otlp::is_off")]
    pub otlp: Otlp,
    #[serde(default, deserialize_with = "on_when_named", skip_serializing_if = "Option::is_none")]
    pub zipkin: Option<Zipkin>,
    #[serde(default = "Jaeger::off", deserialize_with = "named", skip_serializing_if = "Jaeger::is_off")]
    pub jaeger: Jaeger,
    #[serde(default, deserialize_with = "on_when_named", skip_serializing_if = "Option::is_none")]
    pub kafka: Option<Kafka>,
}

/// Every port; what needs brokers is off.
impl Default for Receivers {
    fn default() -> Self {
        Self { otlp: Otlp::default(), zipkin: Some(Zipkin::default()), jaeger: Jaeger::default(), kafka: None }
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Otlp {
    pub protocols: OtlpProtocols,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OtlpProtocols {
    #[serde(default, deserialize_with = "on_when_named", skip_serializing_if = "Option::is_none")]
    pub grpc: Option<OtlpGrpc>,
    #[serde(default, deserialize_with = "on_when_named", skip_serializing_if = "Option::is_none")]
    pub http: Option<OtlpHttp>,
}

impl Default for OtlpProtocols {
    fn default() -> Self {
        Self { grpc: Some(OtlpGrpc::default()), http: Some(OtlpHttp::default()) }
    }
}

impl Otlp {
    fn off() -> Self {
        Self { protocols: OtlpProtocols { grpc: None, http: None } }
    }

    fn is_off(&self) -> bool {
        self.protocols.grpc.is_none() && self.protocols.http.is_none()
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Jaeger {
    pub protocols: JaegerProtocols,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JaegerProtocols {
    #[serde(default, deserialize_with = "on_when_named", skip_serializing_if = "Option::is_none")]
    pub grpc: Option<JaegerGrpc>,
    #[serde(default, deserialize_with = "on_when_named", skip_serializing_if = "Option::is_none")]
    pub thrift_http: Option<JaegerThriftHttp>,
    #[serde(default, deserialize_with = "on_when_named", skip_serializing_if = "Option::is_none")]
    pub thrift_compact: Option<JaegerThriftCompact>,
    #[serde(default, deserialize_with = "on_when_named", skip_serializing_if = "Option::is_none")]
    pub thrift_binary: Option<JaegerThriftBinary>,
}

impl Default for JaegerProtocols {
    fn default() -> Self {
        Self {
            grpc: Some(JaegerGrpc::default()),
            thrift_http: Some(JaegerThriftHttp::default()),
            thrift_compact: Some(JaegerThriftCompact::default()),
            thrift_binary: Some(JaegerThriftBinary::default()),
        }
    }
}

impl Jaeger {
    fn off() -> Self {
        Self { protocols: JaegerProtocols { grpc: None, thrift_http: None, thrift_compact: None, thrift_binary: None } }
    }

    pub fn is_off(&self) -> bool {
        let JaegerProtocols { grpc, thrift_http, thrift_compact, thrift_binary } = &self.protocols;
        grpc.is_none() && thrift_http.is_none() && thrift_compact.is_none() && thrift_binary.is_none()
    }
}

/// `grpc:` with nothing behind it switches the protocol on with its defaults.
pub(super) fn on_when_named<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<Option<T>, D::Error> {
    named(d).map(Some)
}

fn named<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// Receivers of one kind differ in their default port only.
macro_rules! receiver {
    ($name:ident, $port:literal, { $($(#[$meta:meta])* $field:ident: $type:ty = $default:expr,)* }) => {
        #[derive(Clone, Debug, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            /// `host:port`.
            pub endpoint: String,
            $($(#[$meta])* pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { endpoint: local($port), $($field: $default,)* }
            }
        }
    };
    ($name:ident, $port:literal, grpc) => {
        receiver!($name, $port, {
            /// The largest request after decompression.
            max_recv_msg_size_mib: u64 = request_bytes_max() >> 20,
            /// Instead of `server.tls`.
            #[serde(skip_serializing_if = "Option::is_none")]
            tls: Option<TlsFiles> = None,
        });
    };
    ($name:ident, $port:literal, http) => {
        receiver!($name, $port, {
            /// The largest request body after decompression.
            max_request_body_size: Size = Size(request_bytes_max()),
            /// Instead of `server.tls`.
            #[serde(skip_serializing_if = "Option::is_none")]
            tls: Option<TlsFiles> = None,
        });
    };
}

receiver!(OtlpGrpc, 4317, grpc);
receiver!(OtlpHttp, 4318, http);
receiver!(Zipkin, 9411, http);
receiver!(JaegerGrpc, 14250, grpc);
receiver!(JaegerThriftHttp, 14268, http);
receiver!(JaegerThriftCompact, 6831, {});
receiver!(JaegerThriftBinary, 6832, {});

fn request_bytes_max() -> u64 {
    ::receivers::Config::default().request_bytes_max as u64
}

fn local(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// An endpoint and its key.
pub type Endpoint<'r> = (&'static str, Option<&'r String>);

impl Receivers {
    /// Every endpoint there can be; `None` is off.
    pub fn endpoints(&self) -> [Endpoint<'_>; 7] {
        let (otlp, jaeger) = (&self.otlp.protocols, &self.jaeger.protocols);
        [
            (keys::OTLP_GRPC, otlp.grpc.as_ref().map(|r| &r.endpoint)),
            (keys::OTLP_HTTP, otlp.http.as_ref().map(|r| &r.endpoint)),
            (keys::ZIPKIN, self.zipkin.as_ref().map(|r| &r.endpoint)),
            (keys::JAEGER_GRPC, jaeger.grpc.as_ref().map(|r| &r.endpoint)),
            (keys::JAEGER_THRIFT_HTTP, jaeger.thrift_http.as_ref().map(|r| &r.endpoint)),
            (keys::JAEGER_THRIFT_COMPACT, jaeger.thrift_compact.as_ref().map(|r| &r.endpoint)),
            (keys::JAEGER_THRIFT_BINARY, jaeger.thrift_binary.as_ref().map(|r| &r.endpoint)),
        ]
    }

    /// TLS of the port with this key, if it has its own.
    pub fn tls(&self, key: &str) -> Option<&TlsFiles> {
        let (otlp, jaeger) = (&self.otlp.protocols, &self.jaeger.protocols);
        match key {
            keys::OTLP_GRPC => otlp.grpc.as_ref()?.tls.as_ref(),
            keys::OTLP_HTTP => otlp.http.as_ref()?.tls.as_ref(),
            keys::ZIPKIN => self.zipkin.as_ref()?.tls.as_ref(),
            keys::JAEGER_GRPC => jaeger.grpc.as_ref()?.tls.as_ref(),
            keys::JAEGER_THRIFT_HTTP => jaeger.thrift_http.as_ref()?.tls.as_ref(),
            _ => None,
        }
    }

    /// Makes every receiver listen on `host`, keeping its port.
    pub fn listen_on(&mut self, host: &str) {
        let (otlp, jaeger) = (&mut self.otlp.protocols, &mut self.jaeger.protocols);
        let endpoints = [
            otlp.grpc.as_mut().map(|r| &mut r.endpoint),
            otlp.http.as_mut().map(|r| &mut r.endpoint),
            self.zipkin.as_mut().map(|r| &mut r.endpoint),
            jaeger.grpc.as_mut().map(|r| &mut r.endpoint),
            jaeger.thrift_http.as_mut().map(|r| &mut r.endpoint),
            jaeger.thrift_compact.as_mut().map(|r| &mut r.endpoint),
            jaeger.thrift_binary.as_mut().map(|r| &mut r.endpoint),
        ];
        for endpoint in endpoints.into_iter().flatten() {
            *endpoint = with_host(host, endpoint);
        }
    }
}

/// Where the endpoints stand in the file.
pub mod keys {
    pub const OTLP_GRPC: &str = "distributor.receivers.otlp.protocols.grpc.endpoint";
    pub const OTLP_HTTP: &str = "distributor.receivers.otlp.protocols.http.endpoint";
    pub const ZIPKIN: &str = "distributor.receivers.zipkin.endpoint";
    pub const JAEGER_GRPC: &str = "distributor.receivers.jaeger.protocols.grpc.endpoint";
    pub const JAEGER_THRIFT_HTTP: &str = "distributor.receivers.jaeger.protocols.thrift_http.endpoint";
    pub const JAEGER_THRIFT_COMPACT: &str = "distributor.receivers.jaeger.protocols.thrift_compact.endpoint";
    pub const JAEGER_THRIFT_BINARY: &str = "distributor.receivers.jaeger.protocols.thrift_binary.endpoint";

    pub const ALL: [&str; 7] =
        [OTLP_GRPC, OTLP_HTTP, ZIPKIN, JAEGER_GRPC, JAEGER_THRIFT_HTTP, JAEGER_THRIFT_COMPACT, JAEGER_THRIFT_BINARY];
}
