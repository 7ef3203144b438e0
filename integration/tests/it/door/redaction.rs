//! What rules take out is nowhere: not in answers, not in the log, not in blocks.

use std::{fs, path::Path};

use proto::otlp::{
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::Status,
};
use serde_json::json;
use tempfile::TempDir;

use super::{every_port, path, replace};
use crate::{
    server::{Server, Starting, until},
    spans::{TimeRange, attribute, request, trace_id, trace_spans},
};

const CARD: &str = "5555 5555 5555 4444";
const PASSWORD: &str = "correct-horse-battery";
const MAIL: &str = "anna@shop.example";

/// Whether any file below the folder has the text.
fn is_in(folder: &Path, text: &str) -> bool {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).any(|path| match path.is_dir() {
        true => is_in(&path, text),
        false => fs::read(path).unwrap().windows(text.len()).any(|part| part == text.as_bytes()),
    })
}

#[tokio::test]
async fn secrets_are_taken_out_before_anything_is_stored() {
    let folder = TempDir::new().unwrap();
    let salt = folder.path().join("salt");
    fs::write(&salt, "a salt of thirty-two random bytes").unwrap();
    let redaction = json!({
        "salt_file": path(&salt),
        "rules": [
            { "name": "passwords", "action": "drop", "keys": ["*password*"] },
            { "name": "users", "action": "hash", "keys": ["enduser.id"] },
            { "name": "cards", "action": "mask", "detectors": ["card_number", "secret"] },
        ],
    });
    let server = Server::start(&every_port(folder.path()).with("distributor.redaction", redaction)).await;
    let range = TimeRange::lately();
    let mut spans = trace_spans(67, 1, 0..2, range);
    let text = |key: &str, text: &str| attribute(key, text.to_owned());
    spans[0].attributes.extend([text("db.Password", PASSWORD), text("enduser.id", MAIL), text("note", &format!("paid with {CARD}!"))]);
    spans[1].attributes.push(text("enduser.id", MAIL));
    let pan = AnyValue { value: Some(Value::IntValue(5_555_555_555_554_444)) };
    spans[1].attributes.push(KeyValue { key: "pan".to_owned(), value: Some(pan), ..KeyValue::default() });
    spans[1].status = Some(Status { message: format!("card {CARD} refused"), code: 2 });
    server.client.push(request("shop", spans)).await;
    // Zipkin's spans pass the same rules.
    let zipkin = json!([{ "traceId": "00000000000000430000000000000009", "id": "0000000000000001", "name": "pay",
        "timestamp": range.start_s * 1_000_000, "duration": 1000, "tags": { "password": PASSWORD, "card": CARD } }]);
    let url = format!("http://{}/api/v2/spans", server.address("zipkin"));
    let sent = crate::client::Access::default().builder().build().unwrap().post(url).body(zipkin.to_string()).send().await.unwrap();
    assert_eq!(sent.status(), 202);

    for text in [CARD, PASSWORD, MAIL] {
        assert!(!is_in(&folder.path().join("data"), text), "{text} is in the log");
    }
    let check = async |when: &str| {
        let spans = server.client.trace(&trace_id(67, 1)).await;
        let of = |index: usize, key: &str| {
            let found = spans[index].attributes.iter().find(|attribute| attribute.key == key);
            found.map(|attribute| match attribute.value.clone().unwrap().value.unwrap() {
                Value::StringValue(text) => text,
                other => panic!("{other:?}"),
            })
        };
        assert_eq!(of(0, "db.Password"), None, "{when}");
        assert_eq!(of(0, "note").as_deref(), Some("paid with ****!"), "{when}");
        assert_eq!(of(1, "pan").as_deref(), Some("****"), "{when}");
        assert!(of(0, "enduser.id").unwrap().starts_with("hash:"), "{when}");
        assert_eq!(of(0, "enduser.id"), of(1, "enduser.id"), "{when}");
        assert_eq!(spans[1].status.as_ref().unwrap().message, "card **** refused", "{when}");
    };
    check("live").await;
    server.client.flush().await;
    check("in blocks").await;
    for text in [CARD, PASSWORD, MAIL] {
        assert!(!is_in(&folder.path().join("data"), text), "{text} is in a block");
    }
    let (_, metrics) = server.client.get("/metrics", &[]).await;
    let metrics = metrics.as_str().unwrap();
    for (rule, count) in [("passwords", 2), ("users", 2), ("cards", 4)] {
        let line = format!("sostenuto_redacted_values_total{{rule=\"{rule}\"}} {count}");
        assert!(metrics.contains(&line), "no {line} in\n{metrics}");
    }
}

