//! Text of prompts and answers, kept only if somebody asked for it.

use super::json::unescape;

/// Most bytes that are kept of a prompt, and of an answer.
pub const MAX_PAYLOAD: usize = 64 * 1024;

/// What was said in an exchange.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    /// The request's body.
    pub prompt: Text,
    /// Of a stream, the text of its first choice; of any other response, its body.
    pub completion: Text,
}

/// The beginning of a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text {
    pub bytes: Vec<u8>,
    /// There was more.
    pub truncated: bool,
}

impl Text {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let room = MAX_PAYLOAD - self.bytes.len();
        self.truncated |= bytes.len() > room;
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// The inside of a JSON string. An escape that is split among two events stays as it is.
    pub(super) fn push_json(&mut self, raw: &[u8]) {
        if raw.contains(&b'\\') {
            // No escape stands for more bytes than it has.
            self.push(unescape(raw, raw.len()).as_bytes());
        } else {
            self.push(raw);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_at_the_limit() {
        let mut text = Text::default();
        text.push_json(br"a\nb\u0041");
        assert_eq!(text, Text { bytes: b"a\nbA".to_vec(), truncated: false });
        for _ in 0..100 {
            text.push(&[b'x'; 1_000]);
        }
        assert_eq!((text.bytes.len(), text.truncated), (MAX_PAYLOAD, true));
    }
}
