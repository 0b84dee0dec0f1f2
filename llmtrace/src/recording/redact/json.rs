//! JSON of which only what measures an exchange stays: keys, numbers, names of models, reasons.
//!
//! What stays is listed, not what goes: a string under a key that is not in the list is filled,
//! and an object or array under such a key is filled whole, keys and numbers too. Byte for byte,
//! so a text may come in any pieces, and keeps its length and stays JSON.

use super::FILLER;

/// Longest key that is kept and can be in the lists.
const MAX_KEY: usize = 32;
/// Longest string that is kept; the rest of a longer one is filled.
const MAX_KEPT: usize = 256;
/// Deepest level at which anything is kept.
const MAX_LEVEL: usize = 16;

/// Keys whose strings stay.
const KEPT: &[&[u8]] = &[
    b"adapter_id",
    b"blockReason",
    b"code",
    b"completionReason",
    b"created_at",
    b"done_reason",
    b"encoding_format",
    b"error_type",
    b"event",
    b"finishReason",
    b"finish_reason",
    b"id",
    b"lora_path",
    b"model",
    b"modelVersion",
    b"model_name",
    b"model_version",
    b"object",
    b"reason",
    b"responseId",
    b"response_id",
    b"role",
    b"service_tier",
    b"status",
    b"stopReason",
    b"stop_reason",
    b"stop_type",
    b"system_fingerprint",
    b"type",
];

/// Keys whose objects and arrays are looked into.
const OPEN: &[&[u8]] = &[
    b"amazon-bedrock-invocationMetrics",
    b"billed_units",
    b"candidates",
    b"choices",
    b"completion_tokens_details",
    b"content",
    b"content_block",
    b"data",
    b"delta",
    b"details",
    b"error",
    b"finish_reason",
    b"function",
    b"function_call",
    b"generationConfig",
    b"generation_config",
    b"incomplete_details",
    b"inferenceConfig",
    b"input_token_details",
    b"input_tokens_details",
    b"item",
    b"lora",
    b"message",
    b"meta",
    b"meta_info",
    b"metrics",
    b"options",
    b"output",
    b"output_tokens_details",
    b"outputs",
    b"parameters",
    b"part",
    b"parts",
    b"promptFeedback",
    b"prompt_progress",
    b"prompt_tokens_details",
    b"response",
    b"results",
    b"sampling_params",
    b"session",
    b"status_details",
    b"stream_options",
    b"textGenerationConfig",
    b"timings",
    b"token",
    b"tokens",
    b"toolConfig",
    b"tool_calls",
    b"usage",
    b"usageMetadata",
    b"usage_metadata",
];

/// What a key says of its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Class {
    /// A string stays.
    kept: bool,
    /// An object or array is looked into.
    open: bool,
}

const ROOT: Class = Class { kept: false, open: true };

impl Class {
    fn of(key: &[u8]) -> Self {
        let has = |list: &[&[u8]]| list.binary_search(&key).is_ok();
        Self { kept: has(KEPT), open: has(OPEN) }
    }
}

#[derive(Clone, Copy, Debug)]
struct Level {
    array: bool,
    /// Of an array's elements.
    class: Class,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A value comes.
    Value,
    /// A key or the end of an object comes.
    Key,
    InKey {
        escaped: bool,
    },
    Colon,
    InString {
        escaped: bool,
    },
    InNumber,
    /// So many letters of a literal came.
    InLiteral(&'static [u8], u8),
    /// After a value.
    After,
    /// Not JSON: everything is filled.
    Broken,
}

#[derive(Clone, Debug)]
pub struct Json {
    state: State,
    levels: [Level; MAX_LEVEL],
    depth: usize,
    /// Open containers that are filled whole.
    hidden: u32,
    class: Class,
    key: [u8; MAX_KEY],
    key_len: usize,
    string_len: usize,
    /// The end marker of an event stream is allowed.
    done: bool,
}

impl Json {
    pub fn new(done: bool) -> Self {
        Self {
            state: State::Value,
            levels: [Level { array: false, class: ROOT }; MAX_LEVEL],
            depth: 0,
            hidden: 0,
            class: ROOT,
            key: [0; MAX_KEY],
            key_len: 0,
            string_len: 0,
            done,
        }
    }

    /// A new text begins.
    pub fn reset(&mut self) {
        *self = Self::new(self.done);
    }

