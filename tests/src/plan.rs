//! What a request asks of the test servers, and the request bodies that say so.
//!
//! Every test application here (Rust, Python, Node) understands the same `test` object beside the
//! API's own fields; a real LLM server ignores it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// The `test` object of a request body. A field left out means: behave well.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Plan {
    /// Answer with this status and a JSON error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Wait before the first token; the head and the role chunk go out at once.
    #[serde(skip_serializing_if = "is_zero")]
    pub first_delay_ms: u64,
    /// Time between tokens.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval_us: u64,
    /// After that many tokens: an error event, then `[DONE]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_after: Option<u64>,
    /// After that many tokens: nothing more until the client leaves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hang_after: Option<u64>,
    /// After that many tokens: close the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drop_after: Option<u64>,
    /// Rust server only: cut the response into writes of that many bytes.
    #[serde(skip_serializing_if = "is_zero")]
    pub write_bytes: u64,
    /// Rust server only: that many events in one `writev`, four segments each.
    #[serde(skip_serializing_if = "is_zero")]
    pub batch: u64,
    /// Rust server only: the event of that token (from 0) goes out by `sendfile`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sendfile: Option<u64>,
    /// Rust server only: the same by `splice` from a pipe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub splice: Option<u64>,
    /// Rust server only: after that many tokens `shutdown(SHUT_WR)`; the connection stays open until
    /// the client leaves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shut_after: Option<u64>,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// A request to an OpenAI-compatible server.
#[derive(Clone, Debug)]
pub struct Ask {
    pub model: String,
    pub prompt: String,
    pub max_tokens: u64,
    pub stream: bool,
    pub include_usage: bool,
    /// `/v1/completions` instead of `/v1/chat/completions`.
    pub completions: bool,
    pub plan: Plan,
}

impl Default for Ask {
    fn default() -> Self {
        Self {
            model: "tiny".into(),
            prompt: "Say something.".into(),
            max_tokens: 16,
            stream: true,
            include_usage: true,
            completions: false,
            plan: Plan::default(),
        }
    }
}

impl Ask {
    pub fn path(&self) -> &'static str {
        if self.completions { "/v1/completions" } else { "/v1/chat/completions" }
    }

    /// The body. As the OpenAI SDK for Python does it, the prompt comes before the other keys and
    /// `model` last.
    pub fn body(&self) -> Vec<u8> {
        let mut head = Map::new();
        if self.completions {
            head.insert("prompt".into(), json!(self.prompt));
        } else {
            let messages = json!([{"role": "user", "content": self.prompt}]);
            head.insert("messages".into(), messages);
        }
        let mut rest = Map::new();
        rest.insert("max_tokens".into(), json!(self.max_tokens));
        rest.insert("stream".into(), json!(self.stream));
        if self.stream && self.include_usage {
            rest.insert("stream_options".into(), json!({"include_usage": true}));
        }
        if self.plan != Plan::default() {
            rest.insert("test".into(), json!(self.plan));
        }
        // serde_json sorts keys: the order that matters is made by hand.
        let head = Value::Object(head).to_string();
        let rest = Value::Object(rest).to_string();
        let model = json!(self.model);
        format!("{},{},\"model\":{model}}}", &head[..head.len() - 1], &rest[1..rest.len() - 1])
            .into_bytes()
    }
}

/// What the Rust test server reads of a body.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Asked {
    pub model: String,
    pub max_tokens: u64,
    pub stream: bool,
    pub stream_options: Option<StreamOptions>,
    pub test: Plan,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct StreamOptions {
    pub include_usage: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_reads_back_and_ends_with_the_model() {
        let ask = Ask { plan: Plan { error_after: Some(3), ..Plan::default() }, ..Ask::default() };
        let body = String::from_utf8(ask.body()).unwrap();
        assert!(body.ends_with("\"model\":\"tiny\"}"), "{body}");
        let asked: Asked = serde_json::from_str(&body).unwrap();
        assert_eq!((asked.max_tokens, asked.stream, asked.test), (16, true, ask.plan));
        assert!(asked.stream_options.unwrap().include_usage);
    }
}
