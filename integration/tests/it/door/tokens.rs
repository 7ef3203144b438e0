//! Tokens of an issuer: its keys from a file, from a URL, by discovery; their rotation; roles and tenants from claims.

use std::{
    fs,
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{every_port, path};
use crate::{
    server::{Server, until},
    spans::{TimeRange, request, trace_spans},
};

fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// A key pair with an id.
struct Signer {
    id: &'static str,
    pair: EcdsaKeyPair,
}

impl Signer {
    fn new(id: &'static str) -> Self {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        Self { id, pair: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap() }
    }

    fn public(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        json!({ "kty": "EC", "crv": "P-256", "kid": self.id, "use": "sig", "x": encode(&point[1..33]), "y": encode(&point[33..]) })
    }

    fn sign(&self, claims: &Value) -> String {
        self.sign_with(&json!({ "alg": "ES256", "typ": "JWT", "kid": self.id }), claims)
    }

    fn sign_with(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let signature = self.pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", encode(signature))
    }
}

fn key_set(signers: &[&Signer]) -> String {
    json!({ "keys": signers.iter().map(|signer| signer.public()).collect::<Vec<_>>() }).to_string()
}

fn claims(issuer: &str, roles: &[&str], tenants: &[&str]) -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    json!({ "iss": issuer, "aud": "sostenuto", "sub": "anna", "exp": now + 600, "nbf": now, "realm": { "roles": roles }, "tenants": tenants })
}

#[tokio::test]
async fn roles_and_tenants_come_from_claims() {
    let folder = TempDir::new().unwrap();
    let (file, signer) = (folder.path().join("jwks.json"), Signer::new("k1"));
    fs::write(&file, key_set(&[&signer])).unwrap();
    let issuer = "urn:the-shop";
    let jwt = json!({
        "issuer": issuer, "audience": "sostenuto", "jwks_file": path(&file), "role_claim": "realm.roles",
        "roles": { "viewer": "read", "agent": "write" },
    });
    let settings = every_port(folder.path()).with("multitenancy_enabled", true).with("authentication.jwt", jwt);
    let server = Server::start(&settings).await;
    let range = TimeRange::lately();
    let agent = server.client.showing(&signer.sign(&claims(issuer, &["agent"], &["a"])));
    agent.push(request("shop", trace_spans(65, 1, 0..4, range))).await;
    let viewer = server.client.showing(&signer.sign(&claims(issuer, &["viewer", "other"], &["a", "b"])));
    assert_eq!(viewer.of("a|b").count("{ }", range).await, 4);
    assert_eq!(viewer.of("c").get("/api/search", &[]).await.0, 403);
    assert_eq!(agent.get("/api/search", &[]).await.0, 403);
    // The names of our roles mean nothing where others were given.
    let admin = server.client.showing(&signer.sign(&claims(issuer, &["admin"], &["a"])));
    assert_eq!(admin.get("/status/config", &[]).await.0, 403);

    let good = claims(issuer, &["viewer"], &["a"]);
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        signer.sign(&claims)
    };
    let now = good["nbf"].as_u64().unwrap();
    let forged = Signer::new("k1").sign(&good);
    let unsigned = format!("{}.{}.", encode(r#"{"alg":"none"}"#), encode(good.to_string()));
    for (why, token) in [
        ("another's signature", forged),
        ("no signature", unsigned),
        ("another issuer", with("iss", "urn:other".into())),
        ("another audience", with("aud", "other".into())),
        ("expired", with("exp", (now - 3600).into())),
        ("not yet", with("nbf", (now + 3600).into())),
        ("for ever", with("exp", Value::Null)),
    ] {
        let (status, body) = server.client.showing(&token).of("a").get("/api/search", &[]).await;
        assert_eq!(status, 401, "{why}: {body}");
        assert!(body.as_str().unwrap().starts_with("token: "), "{why}: {body}");
        assert!(!server.log().contains(&token), "{why}");
    }
    assert_eq!(server.client.showing(&signer.sign(&good)).of("a").get("/api/search", &[]).await.0, 200);
}

/// An issuer over HTTP: its discovery document, and its keys as they are now. `None` is an issuer in trouble.
async fn issuer() -> (String, Arc<Mutex<Option<String>>>) {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", socket.local_addr().unwrap());
    let keys: Arc<Mutex<Option<String>>> = Arc::default();
    let (shown, own) = (keys.clone(), base.clone());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = socket.accept().await {
            let (mut head, mut buffer) = (Vec::new(), [0; 1024]);
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read(&mut buffer).await {
                    Ok(length) if length > 0 => head.extend_from_slice(&buffer[..length]),
                    _ => break,
                }
            }
            let body = match head.starts_with(b"GET /.well-known/openid-configuration ") {
                true => Some(json!({ "issuer": own, "jwks_uri": format!("{own}/keys") }).to_string()),
                false => shown.lock().unwrap().clone(),
            };
            let answer = match body {
                Some(body) => format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len()),
                None => "HTTP/1.1 500 Oh no\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned(),
            };
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (base, keys)
}

