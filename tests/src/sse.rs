//! What an OpenAI-style answer says, streamed or not.

use serde_json::Value;

/// The content of one answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// SSE events with data, `[DONE]` among them.
    pub events: u64,
    /// Those that carry text.
    pub token_events: u64,
    pub prompt_tokens: Option<u64>,
    pub output_tokens: Option<u64>,
    pub finish_reason: Option<String>,
    pub model: Option<String>,
    /// `[DONE]` came, or the JSON was whole.
    pub done: bool,
    pub error: bool,
    pending: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
}

impl Answer {
    /// Outcome of an answer that is whole.
    pub fn outcome(&self, status: Option<u16>) -> &'static str {
        match status {
            None => "server_disconnect",
            Some(400..) => "http_error",
            Some(_) if self.error => "stream_error",
            Some(_) => "success",
        }
    }

    /// The next piece of a `text/event-stream` body.
    pub fn push_stream(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
        let mut pending = std::mem::take(&mut self.pending);
        let mut start = 0;
        while let Some(len) = memchr::memchr(b'\n', &pending[start..]) {
            let line = &pending[start..start + len];
            self.line(line.strip_suffix(b"\r").unwrap_or(line));
            start += len + 1;
        }
        pending.drain(..start);
        self.pending = pending;
    }

    /// The next piece of a JSON body.
    pub fn push_json(&mut self, bytes: &[u8], last: bool) {
        self.pending.extend_from_slice(bytes);
        if last {
            let bytes = std::mem::take(&mut self.pending);
            if let Ok(value) = serde_json::from_slice(&bytes) {
                self.done = true;
                self.object(&value);
            }
        }
    }

    fn line(&mut self, line: &[u8]) {
        if let Some(data) = line.strip_prefix(b"data:") {
            if self.has_data {
                self.data.push(b'\n');
            }
            self.has_data = true;
            self.data.extend_from_slice(data.strip_prefix(b" ").unwrap_or(data));
        } else if line.is_empty() && self.has_data {
            let data = std::mem::take(&mut self.data);
            self.has_data = false;
            self.events += 1;
            if data == b"[DONE]" {
                self.done = true;
            } else if let Ok(value) = serde_json::from_slice::<Value>(&data) {
                if has_tokens(&value) {
                    self.token_events += 1;
                }
                self.object(&value);
            } else {
                panic!("not JSON: {}", String::from_utf8_lossy(&data));
            }
        }
    }

    fn object(&mut self, value: &Value) {
        self.error |= value.get("error").is_some_and(|error| !error.is_null());
        // llama.cpp says it in `timings` where `usage` was not asked for; what came from its cache
        // is a part of the prompt there.
        let timings = &value["timings"];
        if self.prompt_tokens.is_none()
            && let (Some(new), Some(cached)) =
                (timings["prompt_n"].as_u64(), timings["cache_n"].as_u64())
        {
            self.prompt_tokens = Some(new + cached);
        }
        let usage = &value["usage"];
        if let Some(n) = usage["prompt_tokens"].as_u64() {
            self.prompt_tokens = Some(n);
        }
        if let Some(n) = usage["completion_tokens"].as_u64() {
            self.output_tokens = Some(n);
        }
        if let Some(model) = value["model"].as_str() {
            self.model = Some(model.to_owned());
        }
        if let Some(reason) = value["choices"][0]["finish_reason"].as_str() {
            self.finish_reason = Some(reason.to_owned());
        }
    }
}

/// The token-bearing test of the project's definitions.
fn has_tokens(value: &Value) -> bool {
    let text = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
    value["choices"].as_array().is_some_and(|choices| {
        choices.iter().any(|choice| {
            let delta = &choice["delta"];
            text(&choice["text"])
                || ["content", "reasoning_content", "reasoning", "refusal"]
                    .iter()
                    .any(|key| text(&delta[key]))
                || delta["tool_calls"].as_array().is_some_and(|calls| {
                    calls.iter().any(|call| {
                        text(&call["function"]["name"]) || text(&call["function"]["arguments"])
                    })
                })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_split_of_a_stream_is_the_same() {
        let text = concat!(
            ": ping\n\n",
            "data: {\"model\":\"m\",\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\r\n\r\n",
            "data: {\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\n\n",
            "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
            "data:{\"choices\":[],\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":1}}\n\n",
            "data: [DONE]\n\n",
        );
        for split in 0..text.len() {
            let mut answer = Answer::default();
            answer.push_stream(&text.as_bytes()[..split]);
            answer.push_stream(&text.as_bytes()[split..]);
            assert_eq!((answer.events, answer.token_events), (5, 1));
            assert_eq!(answer.prompt_tokens, Some(4));
            assert_eq!(answer.output_tokens, Some(1));
            assert_eq!(answer.finish_reason.as_deref(), Some("stop"));
            assert!(answer.done && !answer.error);
            assert_eq!(answer.outcome(Some(200)), "success");
        }
    }
}
