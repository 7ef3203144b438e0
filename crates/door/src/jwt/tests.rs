use std::sync::Arc;

use proptest::prelude::*;
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use serde_json::{Value, json};

use super::*;
use crate::identity::Tenants;

/// Of a key pair whose private half is gone.
const RSA_MODULUS: &str =
    "lqe32BEu4LIr2jHrkS9WRcighW-28w8q2hZjYy4atFvO6f2bCdJXw1DhRuekgNKa7TEEw4z0sqzNy8u47ADWPJQ4PL01u9D5S2pG\
     lykUF7gYHCoZMoAZRQmmcpv0l_7MP3tNWlYJkXElW_6j0jG8S3PggRqEbzHVh9k8QaWBhr5qROH_CMcxImcMaJhGuS7wb-qQaPAa\
     -y_QZic8vYvii7Z7b60GeRlFIWnTxIEGfoaULcakuPJvdM02IL_5lX2FFQ7y8jLITb7OLFcQvTwP8Nnos-3KFeOqrFfSjlNaJSFD\
     NAY7NVX97HxuVLGEHFdQJtPwPPeSrTEBQyoQ16m2Cw";
/// Signed by it: issuer https://id.example, audience sostenuto, expires at second 2000.
const RSA_TOKEN: [&str; 3] = [
    "eyJhbGciOiJSUzI1NiIsImtpZCI6InIxIn0",
    "eyJpc3MiOiJodHRwczovL2lkLmV4YW1wbGUiLCJhdWQiOlsic29zdGVudXRvIl0sImV4cCI6MjAwMCwic3ViIjoicm9zYSIsImdy\
     b3VwcyI6InJlYWQgeCIsIm9yZyI6eyJ0ZW5hbnRzIjpbImEiLCJiIl19fQ",
    "TKnc93EElaSilhhefhcZUFCJpNdD1A52Bgo3Q5TZlEzOT5G-b5YR650SH54SrM4D6nEsUBfKwTZK4se-nWy10pItqnaylxbz9kdA\
     DtM8aQIl9xzM1xTMcY0VbzpkL18I7g3PdkVqLq81OoqYvLimTKbKSOy9v2PQb1ox2S7mnyLwM_XSc57ZGUolL5brLvH-q54WWVAR\
     sbGPwUImSNHVWKFD6Orzt7M0Dc-C85TnjYfyYaymVdeBTwfcgeW3KNL5lsGvYSjLNq0UunKdqDWfVmySvGFhbKzEns24aHYbjaLv\
     BfBMrS_BV5uhtJtybUqpZm0QQj12SqRVjo0cfwVsrw",
];

fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn settings(algorithms: &[Algorithm]) -> JwtSettings {
    JwtSettings {
        issuer: "https://id.example".to_owned(),
        audience: "sostenuto".to_owned(),
        keys: KeySource::Discovered,
        algorithms: algorithms.to_vec(),
        leeway: Duration::from_secs(30),
        tenant_claim: "org.tenants".to_owned(),
        role_claim: "groups".to_owned(),
        roles: BTreeMap::new(),
        refresh_interval: Duration::from_secs(300),
    }
}

/// Who shows the token at a second.
fn check(token: &str, keys: &KeySet, settings: &JwtSettings, now: u64) -> Result<Identity, String> {
    let shown = Shown::read(token, &settings.algorithms)?;
    match keys.verifies(&shown) {
        true => claims::identity(&shown.claims, settings, now),
        false => Err("signature".to_owned()),
    }
}

fn rsa_keys() -> KeySet {
    let keys = json!({ "keys": [
        { "kty": "OKP", "crv": "Ed25519", "x": "AAAA" },
        { "kty": "RSA", "kid": "r1", "use": "sig", "n": RSA_MODULUS, "e": "AQAB" },
    ] });
    KeySet::parse(keys.to_string().as_bytes()).unwrap()
}

