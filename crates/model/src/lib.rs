//! Words that every other crate uses: ids, tenants, attribute scopes, error kinds.
//!
//! No I/O, no clocks, no randomness. A value of one of these types is valid by construction.

mod attribute;
mod error;
mod id;
mod tenant;

pub use attribute::{AttributeScope, AttributeType};
pub use error::ErrorKind;
pub use id::{IdError, SpanId, TraceId};
pub use tenant::{TenantError, TenantId};

/// The most levels an attribute value may nest (OpenTelemetry's `AttributeValueDepthLimit` default).
pub const ATTRIBUTE_DEPTH_MAX: usize = 64;