#[tokio::test]
async fn keys_are_discovered_and_rotate() {
    let folder = TempDir::new().unwrap();
    let (issuer, keys) = issuer().await;
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let jwt = json!({ "issuer": issuer, "audience": "sostenuto", "role_claim": "realm.roles", "refresh_interval": "100ms" });
    let server = Server::start(&every_port(folder.path()).with("authentication.jwt", jwt)).await;
    let status = async |signer: &Signer| {
        let token = signer.sign(&claims(&issuer, &["read"], &[]));
        server.client.showing(&token).get("/api/search", &[]).await.0
    };
    assert_eq!(status(&old).await, 503, "no keys yet: a client may come again");
    *keys.lock().unwrap() = Some(key_set(&[&old]));
    until("the keys were fetched", async || status(&old).await == 200).await;
    *keys.lock().unwrap() = Some(key_set(&[&new]));
    until("the new key is known", async || status(&new).await == 200).await;
    assert_eq!(status(&old).await, 401, "the old one is gone");
    *keys.lock().unwrap() = None;
    until("the issuer's trouble is in the log", async || server.log().contains("cannot be fetched")).await;
    assert_eq!(status(&new).await, 200, "what was fetched stays");
}

/// What attackers of such tokens try.
#[tokio::test]
async fn forged_tokens_are_refused() {
    let folder = TempDir::new().unwrap();
    let (file, signer) = (folder.path().join("jwks.json"), Signer::new("k1"));
    fs::write(&file, key_set(&[&signer])).unwrap();
    let issuer = "urn:the-shop";
    let jwt = json!({ "issuer": issuer, "audience": "sostenuto", "jwks_file": path(&file), "role_claim": "realm.roles" });
    let server = Server::start(&every_port(folder.path()).with("multitenancy_enabled", true).with("authentication.jwt", jwt)).await;
    let good = claims(issuer, &["read"], &["a"]);
    let status = async |token: &str| server.client.showing(token).of("a").get("/api/search", &[]).await.0;
    assert_eq!(status(&signer.sign(&good)).await, 200);

    // By the head: another algorithm, another key, more than is known.
    let point = signer.pair.public_key().as_ref().to_vec();
    let public = signer.public().to_string();
    let hmac = |header: &Value, secret: &[u8]| {
        let message = format!("{}.{}", encode(header.to_string()), encode(good.to_string()));
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
        format!("{message}.{}", encode(ring::hmac::sign(&key, message.as_bytes())))
    };
    let with_header = |header: Value| signer.sign_with(&header, &good);
    let own = Signer::new("own");
    let mut forged: Vec<(String, String)> = vec![];
    for alg in ["none", "None", "NONE", "nOnE", "", "es256", "ES256 ", "RS256", "HS256", "HS384", "ES384", "EdDSA", "PS256"] {
        let header = json!({ "alg": alg, "kid": "k1" });
        for signature in ["", "AA", &encode([0; 64]), &encode([255; 64])] {
            forged.push((format!("{alg:?}, signed {signature:?}"), format!("{}.{}.{signature}", encode(header.to_string()), encode(good.to_string()))));
        }
        forged.push((format!("{alg:?}, by the point as a secret"), hmac(&header, &point)));
        forged.push((format!("{alg:?}, by the public key as a secret"), hmac(&header, public.as_bytes())));
        forged.push((format!("{alg:?}, by the file as a secret"), hmac(&header, key_set(&[&signer]).as_bytes())));
        forged.push((format!("{alg:?}, by nothing as a secret"), hmac(&header, b"")));
        if alg != "ES256" {
            forged.push((format!("{alg:?}, well signed"), with_header(header)));
        }
    }
    for kid in [json!("own"), json!("../../dev/null"), json!("k1' OR '1'='1"), json!("k1\u{0}"), json!("|/bin/sh"), json!("x".repeat(4_000)), json!(["k1"]), json!({ "k1": 1 }), json!(1)] {
        // Whatever the id, it is another's key.
        forged.push((format!("kid {kid}"), own.sign_with(&json!({ "alg": "ES256", "kid": kid }), &good)));
    }
    for (name, value) in [("jwk", own.public()), ("jku", json!("http://127.0.0.1:1/keys")), ("x5u", json!("file:///etc/passwd")), ("x5c", json!(["AAAA"]))] {
        let mut header = json!({ "alg": "ES256", "typ": "JWT" });
        header[name] = value;
        forged.push((format!("its own {name}"), own.sign_with(&header, &good)));
    }
    forged.push(("critical extensions".into(), with_header(json!({ "alg": "ES256", "kid": "k1", "crit": ["exp"] }))));
    // By the form.
    let token = signer.sign(&good);
    let [head, body, signature]: [&str; 3] = token.split('.').collect::<Vec<_>>().try_into().unwrap();
    let flipped = if signature.starts_with('A') { format!("B{}", &signature[1..]) } else { format!("A{}", &signature[1..]) };
    for (what, token) in [
        ("four parts", format!("{token}.")),
        ("five parts", format!("{head}.{body}.{signature}.{body}.{signature}")),
        ("two parts", format!("{head}.{body}")),
        ("no head", format!(".{body}.{signature}")),
        ("padding", format!("{head}.{body}.{signature}=")),
        ("another bit", format!("{head}.{body}.{flipped}")),
        ("half a signature", format!("{head}.{body}.{}", &signature[..40])),
        ("a signature twice", format!("{head}.{body}.{signature}{signature}")),
        ("other claims", format!("{head}.{}.{signature}", encode(claims(issuer, &["admin"], &["a"]).to_string()))),
        ("no JSON", format!("{}.{body}.{signature}", encode("x"))),
        ("deep JSON", format!("{}.{body}.{signature}", encode("[".repeat(5_000)))),
        ("16 KiB and more", format!("{head}.{body}.{}", "A".repeat(20_000))),
    ] {
        forged.push((what.to_owned(), token));
    }
    // By the claims.
    let now = good["nbf"].as_u64().unwrap();
    for (name, values) in [
        ("iss", vec![json!("urn:the-shop/"), json!("URN:THE-SHOP"), json!([issuer]), json!(null), json!(1)]),
        ("aud", vec![json!("Sostenuto"), json!("sostenuto sostenuto"), json!(["other"]), json!([]), json!(null), json!({ "sostenuto": 1 }), json!([["sostenuto"]])]),
        ("exp", vec![json!(now - 61), json!("4102444800"), json!(-1), json!(0), json!(null), json!(true), json!([now + 600])]),
        ("nbf", vec![json!(now + 3600), json!("0"), json!(1e300), json!([])]),
        ("tenants", vec![json!("*"), json!(["a", "*"]), json!("../a"), json!(["a", "a/b"])]),
    ] {
        for value in values {
            let mut claims = good.clone();
            claims[name] = value.clone();
            forged.push((format!("{name} = {value}"), signer.sign(&claims)));
        }
    }
    for (what, token) in &forged {
        assert_eq!(status(token).await, 401, "{what}");
    }
    // Known, and without the right.
    for (name, value) in [("tenants", json!("b")), ("tenants", json!([])), ("tenants", json!("a b")), ("realm", json!({ "roles": [] })), ("realm", json!({ "roles": "reader" })), ("realm", json!({ "roles": { "read": true } })), ("roles", json!(["read"]))] {
        let mut claims = good.clone();
        if name == "roles" {
            claims["realm"] = json!({});
        }
        claims[name] = value.clone();
        let got = status(&signer.sign(&claims)).await;
        assert!(matches!(got, 401 | 403), "{name} = {value}: {got}");
    }
    assert_eq!(status(&token).await, 200);
}
