//! Tempo's limits of single tenants as ours: the file that `per_tenant_override_config` names, in its new form (sections) and its
//! old one (names with underscores).

use serde_json::{Map, Value};

use super::{Migration, Note, NoteKind, Unreadable, flat, judge, parse, put, rules, yaml};

const HEADING: &str = "Made of Tempo's limits of single tenants: the file that overrides.per_tenant_override_config names.
What a tenant's entry does not name is as in overrides.defaults; Tempo takes its own default for it.";

/// What can be set for one tenant.
const OF_TENANTS: [&str; 3] = ["ingestion.rate_limit_bytes", "ingestion.burst_size_bytes", "retention.keep"];
/// Everybody who is not named.
const OTHERS: &str = "*";

/// Reads such a file.
///
/// # Errors
/// It is no YAML, or names no tenants.
pub fn tempo_overrides(text: &str) -> Result<Migration, Unreadable> {
    let nothing = || Unreadable("it has no section `overrides` with tenants in it".to_owned());
    let tree = parse(text)?;
    let tenants = match tree.get("overrides") {
        Some(Value::Object(tenants)) => tenants,
        Some(Value::Null) => &Map::new(),
        _ => return Err(nothing()),
    };
    if tenants.values().any(|limits| !limits.is_object() && !limits.is_null()) {
        return Err(nothing());
    }
    let mut notes = vec![];
    let mut note = |key: String, kind, text: String| notes.push(Note { key, kind, text });
    let mut ours = Map::new();
    for (tenant, limits) in tenants {
        if tenant == OTHERS {
            let text = "holds for tenants that are not named: write it in the configuration, below overrides.defaults";
            note(tenant.clone(), NoteKind::Attention, text.to_owned());
            continue;
        }
        let mut of_tenant = Map::new();
        for (key, value) in limits.as_object().map(flat).unwrap_or_default() {
            let known = rules::of(&format!("overrides.defaults.{key}")).or_else(|| rules::of(&format!("overrides.{key}")));
            let shown = format!("{tenant}.{key}");
            match judge(known, &value) {
                Err((kind, text)) => note(shown, kind, text),
                Ok((to, value)) => match to.strip_prefix("overrides.defaults.").filter(|to| OF_TENANTS.contains(to)) {
                    Some(to) => {
                        note(shown, NoteKind::Mapped, format!("is {to}"));
                        put(&mut of_tenant, to, value);
                    }
                    None => note(shown, NoteKind::Attention, format!("is the same for all tenants here: {to}")),
                },
            }
        }
        if !of_tenant.is_empty() {
            ours.insert(tenant.clone(), of_tenant.into());
        }
    }
    for key in tree.keys().filter(|key| *key != "overrides") {
        note(key.clone(), NoteKind::Unknown, "the file has nothing but `overrides`".to_owned());
    }
    let tree = Map::from_iter([("overrides".to_owned(), ours.into())]);
    Ok(Migration { yaml: yaml::write(HEADING, &notes, &tree), notes })
}
