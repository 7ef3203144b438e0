//! What a token whose signature is good says.

use serde_json::Value;

use super::JwtSettings;
use crate::identity::{Identity, Role, Tenants};

pub(super) fn identity(claims: &Value, settings: &JwtSettings, now_unix_s: u64) -> Result<Identity, String> {
    let JwtSettings { issuer, audience, leeway, tenant_claim, role_claim, roles: meanings, .. } = settings;
    let leeway_s = leeway.as_secs();
    if claims.get("iss").and_then(Value::as_str) != Some(issuer) {
        return Err(format!("it is not of the issuer {issuer:?}"));
    }
    if !words(claims.get("aud"), false).iter().any(|word| word == audience) {
        return Err(format!("it is not meant for the audience {audience:?}"));
    }
    let expires = seconds(claims, "exp")?.ok_or("it has no exp, and would be good for ever")?;
    if now_unix_s as f64 >= expires + leeway_s as f64 {
        return Err("it has expired".to_owned());
    }
    if seconds(claims, "nbf")?.is_some_and(|begins| begins > (now_unix_s + leeway_s) as f64) {
        return Err("it is not good yet (nbf)".to_owned());
    }
    let roles = words(find(claims, role_claim), true);
    let roles = roles.iter().filter_map(|word| match meanings.is_empty() {
        true => word.parse::<Role>().ok(),
        false => meanings.get(word).copied(),
    });
    let tenants = words(find(claims, tenant_claim), false);
    if tenants.iter().any(|name| name == "*") {
        return Err(format!("the claim {tenant_claim:?} names the tenant \"*\", which no token can"));
    }
    let tenants = Tenants::of(tenants.iter().map(String::as_str)).map_err(|what| format!("the claim {tenant_claim:?}: {what}"))?;
    let name = claims.get("sub").and_then(Value::as_str).unwrap_or("a token without sub");
    Ok(Identity { name: name.chars().take(NAME_CHARS_MAX).collect(), by: "token", roles: roles.collect(), tenants })
}

/// A subject stands in messages and in the audit log.
const NAME_CHARS_MAX: usize = 256;

/// Unix seconds; they may have a fraction.
fn seconds(claims: &Value, name: &str) -> Result<Option<f64>, String> {
    match claims.get(name) {
        None => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or_else(|| format!("{name} is not a number")),
    }
}

/// A claim by its name, or, where it has dots and there is none of that name, inside objects.
fn find<'c>(claims: &'c Value, path: &str) -> Option<&'c Value> {
    claims.get(path).or_else(|| path.split('.').try_fold(claims, |value, name| value.get(name)))
}

/// A string, cut at spaces if it is a list of words, or the strings of an array.
fn words(claim: Option<&Value>, cut: bool) -> Vec<String> {
    match claim {
        Some(Value::String(text)) if cut => text.split_whitespace().map(str::to_owned).collect(),
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(values)) => values.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}
