//! What each path of the API needs of its caller. What is not listed needs an administrator.

use std::sync::Arc;

use crate::{foreign::jaeger_rpc, overrides, sampling};
use door::{Need, Needs, Role};
use http::Method;

/// Paths that say whether the server works, for who watches over it.
const OPEN: [&str; 5] = ["/ready", "/api/echo", "/zipkin/health", "/health", HEALTH];
const HEALTH: &str = "/grpc.health.v1.Health/";
const ASKING: [Method; 3] = [Method::GET, Method::HEAD, Method::POST];
/// Where questions about traces begin, below the prefix or not.
const READ: [&str; 5] = ["/api/", "/jaeger/", "/zipkin/", crate::grpc::PATH_START, jaeger_rpc::PATH_START];

/// Clients that send spans ask how many to send.
const SAMPLING: Need = Need::Any(&[Role::Read, Role::Write]);

/// Of the port that serves everything.
pub fn needs(configured_prefix: &str) -> Needs {
    let prefix = crate::routes::prefix(configured_prefix);
    Arc::new(move |method, path| need(method, path.strip_prefix(&prefix).filter(|_| !prefix.is_empty()).unwrap_or(path)))
}

/// Of the ports that only serve the query API of another system.
pub fn foreign_needs() -> Needs {
    Arc::new(|_, path| match path {
        "/health" => Need::Nothing,
        _ if path.starts_with(HEALTH) => Need::Nothing,
        _ => Need::READ,
    })
}

/// Of the port that serves remote sampling alone.
pub fn sampling_needs() -> Needs {
    Arc::new(|_, _| SAMPLING)
}

/// Of a port for spans that answers beside them how many to send.
pub fn delivery_needs() -> Needs {
    Arc::new(|_, path| match path {
        "/api/sampling" | sampling::METHOD => SAMPLING,
        _ => Need::WRITE,
    })
}

fn need(method: &Method, path: &str) -> Need {
    match path {
        "/api/sampling" | sampling::METHOD => SAMPLING,
        "/metrics" => Need::Any(&[Role::Metrics]),
        _ if OPEN.iter().any(|open| path == *open || open.ends_with('/') && path.starts_with(open)) => Need::Nothing,
        // A tenant's limits bind the tenant: its own writers do not change them.
        _ if path == overrides::PATH && !matches!(*method, Method::GET | Method::HEAD) => Need::ADMIN,
        // Questions are asked with these; whatever changes something below the same paths will not be.
        _ if ASKING.contains(method) && READ.iter().any(|start| path.starts_with(start)) => Need::READ,
        _ => Need::ADMIN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_listed_is_for_administrators() {
        let check = |prefix: &str, path: &str, expected: Need| {
            assert_eq!(needs(prefix)(&Method::GET, path), expected, "{path} below {prefix:?}");
        };
        for path in ["/ready", "/api/echo", "/grpc.health.v1.Health/Check"] {
            check("", path, Need::Nothing);
        }
        for path in ["/api/search", "/api/sql", "/jaeger/api/services", "/tempopb.StreamingQuerier/Search", "/jaeger.api_v3.QueryService/GetTrace", "/api/status/buildinfo"] {
            check("", path, Need::READ);
            check("/tempo", &format!("/tempo{path}"), Need::READ);
        }
        check("", "/metrics", Need::Any(&[Role::Metrics]));
        for path in ["/flush", "//flush", "/status", "/status/config", "/", "", "/ready/", "//ready", "/readyz", "/Api/search", "/tempo/flush", "/grpc.health.v1.Healthy/Check"] {
            check("", path, Need::ADMIN);
            check("/tempo", path, Need::ADMIN);
        }
        assert_eq!(needs("")(&Method::DELETE, "/api/search"), Need::ADMIN);
        assert_eq!(needs("")(&Method::GET, "/api/overrides"), Need::READ);
        for method in [Method::POST, Method::PATCH, Method::DELETE, Method::PUT] {
            assert_eq!(needs("/tempo")(&method, "/tempo/api/overrides"), Need::ADMIN, "{method}");
        }
    }
}
