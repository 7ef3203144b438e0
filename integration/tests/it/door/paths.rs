//! Q09: the door and what is behind it see the same path, whatever tricks it has: who may only read reaches nothing else, and
//! who may do nothing reaches nothing.

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{Key, every_port, path, write_keys};
use crate::server::Server;

/// Pages for administrators, and ways to write them. Sent as they are: no client makes them straight.
const TARGETS: [&str; 3] = ["/status/config", "/flush", "/metrics"];
const TRICKS: [&str; 30] = [
    "/{}", "//{}", "///{}", "/./{}", "/api/../{}", "/api/..//{}", "/api/x/../../{}", "/api/%2e%2e/{}", "/api/%2e%2e%2f{}", "/api/..%2f{}",
    "/api/..%5c{}", "/api/..\\{}", "/api/%252e%252e/{}", "/api/..;/{}", "/api/;/../{}", "/api/.%2e/{}", "/jaeger/../{}", "/zipkin/..%2f{}",
    "/tempopb./../{}", "/ready/../{}", "/ready;/{}", "/api/echo/../../{}", "/ready%2f..%2f{}", "/health/../{}", "/{};a=b", "/{}/", "/{}.",
    "/{}%20", "/{}%00", "/api/search/tag/..%2f..%2f..%2f{}/values",
];

/// The status and the body of the answer to `<method> <path>` with these headers.
async fn ask(server: &Server, method: &str, target: &str, headers: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(server.address("api")).await.unwrap();
    let head = format!("{method} {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![];
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok()).unwrap_or(0);
    (status, answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned()))
}

/// What these pages say, and nothing else does.
fn is_theirs(body: &str) -> bool {
    ["http_listen_port", "\"blocks\"", "sostenuto_ingester_spans_accepted_total"].iter().any(|mark| body.contains(mark))
}

#[tokio::test]
async fn no_path_leads_around_the_door() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("keys.yaml");
    let (reader, admin) = (Key::create(&["--role", "read", "--tenant", "a"]), Key::create(&["--role", "admin", "--tenant", "*"]));
    write_keys(&file, &[&reader, &admin]);
    for prefix in ["", "/tempo"] {
        let settings = every_port(folder.path()).with("authentication.keys_file", path(&file)).with("http_api_prefix", prefix);
        let server = Server::start(&settings).await;
        let (reads, may_all) = (format!("Authorization: Bearer {}\r\n", reader.key), format!("Authorization: Bearer {}\r\n", admin.key));
        for target in TARGETS {
            let method = if target == "/flush" { "POST" } else { "GET" };
            let (status, body) = ask(&server, method, target, &may_all).await;
            assert!(status == 200 && is_theirs(&body), "{target} is there: {status} {body}");
            for trick in TRICKS {
                for prefix in ["", prefix, "/tempo", "http://a", "http://a/api/../"] {
                    let target = format!("{prefix}{}", trick.replace("{}", &target[1..]));
                    for (who, headers) in [("a reader", reads.as_str()), ("nobody", "")] {
                        let (status, body) = ask(&server, method, &target, headers).await;
                        assert!(matches!(status, 200 | 400 | 401 | 403 | 404 | 405) && !is_theirs(&body), "{who}, {method} {target}: {status} {body}");
                        if who == "nobody" {
                            assert!(matches!(status, 400 | 401), "{method} {target}: {status} {body}");
                        }
                    }
                }
            }
            // Headers that some servers take for the path or the method.
            for header in ["X-Original-URL", "X-Rewrite-URL", "X-Forwarded-Prefix", "X-HTTP-Method-Override", "X-Forwarded-For", "X-Forwarded-User"] {
                let (status, body) = ask(&server, "GET", &format!("{prefix}/api/search"), &format!("{reads}{header}: {target}\r\n")).await;
                assert!(status == 200 && !is_theirs(&body), "{header}: {status} {body}");
                let (status, _) = ask(&server, method, target, &format!("{reads}{header}: /api/search\r\n")).await;
                assert_eq!(status, 403, "{header}");
            }
        }
        // Nor is anything smuggled in beside what was admitted.
        for (what, headers, expected) in [
            ("two credentials", format!("{reads}{may_all}"), 401),
            ("two credentials, the other way", format!("{may_all}{reads}"), 401),
            ("two in one", format!("Authorization: Bearer {}, Bearer {}\r\n", reader.key, admin.key), 401),
            ("another kind beside it", format!("{reads}X-Api-Key: {}\r\n", admin.key), 401),
            ("in the connection's own headers", format!("Connection: authorization\r\n{reads}"), 200),
            ("with spaces", format!("Authorization:  Bearer   {}  \r\n", reader.key), 200),
            ("a tab", format!("Authorization: Bearer\t{}\r\n", reader.key), 401),
            ("an underscore", format!("X_Api_Key: {}\r\n", reader.key), 401),
            ("a cookie", format!("Cookie: authorization={}\r\n", reader.key), 401),
        ] {
            let (status, body) = ask(&server, "GET", &format!("{prefix}/api/search"), &headers).await;
            assert_eq!(status, expected, "{what}: {body}");
        }
        for query in ["access_token", "token", "api_key", "authorization"] {
            let (status, _) = ask(&server, "GET", &format!("{prefix}/api/search?{query}={}", reader.key), "").await;
            assert_eq!(status, 401, "{query} in the URL");
        }
        assert!(server.stop().await.success());
    }
}
