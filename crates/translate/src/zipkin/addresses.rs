//! Endpoints: a service goes to the resource or to `peer.service`, addresses and ports to attributes of the span.

use std::net::IpAddr;

use proto::otlp::common::v1::{KeyValue, any_value::Value};

use super::Endpoint;
use crate::attributes::{as_text, attribute, text, value};

/// The attributes that stand for one side's address.
pub(super) struct Side {
    ip: &'static str,
    /// The sixth version, where there are both.
    ipv6: &'static str,
    port: &'static str,
}

pub(super) const LOCAL: Side = Side { ip: "net.host.ip", ipv6: "zipkin.local.ipv6", port: "net.host.port" };
pub(super) const REMOTE: Side = Side { ip: "net.peer.ip", ipv6: "zipkin.remote.ipv6", port: "net.peer.port" };

pub(super) const PEER_SERVICE: &str = "peer.service";

/// Where the name of the other side is, best first. All but the first stay tags.
pub const REMOTE_NAMES: [&str; 7] = [
    PEER_SERVICE,
    "server.address",
    "net.peer.name",
    "network.peer.address",
    "messaging.destination.name",
    "db.namespace",
    "db.name",
];

impl Side {
    /// Adds what `endpoint` says and `attributes` do not say yet.
    pub(super) fn describe(&self, endpoint: &Endpoint, attributes: &mut Vec<KeyValue>) {
        let mut add = |new: KeyValue| {
            if attributes.iter().all(|old| old.key != new.key) {
                attributes.push(new);
            }
        };
        match (endpoint.ipv4, endpoint.ipv6) {
            (Some(ipv4), ipv6) => {
                add(text(self.ip, ipv4.to_string()));
                if let Some(ipv6) = ipv6 {
                    add(text(self.ipv6, ipv6.to_string()));
                }
            }
            (None, Some(ipv6)) => add(text(self.ip, ipv6.to_string())),
            (None, None) => {}
        }
        if endpoint.port > 0 {
            add(attribute(self.port, Value::IntValue(endpoint.port.into())));
        }
    }

    /// Reads `attribute` into `endpoint`. False if it is not one of these, or would not come back as it is.
    pub(super) fn take(&self, from: &KeyValue, endpoint: &mut Endpoint) -> bool {
        let address = |version_6_only: bool| {
            let address: IpAddr = as_text(from)?.parse().ok()?;
            let same = as_text(from) == Some(address.to_string().as_str());
            (same && (address.is_ipv6() || !version_6_only)).then_some(address)
        };
        if from.key == self.port {
            let Some(Value::IntValue(port @ 1..=65535)) = value(from) else { return false };
            endpoint.port = *port as u16;
            return true;
        }
        let address = match from.key.as_str() {
            key if key == self.ip => address(false),
            key if key == self.ipv6 => address(true),
            _ => None,
        };
        match address {
            Some(IpAddr::V4(address)) if endpoint.ipv4.is_none() => endpoint.ipv4 = Some(address),
            Some(IpAddr::V6(address)) if endpoint.ipv6.is_none() => endpoint.ipv6 = Some(address),
            _ => return false,
        }
        true
    }
}
