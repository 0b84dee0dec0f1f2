//! Label values. Whatever comes from the wire is limited here: in length, in characters and in
//! how many there are.

use std::collections::HashSet;
use std::sync::Arc;

use crate::llm::{MAX_LABEL, Outcome, Phase, Role, TokenSource};

/// Most models that get a label of their own.
pub const MAX_MODELS: usize = 100;
/// Most servers that get a label of their own.
pub const MAX_SERVERS: usize = 1_000;
/// Longest label value, in bytes: that of a server.
pub const MAX_VALUE: usize = MAX_LABEL;
/// What has no label of its own.
pub const OTHER: &str = "other";

pub(super) const METHODS: &[&str] = &["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"];

/// What servers are known to say, in lower case.
pub(super) const FINISH_REASONS: &[&str] = &[
    "stop",
    "length",
    "tool_calls",
    "content_filter",
    "function_call",
    "abort",
    "error",
    "eos",
    "eos_token",
    "limit",
    "word",
    "stop_sequence",
    "end_turn",
    "max_tokens",
    "max_output_tokens",
    "tool_use",
    "tool_call",
    "pause_turn",
    "refusal",
    "complete",
    "completed",
    "safety",
    "recitation",
    "malformed_function_call",
    "load",
    "unload",
    "matched_token",
    "matched_string",
    "timeout",
    "repetition",
    "cancelled",
    "prohibited_content",
    "blocklist",
    "spii",
    "language",
    "guardrail_intervened",
    "content_filtered",
    "finish",
    "model_context_window_exceeded",
];

/// As the `role` label has it.
pub fn role(role: Role) -> &'static str {
    match role {
        Role::Server => "server",
        Role::Client => "client",
    }
}

/// As the `outcome` label has it.
pub fn outcome(outcome: Outcome) -> &'static str {
    outcome.name()
}

/// How far a response had come when its client left.
pub fn phase(outcome: Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::ClientDisconnect(Phase::BeforeFirstToken) => Some("before_first_token"),
        Outcome::ClientDisconnect(Phase::MidStream) => Some("mid_stream"),
        _ => None,
    }
}

/// As the `source` label has it.
pub fn source(source: TokenSource) -> &'static str {
    match source {
        TokenSource::Usage => "usage",
        TokenSource::Events => "events",
    }
}

fn listed(list: &[&'static str], value: &str) -> &'static str {
    list.iter().find(|v| v.eq_ignore_ascii_case(value)).copied().unwrap_or(OTHER)
}

pub(super) fn method(value: &str) -> &'static str {
    listed(METHODS, value)
}

pub(super) fn finish_reason(value: &str) -> &'static str {
    listed(FINISH_REASONS, value)
}

/// A value without control characters, at most [`MAX_VALUE`] bytes long.
pub(super) fn clean(value: &str) -> Arc<str> {
    let short = &value[..value.floor_char_boundary(MAX_VALUE)];
    if !short.contains(char::is_control) {
        return short.into();
    }
    // One byte for at least one byte: no longer than before.
    short.replace(char::is_control, "?").into()
}

/// A set that stops growing.
#[derive(Debug)]
pub(super) struct Capped {
    known: HashSet<Arc<str>>,
    cap: usize,
    other: Arc<str>,
    none: Arc<str>,
}

impl Capped {
    pub(super) fn new(cap: usize) -> Self {
        Self { known: HashSet::new(), cap, other: OTHER.into(), none: "".into() }
    }

    /// The label of `value`, which is from now on known if there is room.
    pub(super) fn learn(&mut self, value: &str) -> Arc<str> {
        if value.is_empty() {
            return self.none.clone();
        }
        if let Some(known) = self.known.get(value) {
            return known.clone();
        }
        let value = clean(value);
        if let Some(known) = self.known.get(&value) {
            return known.clone();
        }
        if self.known.len() >= self.cap {
            return self.other.clone();
        }
        self.known.insert(value.clone());
        value
    }

    /// The label of `value` if it is known, else none.
    pub(super) fn look_up(&self, value: &str) -> Arc<str> {
        let known = self.known.get(value).or_else(|| self.known.get(&clean(value)));
        known.unwrap_or(&self.none).clone()
    }

    /// Forgets what is not in `used`.
    pub(super) fn retain(&mut self, used: &HashSet<Arc<str>>) {
        self.known.retain(|known| used.contains(known));
    }

    pub(super) fn other(&self) -> Arc<str> {
        self.other.clone()
    }

    pub(super) fn none(&self) -> Arc<str> {
        self.none.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_values() {
        let mut set = Capped::new(2);
        assert_eq!(&*set.learn("a\nb\u{7f}\u{85}"), "a?b??");
        assert_eq!(&*set.look_up("a\nb\u{7f}\u{85}"), "a?b??");
        let long = set.learn(&"\u{e9}".repeat(200));
        assert_eq!(long.len(), MAX_VALUE);
        assert_eq!(&*set.learn("third"), OTHER);
        assert_eq!(&*set.look_up("third"), "");
        assert_eq!(&*set.learn(""), "");
    }

    #[test]
    fn lists() {
        assert_eq!(method("POST"), "POST");
        assert_eq!(method("PROPFIND"), OTHER);
        assert_eq!(finish_reason("STOP"), "stop");
        assert_eq!(finish_reason("because"), OTHER);
    }
}
