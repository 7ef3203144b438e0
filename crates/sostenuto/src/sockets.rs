//! Every port, bound before anything else is opened.

use std::{fmt::Display, io, net::SocketAddr};

use tokio::net::{TcpListener, UdpSocket};

use crate::config::{Config, keys};

pub const JAEGER_QUERY_KEY: &str = "server.jaeger_query_endpoint";
pub const JAEGER_QUERY_GRPC_KEY: &str = "server.jaeger_query_grpc_endpoint";
pub const SAMPLING_KEY: &str = "distributor.sampling.endpoint";
pub const GRPC_KEY: &str = "server.grpc_listen_port";
pub const API_KEY: &str = "server.http_listen_port";

pub struct Sockets {
    pub api: TcpListener,
    /// gRPC alone.
    pub grpc: Option<TcpListener>,
    pub jaeger_query: Option<TcpListener>,
    /// ... and its gRPC alone.
    pub jaeger_query_grpc: Option<TcpListener>,
    /// Jaeger's remote sampling.
    pub sampling: Option<TcpListener>,
    pub receivers: ReceiverSockets,
}

/// `None` is off.
pub struct ReceiverSockets {
    pub otlp_grpc: Option<TcpListener>,
    pub otlp_http: Option<TcpListener>,
    pub zipkin: Option<TcpListener>,
    pub jaeger_grpc: Option<TcpListener>,
    pub jaeger_thrift_http: Option<TcpListener>,
    pub jaeger_thrift_compact: Option<UdpSocket>,
    pub jaeger_thrift_binary: Option<UdpSocket>,
}

/// Where they ended up: a port 0 was chosen by the system.
pub struct Addresses {
    pub api: SocketAddr,
    pub grpc: Option<SocketAddr>,
    pub jaeger_query: Option<SocketAddr>,
    pub jaeger_query_grpc: Option<SocketAddr>,
    pub sampling: Option<SocketAddr>,
    pub receivers: ReceiverAddresses,
}

pub struct ReceiverAddresses {
    pub otlp_grpc: Option<SocketAddr>,
    pub otlp_http: Option<SocketAddr>,
    pub zipkin: Option<SocketAddr>,
    pub jaeger_grpc: Option<SocketAddr>,
    pub jaeger_thrift_http: Option<SocketAddr>,
    pub jaeger_thrift_compact: Option<SocketAddr>,
    pub jaeger_thrift_binary: Option<SocketAddr>,
}

impl Sockets {
    pub async fn bind(config: &Config) -> anyhow::Result<Self> {
        let endpoints = config.distributor.receivers.endpoints();
        let endpoint = |key| endpoints.iter().find(|(known, _)| *known == key).and_then(|(_, endpoint)| *endpoint);
        let tcp = async |key| match endpoint(key) {
            Some(endpoint) => bind(endpoint, key).await.map(Some),
            None => Ok(None),
        };
        // A datagram names no tenant, and cannot say who sent it.
        let anonymous = !config.multitenancy_enabled && !config.authenticates();
        let udp = async |key| match endpoint(key).filter(|_| anonymous) {
            Some(endpoint) => UdpSocket::bind(endpoint).await.map(Some).map_err(|error| cannot(endpoint, key, &error)),
            None => Ok(None),
        };
        let receivers = ReceiverSockets {
            otlp_grpc: tcp(keys::OTLP_GRPC).await?,
            otlp_http: tcp(keys::OTLP_HTTP).await?,
            zipkin: tcp(keys::ZIPKIN).await?,
            jaeger_grpc: tcp(keys::JAEGER_GRPC).await?,
            jaeger_thrift_http: tcp(keys::JAEGER_THRIFT_HTTP).await?,
            jaeger_thrift_compact: udp(keys::JAEGER_THRIFT_COMPACT).await?,
            jaeger_thrift_binary: udp(keys::JAEGER_THRIFT_BINARY).await?,
        };
        let named = async |endpoint: Option<String>, key| match endpoint {
            Some(endpoint) => bind(&endpoint, key).await.map(Some),
            None => Ok(None),
        };
        let jaeger_query = named(config.jaeger_query_endpoint(), JAEGER_QUERY_KEY).await?;
        let jaeger_query_grpc = named(config.jaeger_query_grpc_endpoint(), JAEGER_QUERY_GRPC_KEY).await?;
        let sampling = named(config.sampling_endpoint().map(str::to_owned), SAMPLING_KEY).await?;
        let grpc = named(config.grpc_endpoint(), GRPC_KEY).await?;
        let api = bind(&config.api_endpoint(), API_KEY).await?;
        Ok(Self { api, grpc, jaeger_query, jaeger_query_grpc, sampling, receivers })
    }

    pub fn addresses(&self) -> io::Result<Addresses> {
        let tcp = |socket: &Option<TcpListener>| socket.as_ref().map(TcpListener::local_addr).transpose();
        let udp = |socket: &Option<UdpSocket>| socket.as_ref().map(UdpSocket::local_addr).transpose();
        let sockets = &self.receivers;
        let receivers = ReceiverAddresses {
            otlp_grpc: tcp(&sockets.otlp_grpc)?,
            otlp_http: tcp(&sockets.otlp_http)?,
            zipkin: tcp(&sockets.zipkin)?,
            jaeger_grpc: tcp(&sockets.jaeger_grpc)?,
            jaeger_thrift_http: tcp(&sockets.jaeger_thrift_http)?,
            jaeger_thrift_compact: udp(&sockets.jaeger_thrift_compact)?,
            jaeger_thrift_binary: udp(&sockets.jaeger_thrift_binary)?,
        };
        Ok(Addresses {
            api: self.api.local_addr()?,
            grpc: tcp(&self.grpc)?,
            jaeger_query: tcp(&self.jaeger_query)?,
            jaeger_query_grpc: tcp(&self.jaeger_query_grpc)?,
            sampling: tcp(&self.sampling)?,
            receivers,
        })
    }
}

async fn bind(endpoint: &str, key: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(endpoint).await.map_err(|error| cannot(endpoint, key, &error))
}

fn cannot(endpoint: &str, key: &str, error: &io::Error) -> anyhow::Error {
    let advice: &dyn Display = match error.kind() {
        io::ErrorKind::AddrInUse => &"the port is in use; stop what uses it, or choose another port",
        io::ErrorKind::PermissionDenied => &"not permitted; choose a port above 1023",
        _ => error,
    };
    anyhow::anyhow!("cannot listen on {endpoint} ({key}): {advice}")
}

impl ReceiverAddresses {
    /// Name and place of each port that is open, for people.
    pub fn listed(&self) -> Vec<(&'static str, String)> {
        let jaeger = [
            ("gRPC", self.jaeger_grpc),
            ("thrift", self.jaeger_thrift_http),
            ("UDP compact", self.jaeger_thrift_compact),
            ("UDP binary", self.jaeger_thrift_binary),
        ];
        let jaeger: Vec<String> =
            jaeger.into_iter().filter_map(|(name, address)| Some(format!("{} ({name})", address?))).collect();
        [
            ("OTLP/gRPC", self.otlp_grpc.map(|address| address.to_string())),
            ("OTLP/HTTP", self.otlp_http.map(|address| address.to_string())),
            ("Zipkin", self.zipkin.map(|address| address.to_string())),
            ("Jaeger", (!jaeger.is_empty()).then(|| jaeger.join(", "))),
        ]
        .into_iter()
        .filter_map(|(name, address)| Some((name, address?)))
        .collect()
    }
}
