//! Whose spans a request brings.

use http::HeaderMap;
use model::TenantId;

use crate::refusal::Refusal;

const TENANT_HEADER: &str = "x-scope-orgid";

/// One tenant, never several: a write belongs to one.
pub(crate) fn tenant(headers: &HeaderMap, multitenancy: bool) -> Result<TenantId, Refusal> {
    if !multitenancy {
        return Ok(TenantId::single());
    }
    let mut values = headers.get_all(TENANT_HEADER).iter();
    let Some(value) = values.next() else {
        return Err(Refusal::unauthenticated("no org id: send the tenant in the header X-Scope-OrgID"));
    };
    if values.next().is_some() {
        return Err(Refusal::invalid("the header X-Scope-OrgID is given more than once: send one tenant"));
    }
    let name = value.to_str().map_err(|_| Refusal::invalid("the header X-Scope-OrgID is not plain ASCII"))?;
    if name.is_empty() {
        return Err(Refusal::unauthenticated("no org id: the header X-Scope-OrgID is empty"));
    }
    TenantId::parse(name).map_err(|error| Refusal::invalid(format!("X-Scope-OrgID: {error}")))
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, StatusCode};

    use super::*;

    fn check(values: &[&str], multitenancy: bool) -> Result<String, StatusCode> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(TENANT_HEADER, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        tenant(&headers, multitenancy).map(|tenant| tenant.to_string()).map_err(|refusal| refusal.http)
    }

    #[test]
    fn the_header_decides_only_with_multitenancy() {
        assert_eq!(check(&["../x"], false), Ok("single-tenant".to_owned()));
        assert_eq!(check(&["team-1"], true), Ok("team-1".to_owned()));
        for missing in [&[][..], &[""]] {
            assert_eq!(check(missing, true), Err(StatusCode::UNAUTHORIZED));
        }
        let long = "a".repeat(151);
        for bad in ["..", ".", "../x", "a/b", "a\\b", "%2e%2e", "a|b", "ü", "a b", &long] {
            assert_eq!(check(&[bad], true), Err(StatusCode::BAD_REQUEST), "{bad}");
        }
        assert_eq!(check(&["a", "a"], true), Err(StatusCode::BAD_REQUEST));
    }
}
