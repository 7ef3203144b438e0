//! From bound sockets to running receivers.

use api::Api;
use distributor::Distributor;
use futures::FutureExt;
use receivers::{AgentProtocol, DatagramCounts, Protocol};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Config, keys},
    gates::{Gates, delivers, delivers_or_asks},
    sockets::ReceiverSockets,
};

/// The largest datagram there is.
const DATAGRAM_BYTES_MAX: usize = 64 << 10;

/// What came over UDP.
#[derive(Clone, Default)]
pub struct Datagrams {
    pub compact: DatagramCounts,
    pub binary: DatagramCounts,
}

/// Starts every receiver that has a socket.
pub fn start(
    config: &Config,
    gates: &mut Gates,
    sockets: ReceiverSockets,
    api: &Api,
    distributor: &Distributor,
    datagrams: &Datagrams,
    shutdown: &CancellationToken,
    receiving: &mut JoinSet<()>,
) -> anyhow::Result<()> {
    let (receivers, spans) = (&config.distributor.receivers, || distributor.clone());
    let (otlp, jaeger) = (&receivers.otlp.protocols, &receivers.jaeger.protocols);
    let stop = || shutdown.clone();
    if let Some((socket, grpc)) = sockets.otlp_grpc.zip(otlp.grpc.as_ref()) {
        let settings = config.receiver_config(mebibytes(grpc.max_recv_msg_size_mib));
        let port = gates.port(config, keys::OTLP_GRPC, socket, delivers())?;
        receiving.spawn(receivers::serve(port, Protocol::OtlpGrpc, spans(), settings, None, stop()).map(drop));
    }
    if let Some((socket, http)) = sockets.otlp_http.zip(otlp.http.as_ref()) {
        let settings = config.receiver_config(http.max_request_body_size.as_usize());
        let port = gates.port(config, keys::OTLP_HTTP, socket, delivers())?;
        receiving.spawn(receivers::serve(port, Protocol::OtlpHttp, spans(), settings, None, stop()).map(drop));
    }
    // Zipkin's port serves its query API too.
    if let Some((socket, zipkin)) = sockets.zipkin.zip(receivers.zipkin.as_ref()) {
        let settings = config.receiver_config(zipkin.max_request_body_size.as_usize());
        let port = gates.port(config, keys::ZIPKIN, socket, delivers_or_asks())?;
        receiving.spawn(receivers::serve(port, Protocol::Zipkin, spans(), settings, Some(api.zipkin()), stop()).map(drop));
    }
    if let Some((socket, grpc)) = sockets.jaeger_grpc.zip(jaeger.grpc.as_ref()) {
        let settings = config.receiver_config(mebibytes(grpc.max_recv_msg_size_mib));
        let port = gates.port(config, keys::JAEGER_GRPC, socket, api::delivery_needs())?;
        receiving.spawn(receivers::serve(port, Protocol::JaegerGrpc, spans(), settings, Some(api.sampling()), stop()).map(drop));
    }
    if let Some((socket, http)) = sockets.jaeger_thrift_http.zip(jaeger.thrift_http.as_ref()) {
        let settings = config.receiver_config(http.max_request_body_size.as_usize());
        let port = gates.port(config, keys::JAEGER_THRIFT_HTTP, socket, api::delivery_needs())?;
        receiving.spawn(receivers::serve(port, Protocol::JaegerThrift, spans(), settings, Some(api.sampling()), stop()).map(drop));
    }
    for (socket, protocol, counts) in [
        (sockets.jaeger_thrift_compact, AgentProtocol::Compact, &datagrams.compact),
        (sockets.jaeger_thrift_binary, AgentProtocol::Binary, &datagrams.binary),
    ] {
        if let Some(socket) = socket {
            let settings = config.receiver_config(DATAGRAM_BYTES_MAX);
            receiving.spawn(receivers::serve_jaeger_agent(socket, protocol, spans(), settings, counts.clone(), stop()));
        }
    }
    Ok(())
}

fn mebibytes(count: u64) -> usize {
    usize::try_from(count.saturating_mul(1 << 20)).unwrap_or(usize::MAX)
}