    /// Redacts bytes where they are.
    pub fn redact(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let plain = match self.state {
                State::Broken => bytes.len(),
                // What is not kept is the same up to the next quote or escape.
                State::InString { escaped: false } if self.hidden > 0 || !self.class.kept => {
                    memchr::memchr2(b'"', b'\\', bytes).unwrap_or(bytes.len())
                }
                _ => {
                    bytes[0] = self.byte(bytes[0]);
                    bytes = &mut bytes[1..];
                    continue;
                }
            };
            bytes[..plain].fill(FILLER);
            bytes = &mut bytes[plain..];
            if let Some(next) = bytes.first_mut() {
                *next = self.byte(*next);
                bytes = &mut bytes[1..];
            }
        }
    }

    /// The byte to put in the place of the next one.
    #[inline]
    pub fn byte(&mut self, b: u8) -> u8 {
        match self.state {
            State::Broken => FILLER,
            State::InString { escaped } => self.in_string(b, escaped),
            State::InKey { escaped } => self.in_key(b, escaped),
            State::InNumber => match b {
                b'0'..=b'9' if self.hidden > 0 => b'1',
                b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E' => b,
                _ => {
                    self.value_over();
                    self.structural(b)
                }
            },
            State::InLiteral(word, at) => match word.get(usize::from(at)) {
                Some(&expected) if expected == b => {
                    self.state = State::InLiteral(word, at + 1);
                    b
                }
                None => {
                    self.value_over();
                    self.structural(b)
                }
                Some(_) => self.broken(),
            },
            State::Value | State::Key | State::Colon | State::After => self.structural(b),
        }
    }

    fn broken(&mut self) -> u8 {
        self.state = State::Broken;
        FILLER
    }

    fn in_string(&mut self, b: u8, escaped: bool) -> u8 {
        if b == b'"' && !escaped {
            self.value_over();
            return b;
        }
        self.state = State::InString { escaped: b == b'\\' && !escaped };
        self.string_len += 1;
        let kept = self.hidden == 0 && self.class.kept && self.string_len <= MAX_KEPT;
        // An escape that the limit cuts would leave a lone backslash before the closing quote.
        if kept && !(self.string_len == MAX_KEPT && b == b'\\') { b } else { FILLER }
    }

    fn in_key(&mut self, b: u8, escaped: bool) -> u8 {
        if b == b'"' && !escaped {
            if self.hidden == 0 {
                self.class = Class::of(&self.key[..self.key_len.min(MAX_KEY)]);
                if self.key_len > MAX_KEY {
                    self.class = Class { kept: false, open: false };
                }
            }
            self.state = State::Colon;
            return b;
        }
        self.state = State::InKey { escaped: b == b'\\' && !escaped };
        if let Some(place) = self.key.get_mut(self.key_len) {
            *place = b;
        }
        self.key_len = (self.key_len + 1).min(MAX_KEY + 1);
        // Keys of the APIs are plain words.
        let plain = b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
        if self.key_len <= MAX_KEY && plain { b } else { FILLER }
    }

    fn structural(&mut self, b: u8) -> u8 {
        if matches!(b, b' ' | b'\t' | b'\r' | b'\n') {
            return b;
        }
        if self.hidden > 0 {
            return self.hidden(b);
        }
        match (self.state, b) {
            (State::Value, b'"') => {
                self.string_len = 0;
                self.state = State::InString { escaped: false };
            }
            (State::Value, b'{' | b'[') => self.enter(b == b'['),
            (State::Value, b'-' | b'0'..=b'9') => self.state = State::InNumber,
            (State::Value, b't') => self.state = State::InLiteral(b"rue", 0),
            (State::Value, b'f') => self.state = State::InLiteral(b"alse", 0),
            (State::Value, b'n') => self.state = State::InLiteral(b"ull", 0),
            (State::Value, b'D') if self.done && self.depth == 1 && self.in_array() => {
                self.state = State::InLiteral(b"ONE", 0);
            }
            (State::Value | State::After, b']') if self.depth > 0 && self.in_array() => {
                self.leave();
            }
            (State::Key | State::After, b'}') if self.depth > 0 && !self.in_array() => {
                self.leave();
            }
            (State::Key, b'"') => {
                self.key_len = 0;
                self.state = State::InKey { escaped: false };
            }
            (State::Colon, b':') => self.state = State::Value,
            (State::After, b',') if self.depth > 0 => {
                self.state = if self.in_array() { State::Value } else { State::Key };
            }
            _ => return self.broken(),
        }
        b
    }

