//! What an event, or a whole response, says.

use crate::llm::json::stream::{Node, Value};
use crate::llm::outcome::Usage;

/// What one event says of one choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Choice<'a> {
    pub index: u32,
    /// The event bears tokens of this choice.
    pub tokens: bool,
    /// How many, if the event says so itself.
    pub count: Option<u32>,
    /// Why the choice ended, escapes and all.
    pub finish: Option<&'a [u8]>,
    /// The text that the event adds, escapes and all; the last piece if it has several.
    pub text: &'a [u8],
    /// The text is all that there is so far.
    pub text_so_far: bool,
}

/// What one event says besides its choices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts<'a> {
    /// Escapes and all.
    pub model: Option<&'a [u8]>,
    /// Counts so far, of the one choice that the event has, or of all if it has none.
    pub usage: Option<Usage>,
    /// The counts are those of all choices, whatever the event has.
    pub of_all: bool,
    /// Texts are all that there is so far: only a count that grew tells new tokens.
    pub cumulative: bool,
    /// Counts of a kind that is only used if there are no others.
    pub fallback: Option<Usage>,
    pub error: bool,
    /// The end marker.
    pub done: bool,
}

/// What a value of a response means. A node of this list may stand at the end of many paths.
pub mod say {
    use crate::llm::json::stream::Node;
    pub const MODEL: Node = 1;
    /// Generated text, or an argument of a call: a string that is not empty bears tokens.
    pub const TEXT: Node = 2;
    /// A value whose presence bears tokens.
    pub const TOKENS: Node = 3;
    pub const FINISH: Node = 4;
    /// An error, unless null, false or empty.
    pub const ERROR: Node = 5;
    /// `true` is the end marker.
    pub const DONE: Node = 6;
    /// The event's own type, for `Api::event_end`.
    pub const KIND: Node = 7;
    pub const INDEX: Node = 8;
    /// An object or array of a choice, in a response that may have several: its end ends the choice.
    pub const CHOICE: Node = 9;

    /// Prompt tokens, those from a cache included.
    pub const PROMPT: Node = 20;
    /// Prompt tokens, without those from a cache.
    pub const FRESH: Node = 21;
    /// Prompt tokens from a cache.
    pub const CACHED: Node = 22;
    /// Prompt tokens that were written to a cache, counted apart.
    pub const WRITTEN: Node = 23;
    /// Output tokens, reasoning included.
    pub const OUTPUT: Node = 24;
    /// Output tokens, without reasoning.
    pub const ANSWER: Node = 25;
    pub const REASONING: Node = 26;
    /// The same three from a second source, used where the first says nothing.
    pub const TIMED_FRESH: Node = 27;
    pub const TIMED_CACHED: Node = 28;
    pub const TIMED_OUTPUT: Node = 29;
}

/// Token counts as the wire has them, before they are made to mean the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub prompt: Option<u64>,
    pub fresh: Option<u64>,
    pub cached: Option<u64>,
    pub written: Option<u64>,
    pub output: Option<u64>,
    pub answer: Option<u64>,
    pub reasoning: Option<u64>,
    pub timed_fresh: Option<u64>,
    pub timed_cached: Option<u64>,
    pub timed_output: Option<u64>,
}

impl Counts {
    /// What is unknown here, as `other` says.
    pub fn or(self, other: Self) -> Self {
        Self {
            prompt: self.prompt.or(other.prompt),
            fresh: self.fresh.or(other.fresh),
            cached: self.cached.or(other.cached),
            written: self.written.or(other.written),
            output: self.output.or(other.output),
            answer: self.answer.or(other.answer),
            reasoning: self.reasoning.or(other.reasoning),
            timed_fresh: self.timed_fresh.or(other.timed_fresh),
            timed_cached: self.timed_cached.or(other.timed_cached),
            timed_output: self.timed_output.or(other.timed_output),
        }
    }

    pub fn has_output(&self) -> bool {
        self.output.or(self.answer).or(self.timed_output).is_some()
    }

    /// As the project defines them: the prompt includes what came from a cache, the output includes
    /// reasoning.
    pub fn usage(&self) -> Usage {
        let more = |n: u64, more: Option<u64>| n.saturating_add(more.unwrap_or(0));
        let cached = self.cached.or(self.timed_cached);
        let whole = |n| more(more(n, cached), self.written);
        let answer = |n| more(n, self.reasoning);
        let timed = |n| more(n, self.timed_cached);
        Usage {
            prompt: self
                .prompt
                .or_else(|| self.fresh.map(whole))
                .or_else(|| self.timed_fresh.map(timed)),
            output: self.output.or_else(|| self.answer.map(answer)).or(self.timed_output),
            cached,
            reasoning: self.reasoning,
        }
    }
}

