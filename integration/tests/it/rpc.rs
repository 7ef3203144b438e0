//! Methods of gRPC, called with nothing but HTTP/2.

use prost::Message;
use reqwest::{Client, header};

/// A client that speaks HTTP/2 without TLS.
pub fn plain() -> Client {
    Client::builder().no_proxy().http2_prior_knowledge().build().unwrap()
}

/// Calls a method, such as `/package.Service/Method` below `base`; its messages, or the code of its failure. `tenant` may be
/// empty.
pub async fn call<A: Message + Default>(
    client: &Client,
    base: &str,
    method: &str,
    tenant: &str,
    asked: &impl Message,
) -> Result<Vec<A>, String> {
    let message = asked.encode_to_vec();
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    body.extend(message);
    let post = client.post(format!("{base}{method}")).header(header::CONTENT_TYPE, "application/grpc").header(header::TE, "trailers");
    let post = if tenant.is_empty() { post } else { post.header("x-scope-orgid", tenant) };
    let answer = post.body(body).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, reqwest::Version::HTTP_2), "{base}{method}");
    // A call that fails before its first message says so in the head.
    if let Some(code) = answer.headers().get("grpc-status").filter(|code| *code != "0") {
        return Err(code.to_str().unwrap().to_owned());
    }
    let body = answer.bytes().await.unwrap();
    let (mut rest, mut messages) = (body.as_ref(), vec![]);
    while let Some((head, after)) = rest.split_first_chunk::<5>() {
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        messages.push(A::decode(&after[..length]).unwrap());
        rest = &after[length..];
    }
    assert!(rest.is_empty(), "half a message");
    Ok(messages)
}
