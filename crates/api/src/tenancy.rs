//! Which tenants a request reads.

use crate::Failure;
use http::HeaderMap;
use model::{ErrorKind, TenantId};

pub const TENANT_HEADER: &str = "x-scope-orgid";

/// With multi-tenancy off the header is ignored and the tenant is `single-tenant`. With it on the header is
/// required and may name several tenants, `a|b|c`: the answer is made of all of them, sorted, each once.
pub fn readable(headers: &HeaderMap, multitenancy: bool, tenants_max: usize) -> Result<Vec<TenantId>, Failure> {
    if !multitenancy {
        return Ok(vec![TenantId::single()]);
    }
    let mut values = headers.get_all(TENANT_HEADER).iter();
    let Some(value) = values.next() else {
        return Err(Failure::new(ErrorKind::Unauthenticated, "no org id: send the tenant in the header X-Scope-OrgID"));
    };
    if values.next().is_some() {
        return Err(Failure::invalid("the header X-Scope-OrgID is given twice: write several tenants as a|b|c"));
    }
    let names = value.to_str().map_err(|_| Failure::invalid("the header X-Scope-OrgID is not plain ASCII"))?.trim();
    if names.is_empty() {
        return Err(Failure::new(ErrorKind::Unauthenticated, "no org id: the header X-Scope-OrgID is empty"));
    }
    let mut tenants = names
        .split('|')
        .map(|name| TenantId::parse(name.trim()).map_err(|error| Failure::invalid(format!("X-Scope-OrgID: {error}"))))
        .collect::<Result<Vec<_>, _>>()?;
    tenants.sort();
    tenants.dedup();
    if tenants.len() > tenants_max {
        return Err(Failure::invalid(format!("one request reads at most {tenants_max} tenants")));
    }
    Ok(tenants)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderValue, StatusCode};

    fn check(values: &[&str], multitenancy: bool) -> Result<Vec<String>, StatusCode> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(TENANT_HEADER, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        readable(&headers, multitenancy, 3)
            .map(|tenants| tenants.iter().map(ToString::to_string).collect())
            .map_err(|failure| failure.status)
    }

    #[test]
    fn off_means_one_tenant_whatever_is_sent() {
        assert_eq!(check(&[], false).unwrap(), ["single-tenant"]);
        assert_eq!(check(&["../x"], false).unwrap(), ["single-tenant"]);
    }

    #[test]
    fn on_means_required_valid_and_federated() {
        assert_eq!(check(&["b|a|b"], true).unwrap(), ["a", "b"]);
        assert_eq!(check(&["a | b"], true).unwrap(), ["a", "b"]);
        assert_eq!(check(&[], true), Err(StatusCode::UNAUTHORIZED));
        assert_eq!(check(&[""], true), Err(StatusCode::UNAUTHORIZED));
        for bad in ["..", "a|", "a/b", "ü", "a|b|c|d"] {
            assert_eq!(check(&[bad], true), Err(StatusCode::BAD_REQUEST), "{bad}");
        }
        assert_eq!(check(&["a", "b"], true), Err(StatusCode::BAD_REQUEST));
    }
}