/// What is noted while an event, or a whole response, is read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Note<'a> {
    pub model: Option<&'a [u8]>,
    pub kind: Option<&'a [u8]>,
    pub choice: Choice<'a>,
    pub counts: Counts,
    /// The counts are those of all choices, whatever the event has.
    pub of_all: bool,
    /// Texts are all that there is so far.
    pub cumulative: bool,
    pub error: bool,
    pub done: bool,
    /// A choice that is complete, to be fetched.
    pub(super) ended: Option<Choice<'a>>,
}

impl<'a> Note<'a> {
    /// A value at a node of [`say`].
    pub fn note(&mut self, node: Node, value: Value<'a>) {
        let counts = &mut self.counts;
        let count = match (node, value) {
            (say::CHOICE, Value::End) => {
                self.end_choice();
                return;
            }
            (_, Value::End) => return,
            (say::PROMPT, _) => &mut counts.prompt,
            (say::FRESH, _) => &mut counts.fresh,
            (say::CACHED, _) => &mut counts.cached,
            (say::WRITTEN, _) => &mut counts.written,
            (say::OUTPUT, _) => &mut counts.output,
            (say::ANSWER, _) => &mut counts.answer,
            (say::REASONING, _) => &mut counts.reasoning,
            (say::TIMED_FRESH, _) => &mut counts.timed_fresh,
            (say::TIMED_CACHED, _) => &mut counts.timed_cached,
            (say::TIMED_OUTPUT, _) => &mut counts.timed_output,
            (say::TEXT, Value::String(text)) => {
                self.choice.tokens |= !text.is_empty();
                if !text.is_empty() {
                    self.choice.text = text;
                }
                return;
            }
            (say::TOKENS, value) => {
                self.choice.tokens |= is_something(value);
                return;
            }
            (say::MODEL, Value::String(raw)) if !raw.is_empty() => {
                self.model = Some(raw);
                return;
            }
            (say::FINISH, Value::String(raw)) if !raw.is_empty() => {
                self.choice.finish = Some(raw);
                return;
            }
            (say::ERROR, value) => {
                self.error |= is_something(value);
                return;
            }
            (say::DONE, value) => {
                self.done |= value.is_true();
                return;
            }
            (say::KIND, Value::String(raw)) => {
                self.kind = Some(raw);
                return;
            }
            (say::INDEX, value) => {
                let index = value.number().unwrap_or(0);
                self.choice.index = u32::try_from(index).unwrap_or(u32::MAX);
                return;
            }
            _ => return,
        };
        *count = value.number().or(*count);
    }

    pub fn end_choice(&mut self) {
        self.ended = Some(std::mem::take(&mut self.choice));
    }

    /// Whether the choice at hand says anything.
    pub(super) fn has_choice(&self) -> bool {
        let choice = &self.choice;
        choice.tokens || choice.count.is_some() || choice.finish.is_some()
    }
}

/// Whether a value is anything but `null`, `false` and the empty string.
pub fn is_something(value: Value<'_>) -> bool {
    !matches!(value, Value::Scalar(b"null" | b"false") | Value::String(b"") | Value::End)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_made_equal() {
        let usage = |counts: Counts| {
            let Usage { prompt, output, cached, .. } = counts.usage();
            (prompt, output, cached)
        };
        let none = Counts::default();
        assert_eq!(usage(none), (None, None, None));
        // Anthropic's kind: what was read from and written to a cache is counted apart.
        let parts = Counts { fresh: Some(25), cached: Some(100), written: Some(10), ..none };
        assert_eq!(usage(parts), (Some(135), None, Some(100)));
        // OpenAI's kind: it is not.
        let whole = Counts { prompt: Some(25), cached: Some(20), output: Some(7), ..none };
        assert_eq!(usage(whole), (Some(25), Some(7), Some(20)));
        // Gemini's kind: reasoning is counted apart.
        let apart = Counts { answer: Some(9), reasoning: Some(4), ..none };
        assert_eq!(usage(apart), (None, Some(13), None));
        // A second source gives way to the first, count by count.
        let timed =
            Counts { timed_fresh: Some(1), timed_cached: Some(3), timed_output: Some(5), ..none };
        assert_eq!(usage(timed), (Some(4), Some(5), Some(3)));
        assert_eq!(usage(whole.or(timed)), (Some(25), Some(7), Some(20)));
        // Hostile counts do not overflow.
        let most = Counts { fresh: Some(u64::MAX), cached: Some(1), ..none };
        assert_eq!(usage(most), (Some(u64::MAX), None, Some(1)));
    }
}
