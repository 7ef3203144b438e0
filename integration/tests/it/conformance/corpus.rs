//! Reads the corpus.

use std::{fs, io::Read, path::Path};

use serde_json::{Map, Value};

use super::normal::canonical;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/conformance");

pub struct Corpus {
    /// OTLP requests, in their order.
    pub requests: Vec<Vec<u8>>,
    pub cases: Vec<Case>,
    pub spans: u64,
    /// The whole seconds of unix time that hold all spans.
    pub start_s: u64,
    pub end_s: u64,
}

pub struct Case {
    /// `group/number`.
    pub name: String,
    pub path: String,
    pub parameters: Vec<(String, String)>,
    /// The comparable part of the recorded answer.
    pub want: Value,
    /// Whether spans are compared with their durations and attributes.
    pub detail: bool,
    /// Whether we answer differently on purpose.
    pub differs: bool,
}

impl Corpus {
    pub fn load() -> Self {
        let mut text = String::new();
        let file = fs::File::open(Path::new(FOLDER).join("cases.json.gz")).unwrap();
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
        let recorded: Value = serde_json::from_str(&text).unwrap();
        let number = |key: &str| recorded[key].as_u64().unwrap();
        let cases = recorded["cases"].as_array().unwrap().iter().map(Case::read).collect();
        let mut files: Vec<_> =
            fs::read_dir(Path::new(FOLDER).join("dataset")).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let requests = files.iter().map(|file| fs::read(file).unwrap()).collect();
        Self { requests, cases, spans: number("spans"), start_s: number("start"), end_s: number("end") }
    }
}

impl Case {
    fn read(case: &Value) -> Self {
        let text = |key: &str| case[key].as_str().unwrap().to_owned();
        let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let empty = Map::new();
        let parameters = case["params"].as_object().unwrap_or(&empty);
        Self {
            name: text("name"),
            path: text("path"),
            parameters: parameters.iter().map(|(key, value)| (key.clone(), plain(value))).collect(),
            want: canonical(case["want"].clone()),
            detail: case["detail"] == true,
            differs: case.get("differs").is_some_and(|differs| *differs != false),
        }
    }

    pub fn group(&self) -> &str {
        self.name.split('/').next().unwrap()
    }

    /// What the case asks, for a person.
    pub fn question(&self) -> &str {
        let query = self.parameters.iter().find(|(key, _)| key == "q");
        query.map_or(&self.path, |(_, query)| query)
    }
}
