//! Jaeger's remote sampling, on every port that Jaeger has it on.

use std::fs;

use reqwest::header;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{every_port, path, replace};
use crate::{
    client::Access,
    server::{Server, until},
};

const METHOD: &str = "/jaeger.api_v2.SamplingManager/GetSamplingStrategy";

async fn ask(server: &Server, port: &str, path: &str) -> (u16, Value) {
    let client = Access::default().builder().build().unwrap();
    let answer = client.get(format!("http://{}{path}", server.address(port))).send().await.unwrap();
    let status = answer.status().as_u16();
    let text = answer.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

#[tokio::test]
async fn strategies_are_told_and_change_without_a_restart() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("strategies.json");
    let strategies = |share: f64| {
        json!({
            "service_strategies": [
                { "service": "shop", "type": "probabilistic", "param": share, "operation_strategies": [
                    { "operation": "pay", "type": "probabilistic", "param": 1.0 } ] },
                { "service": "mail", "type": "ratelimiting", "param": 5 } ],
            "default_strategy": { "type": "probabilistic", "param": 0.25 },
        })
    };
    fs::write(&file, strategies(0.5).to_string()).unwrap();
    let sampling = json!({ "strategies_file": path(&file), "endpoint": "127.0.0.1:0", "reload_interval": "20ms" });
    let server = Server::start(&every_port(folder.path()).with("distributor.sampling", sampling)).await;
    let shop = |share: f64| {
        json!({
            "strategyType": "PROBABILISTIC",
            "probabilisticSampling": { "samplingRate": share },
            "operationSampling": {
                "defaultSamplingProbability": share,
                "defaultLowerBoundTracesPerSecond": 0.0,
                "perOperationStrategies": [{ "operation": "pay", "probabilisticSampling": { "samplingRate": 1.0 } }],
                "defaultUpperBoundTracesPerSecond": 0.0,
            },
        })
    };
    for (port, at) in [("sampling", "/sampling"), ("sampling", "/"), ("sampling", "/api/sampling"), ("api", "/api/sampling"), ("jaeger_thrift_http", "/api/sampling")] {
        assert_eq!(ask(&server, port, &format!("{at}?service=shop")).await, (200, shop(0.5)), "{port}{at}");
        let mail = json!({ "strategyType": "RATE_LIMITING", "rateLimitingSampling": { "maxTracesPerSecond": 5 } });
        assert_eq!(ask(&server, port, &format!("{at}?service=mail")).await, (200, mail), "{port}{at}");
        let other = json!({ "strategyType": "PROBABILISTIC", "probabilisticSampling": { "samplingRate": 0.25 } });
        assert_eq!(ask(&server, port, &format!("{at}?service=other")).await, (200, other), "{port}{at}");
        for wrong in ["", "?service=a&service=b"] {
            assert_eq!(ask(&server, port, &format!("{at}{wrong}")).await.0, 400, "{port}{at}{wrong}");
        }
    }
    // Over gRPC: service_name is field 1, the strategy's type field 1, its rate in field 2.
    let client = Access::default().builder().http2_prior_knowledge().build().unwrap();
    for port in ["jaeger_grpc", "api", "sampling"] {
        let body = [&[0, 0, 0, 0, 7, 0x0a, 5][..], b"other"].concat();
        let url = format!("http://{}{METHOD}", server.address(port));
        let post = client.post(url).header(header::CONTENT_TYPE, "application/grpc").header(header::TE, "trailers");
        let answer = post.body(body).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{port}");
        let expected = [&[0, 0, 0, 0, 11, 0x12, 9, 9][..], &0.25f64.to_le_bytes()].concat();
        assert_eq!(answer.bytes().await.unwrap(), expected, "{port}");
    }
    replace(&file, &strategies(0.75).to_string());
    until("the new strategies are told", async || ask(&server, "api", "/api/sampling?service=shop").await.1 == shop(0.75)).await;
    replace(&file, "{\"default_strategy\": {\"type\": \"often\"}}");
    until("the mistake is in the log", async || server.log().contains("none of probabilistic and ratelimiting")).await;
    assert_eq!(ask(&server, "api", "/api/sampling?service=shop").await, (200, shop(0.75)));
}

#[tokio::test]
async fn without_strategies_nothing_is_told() {
    let folder = TempDir::new().unwrap();
    let server = Server::start(&every_port(folder.path())).await;
    let (status, why) = ask(&server, "api", "/api/sampling?service=shop").await;
    assert_eq!(status, 404);
    assert!(why.as_str().unwrap().contains("strategies_file"), "{why}");
    assert_eq!(ask(&server, "jaeger_thrift_http", "/api/sampling?service=shop").await.0, 404);
}
