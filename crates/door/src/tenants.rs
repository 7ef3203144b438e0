//! Whose spans a request may ask for: `X-Scope-OrgID` against the caller.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::identity::{Identity, Tenants};

const TENANT: HeaderName = HeaderName::from_static("x-scope-orgid");

/// Every tenant that the header names, `a|b`, must be the caller's. Where it names none, and the caller has one tenant, it
/// is that one. What is no name at all is refused behind the door, where it is read.
pub(crate) fn restrict(headers: &mut HeaderMap, identity: &Identity) -> Result<(), String> {
    let mut named = false;
    for value in headers.get_all(TENANT) {
        let names = value.to_str().map_err(|_| "the header X-Scope-OrgID is not plain ASCII".to_owned())?;
        for name in names.split('|').map(str::trim).filter(|name| !name.is_empty()) {
            named = true;
            if !identity.tenants.contains(name) {
                return Err(format!("{} may not use the tenant {name:?}", identity.name));
            }
        }
    }
    if named {
        return Ok(());
    }
    if let Tenants::These(tenants) = &identity.tenants
        && let Some(only) = tenants.first().filter(|_| tenants.len() == 1)
    {
        let value = HeaderValue::from_str(only.as_str()).map_err(|_| "the tenant has no form as a header".to_owned())?;
        headers.insert(TENANT, value);
    }
    Ok(())
}

/// What the header says, for the audit log.
pub(crate) fn named(headers: &HeaderMap) -> String {
    headers.get_all(TENANT).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(tenants: &[&str], header: &[&str]) -> Result<String, String> {
        let identity = Identity {
            name: "k".to_owned(),
            by: "key",
            roles: Default::default(),
            tenants: Tenants::of(tenants.iter().copied()).unwrap(),
        };
        let mut headers = HeaderMap::new();
        for value in header {
            headers.append(TENANT, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        restrict(&mut headers, &identity).map(|()| named(&headers))
    }

    #[test]
    fn only_the_callers_tenants_pass() {
        let passes = |tenants: &[&str], header: &[&str], to: &str| assert_eq!(check(tenants, header).as_deref(), Ok(to));
        passes(&["a", "b"], &["a"], "a");
        passes(&["a", "b"], &["a|b"], "a|b");
        passes(&["*"], &["x|y"], "x|y");
        passes(&["a"], &[], "a");
        passes(&["a"], &[""], "a");
        passes(&["a", "b"], &[], "");
        passes(&["*"], &[], "");
        passes(&[], &[], "");
        for header in [&["c"][..], &["a|c"], &["a| c "], &["a", "c"], &["A"], &["\u{e9}"], &["a,b"]] {
            assert!(check(&["a", "b"], header).is_err(), "{header:?}");
        }
        assert!(check(&[], &["a"]).is_err());
    }
}
