//! What a block says of itself in `meta.json`.

use serde::Deserialize;

/// The formats that are read.
const FORMATS: [&str; 2] = ["vParquet4", "vParquet5"];

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Meta {
    #[serde(rename = "format")]
    format: String,
    #[serde(rename = "blockID")]
    pub id: String,
    #[serde(rename = "tenantID", default)]
    pub tenant: String,
    #[serde(rename = "dedicatedColumns", default)]
    dedicated: Option<Vec<Dedicated>>,
}

/// An attribute that has a column of its own. What is left out is a text of a span.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Dedicated {
    #[serde(alias = "n", alias = "Name")]
    pub name: String,
    #[serde(alias = "s", alias = "Scope", default = "span")]
    scope: String,
    #[serde(rename = "type", alias = "t", alias = "Type", default = "string")]
    kind: String,
}

fn span() -> String {
    "span".to_owned()
}

fn string() -> String {
    "string".to_owned()
}

/// Where attributes have columns of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    Resource,
    Span,
    Event,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Integer,
}

impl Meta {
    pub fn read(text: &[u8]) -> Result<Self, String> {
        let meta: Self =
            serde_json::from_slice(text).map_err(|error| format!("it is no meta.json of a block: {error}"))?;
        match FORMATS.contains(&meta.format.as_str()) {
            true => Ok(meta),
            false => Err(format!(
                "its format is {:?}, and {} can be read; let Tempo compact it into one of these first",
                meta.format,
                FORMATS.join(" and ")
            )),
        }
    }

    /// The attribute of column `number`, from 1, of those of its scope and type.
    pub fn dedicated(&self, scope: Scope, kind: Kind, number: usize) -> Option<&Dedicated> {
        let mut same =
            self.dedicated.iter().flatten().filter(|column| column.scope() == scope && column.kind() == kind);
        same.nth(number.checked_sub(1)?)
    }
}

impl Dedicated {
    fn scope(&self) -> Scope {
        match self.scope.as_str() {
            "resource" => Scope::Resource,
            "event" => Scope::Event,
            _ => Scope::Span,
        }
    }

    fn kind(&self) -> Kind {
        match self.kind.as_str() {
            "int" => Kind::Integer,
            _ => Kind::Text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_numbered_by_scope_and_type() {
        let text = r#"{"format":"vParquet5","blockID":"b","tenantID":"t","dedicatedColumns":[
            {"name":"a","scope":"resource","type":"string"},{"n":"b"},{"n":"c","t":"int"},{"n":"d","s":"span","t":"string"},
            {"n":"e","s":"event","o":["array"]}]}"#;
        let meta = Meta::read(text.as_bytes()).unwrap();
        let name = |scope, kind, number| meta.dedicated(scope, kind, number).map(|column| column.name.as_str());
        assert_eq!(name(Scope::Resource, Kind::Text, 1), Some("a"));
        assert_eq!(name(Scope::Span, Kind::Text, 1), Some("b"));
        assert_eq!(name(Scope::Span, Kind::Text, 2), Some("d"));
        assert_eq!(name(Scope::Span, Kind::Integer, 1), Some("c"));
        assert_eq!(name(Scope::Span, Kind::Integer, 2), None);
        assert_eq!(name(Scope::Event, Kind::Text, 1), Some("e"));
        let old = Meta::read(br#"{"format":"vParquet3","blockID":"b"}"#).unwrap_err();
        assert!(old.contains("vParquet3"), "{old}");
    }
}
