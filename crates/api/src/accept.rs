//! Which form of an answer a client asks for.

use http::{HeaderMap, header};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Protobuf,
    Json,
    /// Short JSON for language models.
    Llm,
}

impl Form {
    pub const PROTOBUF: &str = "application/protobuf";
    pub const JSON: &str = "application/json";
    pub const LLM: &str = "application/vnd.grafana.llm+json";

    /// As Tempo does, looks for the words in a fixed order and knows no weights; JSON if there is none.
    pub fn of(headers: &HeaderMap) -> Self {
        let accepts = |word: &str| {
            headers.get_all(header::ACCEPT).iter().any(|value| value.to_str().is_ok_and(|text| text.contains(word)))
        };
        if accepts("application/protobuf") {
            Self::Protobuf
        } else if accepts("application/json") {
            Self::Json
        } else if accepts("application/vnd.grafana.llm") {
            Self::Llm
        } else {
            Self::Json
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn protobuf_wins_over_json_over_llm() {
        let check = |accept: Option<&'static str>, form: Form| {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            }
            assert_eq!(Form::of(&headers), form, "{accept:?}");
        };
        check(None, Form::Json);
        check(Some("*/*"), Form::Json);
        check(Some("text/html"), Form::Json);
        check(Some("application/json, application/protobuf;q=0.1"), Form::Protobuf);
        check(Some("application/vnd.grafana.llm, application/json"), Form::Json);
        check(Some("application/vnd.grafana.llm"), Form::Llm);
    }
}
