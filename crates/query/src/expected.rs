//! Attributes that answers name even where a span lacks them: those that Tempo keeps in columns of their own.

use traceql::ast::{Attribute, AttributeName, Scope};

/// By scope and key.
pub const EXPECTED: [(Scope, &str); 14] = [
    (Scope::Resource, "k8s.cluster.name"),
    (Scope::Resource, "k8s.container.name"),
    (Scope::Resource, "k8s.namespace.name"),
    (Scope::Resource, "k8s.pod.name"),
    (Scope::Span, "http.method"),
    (Scope::Span, "http.request.method"),
    (Scope::Span, "http.response.status_code"),
    (Scope::Span, "http.route"),
    (Scope::Span, "http.status_code"),
    (Scope::Span, "http.url"),
    (Scope::Span, "server.address"),
    (Scope::Span, "server.port"),
    (Scope::Span, "url.path"),
    (Scope::Span, "url.route"),
];

/// Whether series are labelled with nil where the name is missing; without a scope either column counts.
pub fn is_labelled_nil(name: &Attribute) -> bool {
    match &name.name {
        AttributeName::Key { scope: None, key } => !name.of_parent && EXPECTED.iter().any(|(_, expected)| expected == key),
        _ => is_expected(name),
    }
}

pub fn is_expected(name: &Attribute) -> bool {
    match &name.name {
        AttributeName::Key { scope: Some(scope), key } => !name.of_parent && EXPECTED.contains(&(*scope, key.as_str())),
        _ => false,
    }
}
