//! The actions of a commit, one JSON object per line.
//!
//! Fields and actions that we do not know are passed over, as the protocol asks; what would make that
//! wrong is announced by a higher `minReaderVersion`, which [`super::state`] refuses.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::seal;

/// One line: exactly one of the fields is set in a file of ours.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Action {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit_info: Option<CommitInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meta_data: Option<Metadata>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub txn: Option<Transaction>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remove: Option<Remove>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub add: Option<Add>,
}

/// Provenance; free-form by the protocol. `txn_id` is how a writer knows its own commit again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct CommitInfo {
    pub timestamp: serde_json::Value,
    pub operation: String,
    pub operation_parameters: serde_json::Map<String, serde_json::Value>,
    pub is_blind_append: bool,
    pub engine_info: String,
    pub txn_id: String,
    /// The checksum of the file: see [`super::seal`]. Empty in files of other programs.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub seal: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Protocol {
    pub min_reader_version: i32,
    pub min_writer_version: i32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Metadata {
    pub id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    pub format: Format,
    pub schema_string: String,
    #[serde(default)]
    pub partition_columns: Vec<String>,
    #[serde(default)]
    pub configuration: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_time: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Format {
    pub provider: String,
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

/// Work of application `app_id` is in the table up to `version`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Transaction {
    pub app_id: String,
    pub version: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_updated: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Add {
    pub path: String,
    #[serde(default)]
    pub partition_values: BTreeMap<String, Option<String>>,
    pub size: i64,
    /// Milliseconds since 1970.
    pub modification_time: i64,
    pub data_change: bool,
    /// A JSON object in a string.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stats: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<BTreeMap<String, Option<String>>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Remove {
    pub path: String,
    /// Milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<i64>,
    #[serde(default)]
    pub data_change: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extended_file_metadata: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition_values: Option<BTreeMap<String, Option<String>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<i64>,
}

impl From<CommitInfo> for Action {
    fn from(info: CommitInfo) -> Self {
        Self { commit_info: Some(info), ..Self::default() }
    }
}
impl From<Protocol> for Action {
    fn from(protocol: Protocol) -> Self {
        Self { protocol: Some(protocol), ..Self::default() }
    }
}
impl From<Metadata> for Action {
    fn from(metadata: Metadata) -> Self {
        Self { meta_data: Some(metadata), ..Self::default() }
    }
}
impl From<Transaction> for Action {
    fn from(transaction: Transaction) -> Self {
        Self { txn: Some(transaction), ..Self::default() }
    }
}
impl From<Remove> for Action {
    fn from(remove: Remove) -> Self {
        Self { remove: Some(remove), ..Self::default() }
    }
}
impl From<Add> for Action {
    fn from(add: Add) -> Self {
        Self { add: Some(add), ..Self::default() }
    }
}

/// The file of a commit. Its first action is a `commitInfo` that has room for the checksum.
pub(crate) fn encode_commit(actions: &[Action]) -> Vec<u8> {
    let mut file = encode(actions);
    seal::seal(&mut file, seal::Place::First);
    file
}

/// # Errors
/// The checksum that is wrong, or the line that is not an action.
pub(crate) fn decode_commit(file: &[u8]) -> Result<Vec<Action>, String> {
    seal::check(file, seal::Place::First)?;
    decode(file)
}

/// One line for each action.
fn encode(actions: &[Action]) -> Vec<u8> {
    let mut file = Vec::with_capacity(actions.len() * 1024);
    for action in actions {
        serde_json::to_writer(&mut file, action).expect("an action has string keys only, and a Vec takes any byte");
        file.push(b'\n');
    }
    file
}

/// # Errors
/// The line that is not an action, counted from 1, and why.
pub(crate) fn decode(file: &[u8]) -> Result<Vec<Action>, String> {
    let mut actions = Vec::new();
    for (index, line) in file.split(|b| *b == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let action = serde_json::from_slice(line).map_err(|e| format!("line {}: {e}", index + 1))?;
        actions.push(action);
    }
    if actions.is_empty() {
        return Err("it holds no action".into());
    }
    Ok(actions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_other_writers_add_is_passed_over() {
        let file = br#"{"commitInfo":{"timestamp":1,"operation":"WRITE","operationMetrics":{"a":"1"},"isolationLevel":"x"}}
{"cdc":{"path":"x"}}
{"add":{"path":"p","partitionValues":{"a":null},"size":5,"modificationTime":1,"dataChange":true,"baseRowId":4}}
"#;
        let actions = decode(file).unwrap();
        assert_eq!(actions.len(), 3);
        assert_eq!(actions[1], Action::default());
        assert_eq!(actions[2].add.as_ref().unwrap().path, "p");
    }

    #[test]
    fn a_broken_file_is_named_by_its_line() {
        assert!(decode(b"").is_err());
        assert!(decode(b"\n\n").is_err());
        let error = decode(b"{\"txn\":{\"appId\":\"a\",\"version\":1}}\n{\"add\":").unwrap_err();
        assert!(error.starts_with("line 2"), "{error}");
    }

    #[test]
    fn actions_survive_the_file() {
        let actions: Vec<Action> = vec![
            CommitInfo { operation: "WRITE".into(), txn_id: "x".into(), ..CommitInfo::default() }.into(),
            Protocol { min_reader_version: 1, min_writer_version: 2 }.into(),
            Transaction { app_id: "a".into(), version: 4, last_updated: None }.into(),
        ];
        assert_eq!(decode(&encode(&actions)).unwrap(), actions);
    }
}