    /// Inside a container that is filled whole: all strings are alike, only depth counts.
    fn hidden(&mut self, b: u8) -> u8 {
        match b {
            b'{' | b'[' => self.hidden = self.hidden.saturating_add(1),
            b'}' | b']' => {
                self.hidden -= 1;
                if self.hidden == 0 {
                    self.value_over();
                    return b;
                }
            }
            b'"' => {
                self.state = State::InString { escaped: false };
                return b;
            }
            b',' | b':' => {}
            b'-' | b'0'..=b'9' => {
                self.state = State::InNumber;
                return if b == b'-' { b } else { b'1' };
            }
            b't' => {
                self.state = State::InLiteral(b"rue", 0);
                return b;
            }
            b'f' => {
                self.state = State::InLiteral(b"alse", 0);
                return b;
            }
            b'n' => {
                self.state = State::InLiteral(b"ull", 0);
                return b;
            }
            _ => return self.broken(),
        }
        self.state = State::Value;
        b
    }

    fn in_array(&self) -> bool {
        self.depth.checked_sub(1).is_some_and(|top| self.levels[top].array)
    }

    fn enter(&mut self, array: bool) {
        if !self.class.open || self.depth == MAX_LEVEL {
            self.hidden = 1;
            self.state = State::Value;
            return;
        }
        self.levels[self.depth] = Level { array, class: self.class };
        self.depth += 1;
        self.state = if array { State::Value } else { State::Key };
    }

    fn leave(&mut self) {
        self.depth -= 1;
        self.value_over();
    }

    fn value_over(&mut self) {
        if self.hidden > 0 {
            self.state = State::Value;
            return;
        }
        match self.depth.checked_sub(1) {
            Some(top) => {
                self.state = State::After;
                // The next element is as this one was.
                self.class = self.levels[top].class;
            }
            // Another text may follow, as in NDJSON.
            None => {
                self.state = State::Value;
                self.class = ROOT;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redact(text: &str) -> String {
        let mut json = Json::new(true);
        let bytes: Vec<u8> = text.bytes().map(|b| json.byte(b)).collect();
        let mut whole = text.as_bytes().to_vec();
        Json::new(true).redact(&mut whole);
        assert_eq!(whole, bytes);
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn the_lists_are_sorted() {
        assert!(KEPT.is_sorted() && OPEN.is_sorted());
        assert!(KEPT.iter().chain(OPEN).all(|key| key.len() <= MAX_KEY));
    }

    #[test]
    fn what_measures_stays() {
        for (text, expected) in [
            (
                r#"{"model":"m","messages":[{"role":"user","content":"secret \"q\" \\"}],"n":12,"stop":["END"],"user":"Jo"}"#,
                r#"{"model":"m","messages":[{"xxxx":"xxxx","xxxxxxx":"xxxxxxxxxxxxxxx"}],"n":12,"stop":["xxx"],"user":"xx"}"#,
            ),
            (
                r#"{"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null,"token_ids":[12,-3.5e7,true]}]}"#,
                r#"{"choices":[{"index":0,"delta":{"content":"xx"},"finish_reason":null,"token_ids":[11,-1.1e1,true]}]}"#,
            ),
            (
                r#"{"error":{"message":"bad prompt","type":"E","code":400},"usage":{"prompt_tokens":9}}"#,
                r#"{"error":{"message":"xxxxxxxxxx","type":"E","code":400},"usage":{"prompt_tokens":9}}"#,
            ),
            (
                r#"{"delta":{"tool_calls":[{"id":"c","function":{"name":"f","arguments":"{\"city\":1}"}}]}}"#,
                r#"{"delta":{"tool_calls":[{"id":"c","function":{"name":"x","arguments":"xxxxxxxxxxxx"}}]}}"#,
            ),
            ("[DONE]", "[DONE]"),
            ("[DOGS]", "[DOxxx"),
            ("{\"a\":1}\n{\"b\":\"c\"}\n", "{\"a\":1}\n{\"b\":\"x\"}\n"),
            ("plain text", "xxxxxxxxxx"),
            (r#""bare""#, r#""xxxx""#),
            (r#"{"model":nothing of it"#, r#"{"model":nxxxxxxxxxxxx"#),
            (
                r#"{"input":{"a":{"model":"b"}},"model":"c"}"#,
                r#"{"input":{"x":{"xxxxx":"x"}},"model":"c"}"#,
            ),
        ] {
            assert_eq!(redact(text), expected);
        }
    }

    #[test]
    fn it_stays_json() {
        let text =
            r#"{"a":{"b":[1,2,{"c":"é\u00e9\n"}],"d":-0.5},"e":[[],{}],"model":"\u0041","x":""}"#;
        let before: serde_json::Value = serde_json::from_str(text).unwrap();
        let after: serde_json::Value = serde_json::from_str(&redact(text)).unwrap();
        assert_eq!(before["model"], after["model"]);
        assert_eq!(after["x"], "");
        assert_eq!(redact(text).len(), text.len());
    }
}