#[tokio::test]
async fn without_rules_spans_stay_as_they_are() {
    let folder = TempDir::new().unwrap();
    let server = Server::start(&every_port(folder.path())).await;
    let mut spans = trace_spans(68, 1, 0..1, TimeRange::lately());
    spans[0].attributes.push(attribute("password", CARD.to_owned()));
    server.client.push(request("shop", spans)).await;
    let stored = server.client.trace(&trace_id(68, 1)).await;
    assert!(stored[0].attributes.contains(&attribute("password", CARD.to_owned())), "{stored:?}");
    let (_, metrics) = server.client.get("/metrics", &[]).await;
    assert!(!metrics.as_str().unwrap().contains("sostenuto_redacted_values"));
}

#[tokio::test]
async fn rules_change_without_a_restart_and_bad_ones_do_not() {
    let folder = TempDir::new().unwrap();
    let (salt, rules) = (folder.path().join("salt"), folder.path().join("rules.yaml"));
    replace(&salt, "a salt of thirty-two random bytes");
    replace(&rules, "[]");
    let redaction = json!({
        "salt_file": path(&salt), "rules_file": path(&rules), "reload_interval": "20ms",
        "rules": [{ "name": "passwords", "action": "drop", "keys": ["password"] }],
    });
    let server = Server::start(&every_port(folder.path()).with("distributor.redaction", redaction.clone())).await;
    // What is stored of a value of this name.
    let stored = async |number: u64, key: &str| {
        let mut spans = trace_spans(70, number, 0..1, TimeRange::lately());
        spans[0].attributes = vec![attribute(key, MAIL.to_owned()), attribute("password", PASSWORD.to_owned())];
        server.client.push(request("shop", spans)).await;
        let span = server.client.trace(&trace_id(70, number)).await.remove(0);
        assert!(span.attributes.iter().all(|attribute| attribute.key != "password"), "the configuration's rules stay");
        span.attributes.into_iter().find(|attribute| attribute.key == key).map(|attribute| match attribute.value.unwrap().value {
            Some(Value::StringValue(text)) => text,
            other => panic!("{other:?}"),
        })
    };
    let mut number = 0;
    let mut becomes = async |key: &str, holds: &dyn Fn(&Option<String>) -> bool| {
        let mut last = None;
        until(&format!("{key} is as the rules say"), async || {
            number += 1;
            last = stored(number, key).await;
            holds(&last)
        })
        .await;
        last
    };
    becomes("mail", &|value| value.as_deref() == Some(MAIL)).await;
    replace(&rules, "- {name: mails, action: mask, keys: [mail]}\n- {name: users, action: hash, keys: [user]}\n");
    becomes("mail", &|value| value.as_deref() == Some("****")).await;
    let hash = becomes("user", &|value| value.as_ref().is_some_and(|text| text.starts_with("hash:"))).await;
    // Neither a pattern that is none nor a name that is there already.
    let failures = async || server.client.metric("sostenuto_redaction_reload_failures_total").await;
    for bad in ["- {name: mails, keys: [mail], value_regex: '('}\n", "- {name: passwords, keys: [mail]}\n", "rules: nonsense\n", ""] {
        let before = failures().await;
        replace(&rules, bad);
        until("the mistake is counted", async || failures().await > before).await;
        becomes("mail", &|value| value.as_deref() == Some("****")).await;
    }
    replace(&rules, "- {name: users, action: hash, keys: [user]}\n");
    becomes("mail", &|value| value.as_deref() == Some(MAIL)).await;
    replace(&salt, "another salt of as many random bytes");
    becomes("user", &|value| *value != hash && value.as_ref().is_some_and(|text| text.starts_with("hash:"))).await;
    // Counts go on over all that.
    let (_, metrics) = server.client.get("/metrics", &[]).await;
    let metrics = metrics.as_str().unwrap();
    let count = |rule: &str| -> f64 {
        let start = format!("sostenuto_redacted_values_total{{rule=\"{rule}\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_else(|| panic!("no {rule} in\n{metrics}")).parse().unwrap()
    };
    assert!(count("mails") >= 4.0 && count("users") >= 2.0 && count("passwords") >= 8.0, "{metrics}");
    assert!(server.stop().await.success());

    replace(&rules, "- {name: mails}\n");
    let settings = every_port(folder.path()).with("distributor.redaction", redaction);
    let log = Starting::spawn(&settings).fails().await;
    assert!(log.contains("about everything"), "{log}");
}