#[test]
fn rs256_is_checked_to_the_last_bit() {
    let (keys, settings) = (rsa_keys(), settings(&[Algorithm::RS256, Algorithm::ES256]));
    let token = RSA_TOKEN.join(".");
    let identity = check(&token, &keys, &settings, 1_000).unwrap();
    assert_eq!((identity.name.as_str(), identity.by), ("rosa", "token"));
    assert_eq!(identity.roles, [Role::Read].into());
    assert_eq!(identity.tenants, Tenants::of(["a", "b"]).unwrap());
    let [header, claims, signature] = RSA_TOKEN;
    for damaged in [
        format!("{header}.{claims}."),
        format!("{header}.{}.{signature}", claims.replacen("eyJpc3Mi", "eyJpc3Ni", 1)),
        format!("{header}.{claims}.{}", signature.replacen(&signature[..1], if signature.starts_with('A') { "B" } else { "A" }, 1)),
        format!("{}.{claims}.{signature}", encode(r#"{"alg":"RS256","kid":"r2"}"#)),
        format!("{}.{claims}.{signature}", encode(r#"{"alg":"ES256","kid":"r1"}"#)),
        format!("{}.{claims}.", encode(r#"{"alg":"none"}"#)),
        format!("{}.{claims}.{signature}", encode(r#"{"alg":"RS256","crit":["b64"]}"#)),
        format!("{token}.x"),
        format!("{header}.{claims}"),
        format!("{header}.{claims}=.{signature}"),
        String::new(),
        "a.b.c".to_owned(),
    ] {
        assert!(check(&damaged, &keys, &settings, 1_000).is_err(), "{damaged}");
    }
}

#[test]
fn a_public_key_is_no_secret_of_hs256() {
    let message = format!("{}.{}", encode(r#"{"alg":"HS256","kid":"r1"}"#), RSA_TOKEN[1]);
    let signature = |secret: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
    let token = |secret: &[u8]| format!("{message}.{}", encode(signature(secret)));
    let modulus = BASE64_URL_SAFE_NO_PAD.decode(RSA_MODULUS).unwrap();
    let secret = b"0123456789abcdef0123456789abcdef";
    for secret in [modulus.as_slice(), RSA_MODULUS.as_bytes(), b""] {
        let forged = token(secret);
        assert!(check(&forged, &rsa_keys(), &settings(&[Algorithm::RS256]), 1_000).unwrap_err().contains("not taken"));
        assert!(check(&forged, &rsa_keys(), &settings(&[Algorithm::HS256]), 1_000).is_err());
    }
    let keys = KeySet::secret(b"0123456789abcdef0123456789abcdef\n").unwrap();
    assert!(check(&token(secret), &keys, &settings(&[Algorithm::HS256]), 1_000).is_ok());
    assert!(check(&token(b""), &keys, &settings(&[Algorithm::HS256]), 1_000).is_err());
    assert!(KeySet::secret(b"short").is_err());
    for algorithms in [&[Algorithm::RS256, Algorithm::HS256][..], &[]] {
        assert!(Tokens::open(settings(algorithms)).is_err(), "{algorithms:?}");
    }
}

/// Signs claims with a new key of P-256.
fn es256() -> (KeySet, impl Fn(&Value) -> String) {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap();
    let point = pair.public_key().as_ref();
    let key = json!({ "kty": "EC", "crv": "P-256", "x": encode(&point[1..33]), "y": encode(&point[33..]) });
    let keys = KeySet::parse(json!({ "keys": [key] }).to_string().as_bytes()).unwrap();
    let sign = move |claims: &Value| {
        let message = format!("{}.{}", encode(r#"{"alg":"ES256"}"#), encode(claims.to_string()));
        let signature = pair.sign(&random, message.as_bytes()).unwrap();
        format!("{message}.{}", encode(signature))
    };
    (keys, sign)
}

#[test]
fn claims_must_be_there_and_right() {
    let (keys, sign) = es256();
    let settings = settings(&[Algorithm::ES256]);
    let good = json!({ "iss": "https://id.example", "aud": "sostenuto", "exp": 2_000, "sub": "s", "groups": ["write"] });
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value,
        }
        sign(&claims)
    };
    let at = |now: u64, token: &str| check(token, &keys, &settings, now).map(|identity| identity.name);
    let good_token = sign(&good);
    assert_eq!(at(2_029, &good_token).as_deref(), Ok("s"), "within the leeway");
    assert!(at(2_030, &good_token).unwrap_err().contains("expired"));
    assert!(at(0, &with("nbf", json!(31))).unwrap_err().contains("nbf"));
    assert!(at(1, &with("nbf", json!(31))).is_ok());
    assert!(at(0, &with("aud", json!(["x", "sostenuto"]))).is_ok());
    for (name, value) in [
        ("iss", Value::Null),
        ("iss", json!("https://id.example/")),
        ("iss", json!(["https://id.example"])),
        ("aud", Value::Null),
        ("aud", json!("sostenuto x")),
        ("aud", json!([])),
        ("exp", Value::Null),
        ("exp", json!("2000")),
        ("nbf", json!("0")),
        ("org", json!({ "tenants": ["a", "../b"] })),
        ("org", json!({ "tenants": "*" })),
    ] {
        assert!(at(1_000, &with(name, value.clone())).is_err(), "{name}: {value}");
    }
    // Without claims there are no tenants and no roles.
    let nobody = check(&with("groups", Value::Null), &keys, &settings, 1_000).unwrap();
    assert_eq!((nobody.roles.len(), nobody.tenants), (0, Tenants::of([]).unwrap()));
    let other = es256().1(&good);
    assert!(at(1_000, &other).is_err(), "by another key");
}

#[test]
fn words_of_claims_become_roles_as_the_settings_say() {
    let (keys, sign) = es256();
    let claims = |groups: Value| {
        sign(&json!({ "iss": "https://id.example", "aud": "sostenuto", "exp": 2_000, "groups": groups }))
    };
    let mut settings = settings(&[Algorithm::ES256]);
    let roles = |settings: &JwtSettings, groups: Value| check(&claims(groups), &keys, settings, 0).unwrap().roles;
    assert_eq!(roles(&settings, json!("openid read write")), [Role::Read, Role::Write].into());
    assert_eq!(roles(&settings, json!(["admin", 7, "Read"])), [Role::Admin].into());
    settings.roles = [("trace viewers".to_owned(), Role::Read)].into();
    assert_eq!(roles(&settings, json!(["admin", "trace viewers"])), [Role::Read].into());
}

#[tokio::test]
async fn without_keys_nothing_is_decided() {
    let tokens = Tokens::open(settings(&[Algorithm::RS256])).unwrap();
    let undecided = tokens.identity(&RSA_TOKEN.join("."), 1_000).await.unwrap_err();
    assert!(matches!(undecided, Refusal::Undecided(_)), "{undecided:?}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    std::fs::write(&path, json!({ "keys": [{ "kty": "RSA", "n": RSA_MODULUS, "e": "AQAB" }] }).to_string()).unwrap();
    let tokens = Tokens::open(JwtSettings { keys: KeySource::File(path), ..settings(&[Algorithm::RS256]) }).unwrap();
    let identity: Arc<Identity> = tokens.identity(&RSA_TOKEN.join("."), 1_000).await.unwrap();
    assert_eq!(identity.name, "rosa");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_token_with_one_other_character_is_refused(place in any::<prop::sample::Index>(), other in "[A-Za-z0-9_.=-]") {
        let token = RSA_TOKEN.join(".");
        let place = place.index(token.len());
        prop_assume!(token[place..=place] != other);
        let changed = format!("{}{other}{}", &token[..place], &token[place + 1..]);
        prop_assert!(check(&changed, &rsa_keys(), &settings(&[Algorithm::RS256]), 1_000).is_err(), "{}", changed);
    }

    #[test]
    fn no_text_is_a_token(text in "\\PC{0,200}", claims in "\\PC{0,100}") {
        let settings = settings(&[Algorithm::RS256, Algorithm::ES256]);
        prop_assert!(check(&text, &rsa_keys(), &settings, 1_000).is_err());
        let framed = format!("{}.{}.{}", RSA_TOKEN[0], encode(&claims), RSA_TOKEN[2]);
        prop_assert!(check(&framed, &rsa_keys(), &settings, 1_000).is_err());
    }
}
