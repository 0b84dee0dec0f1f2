//! One event of a stream: the hot path.
//!
//! The events of a stream are alike but for the piece of text that each carries, and equal bytes
//! read from the same place mean the same. So the decoder remembers the last plain event around
//! its text; where the next one is equal there, only its text is looked at.

use super::super::{Choice, Facts};
use super::from_timings;
use crate::llm::json::slice::{Cursor, string_end};
use crate::llm::outcome::Usage;

/// Most bytes that are remembered before the text of an event, and after it.
const MAX_BEFORE: usize = 320;
const MAX_AFTER: usize = 256;

/// The last plain event: one choice with one text, and nothing else that matters.
#[derive(Debug)]
pub struct Decoder {
    /// From the start of the event to the inside of its text; the value of `choices` begins at
    /// `choices_at` of it. Nothing is remembered if that is 0.
    before: [u8; MAX_BEFORE],
    before_len: usize,
    choices_at: usize,
    /// From the text's closing quote to the end of the event; the value of `choices` ends at
    /// `choices_end` of it.
    after: [u8; MAX_AFTER],
    after_len: usize,
    choices_end: usize,
    index: u32,
    count: Option<u32>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            before: [0; MAX_BEFORE],
            before_len: 0,
            choices_at: 0,
            after: [0; MAX_AFTER],
            after_len: 0,
            choices_end: 0,
            index: 0,
            count: None,
        }
    }
}

/// What is noted while an event is read, to see whether it is plain.
#[derive(Default)]
struct Notes {
    choices: u32,
    /// Texts that are not empty, and where the last of them lies.
    texts: u32,
    start: usize,
    end: usize,
    index: u32,
    count: Option<u32>,
    finished: bool,
}

impl Decoder {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn event<'a>(
        &mut self,
        data: &'a [u8],
        mut on_choice: impl FnMut(Choice<'a>),
    ) -> Facts<'a> {
        if let Some(choice) = self.plain(data) {
            on_choice(choice);
            return Facts::default();
        }
        self.other(data, on_choice)
    }

    /// What an event says that is like the last plain one: one choice, and nothing else.
    #[inline]
    pub fn plain<'a>(&self, data: &'a [u8]) -> Option<Choice<'a>> {
        let (start, end) = (self.before_len, data.len().checked_sub(self.after_len)?);
        let alike = start > 0
            && start <= end
            && data[..start] == self.before[..start]
            && data[end..] == self.after[..self.after_len];
        if !alike || string_end(data, start) != Some(end) {
            return None;
        }
        let Self { index, count, .. } = *self;
        let text = &data[start..end];
        Some(Choice { index, tokens: end > start, count, text, ..Choice::default() })
    }

    /// Reads any other event.
    pub fn other<'a>(
        &mut self,
        data: &'a [u8],
        mut on_choice: impl FnMut(Choice<'a>),
    ) -> Facts<'a> {
        let mut facts = Facts::default();
        let mut notes = Notes::default();
        let mut cursor = Cursor::new(data);
        let known = &self.before[..self.choices_at];
        if !known.is_empty() && data.starts_with(known) {
            cursor.seek(known.len());
        } else {
            if !cursor.object() {
                facts.done = data.trim_ascii() == b"[DONE]";
                return facts;
            }
            loop {
                match cursor.key() {
                    Some(b"choices") => break,
                    Some(key) => field(key, &mut cursor, &mut facts),
                    None => return facts,
                }
            }
        }
        let choices_at = cursor.at();
        choices(&mut cursor, &mut notes, &mut on_choice);
        let choices_end = cursor.at();
        let rest = cursor.rest();
        if rest != &self.after[self.choices_end..self.after_len] || rest.is_empty() {
            while let Some(key) = cursor.key() {
                match key {
                    b"choices" => choices(&mut cursor, &mut notes, &mut on_choice),
                    _ => field(key, &mut cursor, &mut facts),
                }
            }
        }
        // A model is only news once.
        let news = (Facts { model: None, ..facts }) != Facts::default();
        if !news && notes.choices == 1 && notes.texts == 1 && !notes.finished {
            self.learn(data, choices_at, choices_end, &notes);
        }
        facts
    }

    fn learn(&mut self, data: &[u8], choices_at: usize, choices_end: usize, notes: &Notes) {
        let (before, after) = (&data[..notes.start], &data[notes.end..]);
        if before.len() > MAX_BEFORE || after.len() > MAX_AFTER || choices_end < notes.end {
            return;
        }
        self.before[..before.len()].copy_from_slice(before);
        self.before_len = before.len();
        self.choices_at = choices_at;
        self.after[..after.len()].copy_from_slice(after);
        self.after_len = after.len();
        self.choices_end = choices_end - notes.end;
        self.index = notes.index;
        self.count = notes.count;
    }
}

/// A member of an event other than its choices.
#[inline]
fn field<'a>(key: &[u8], cursor: &mut Cursor<'a>, facts: &mut Facts<'a>) {
    match key {
        b"model" => facts.model = cursor.string().filter(|m| !m.is_empty()).or(facts.model),
        b"usage" => facts.usage = usage(cursor).or(facts.usage),
        b"timings" => facts.fallback = timings(cursor).or(facts.fallback),
        b"error" => facts.error |= cursor.is_something(),
        b"object" => facts.error |= cursor.string() == Some(b"error"),
        _ => cursor.skip(),
    }
}

#[inline]
fn choices<'a>(cursor: &mut Cursor<'a>, notes: &mut Notes, on_choice: &mut impl FnMut(Choice<'a>)) {
    if !cursor.array() {
        return cursor.skip();
    }
    while cursor.item() {
        if !cursor.object() {
            cursor.skip();
            continue;
        }
        let mut choice = Choice::default();
        while let Some(key) = cursor.key() {
            match key {
                b"delta" => delta(cursor, notes, &mut choice),
                b"text" => text(cursor, notes, &mut choice),
                b"index" => {
                    let index = cursor.number().unwrap_or(0);
                    choice.index = u32::try_from(index).unwrap_or(u32::MAX);
                }
                b"finish_reason" => {
                    choice.finish = cursor.string().filter(|reason| !reason.is_empty());
                }
                b"token_ids" => choice.count = cursor.count(),
                _ => cursor.skip(),
            }
        }
        notes.choices += 1;
        notes.index = choice.index;
        notes.count = choice.count;
        notes.finished |= choice.finish.is_some();
        on_choice(choice);
    }
}

/// A string: if it is not empty, the choice bears tokens.
#[inline]
fn text<'a>(cursor: &mut Cursor<'a>, notes: &mut Notes, choice: &mut Choice<'a>) {
    let Some(text) = cursor.string().filter(|text| !text.is_empty()) else { return };
    notes.texts += 1;
    // The closing quote is behind.
    notes.end = cursor.at() - 1;
    notes.start = notes.end - text.len();
    (choice.tokens, choice.text) = (true, text);
}

#[inline]
fn delta<'a>(cursor: &mut Cursor<'a>, notes: &mut Notes, choice: &mut Choice<'a>) {
    if !cursor.object() {
        cursor.skip();
        return;
    }
    while let Some(key) = cursor.key() {
        match key {
            b"content" | b"reasoning_content" | b"reasoning" | b"refusal" => {
                text(cursor, notes, choice);
            }
            b"tool_calls" => {
                if !cursor.array() {
                    cursor.skip();
                    continue;
                }
                while cursor.item() {
                    tool_call(cursor, notes, choice);
                }
            }
            b"function_call" => function(cursor, notes, choice),
            _ => cursor.skip(),
        }
    }
}

fn tool_call<'a>(cursor: &mut Cursor<'a>, notes: &mut Notes, choice: &mut Choice<'a>) {
    if !cursor.object() {
        cursor.skip();
        return;
    }
    while let Some(key) = cursor.key() {
        match key {
            b"function" => function(cursor, notes, choice),
            _ => cursor.skip(),
        }
    }
}

fn function<'a>(cursor: &mut Cursor<'a>, notes: &mut Notes, choice: &mut Choice<'a>) {
    if !cursor.object() {
        cursor.skip();
        return;
    }
    while let Some(key) = cursor.key() {
        match key {
            b"name" | b"arguments" => text(cursor, notes, choice),
            _ => cursor.skip(),
        }
    }
}

fn usage(cursor: &mut Cursor<'_>) -> Option<Usage> {
    let mut usage = Usage::default();
    if !cursor.object() {
        cursor.skip();
        return None;
    }
    while let Some(key) = cursor.key() {
        match key {
            b"prompt_tokens" => usage.prompt = cursor.number(),
            b"completion_tokens" => usage.output = cursor.number(),
            b"prompt_tokens_details" => usage.cached = member(cursor, b"cached_tokens"),
            b"completion_tokens_details" => {
                usage.reasoning = member(cursor, b"reasoning_tokens");
            }
            _ => cursor.skip(),
        }
    }
    (usage != Usage::default()).then_some(usage)
}

/// llama.cpp's own figures.
fn timings(cursor: &mut Cursor<'_>) -> Option<Usage> {
    let (mut prompt, mut cached, mut output) = (None, None, None);
    if !cursor.object() {
        cursor.skip();
        return None;
    }
    while let Some(key) = cursor.key() {
        match key {
            b"prompt_n" => prompt = cursor.number(),
            b"cache_n" => cached = cursor.number(),
            b"predicted_n" => output = cursor.number(),
            _ => cursor.skip(),
        }
    }
    let usage = from_timings(prompt, cached, output);
    (usage != Usage::default()).then_some(usage)
}

/// The number `name` of the object that comes next.
fn member(cursor: &mut Cursor<'_>, name: &[u8]) -> Option<u64> {
    let mut found = None;
    if !cursor.object() {
        cursor.skip();
        return None;
    }
    while let Some(key) = cursor.key() {
        if key == name {
            found = cursor.number();
        } else {
            cursor.skip();
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(choices: &str, more: &str) -> String {
        format!(
            r#"{{"id":"c","object":"chat.completion.chunk","model":"m","choices":[{choices}]{more}}}"#
        )
    }

    /// Whether the event bears tokens; the same from a fresh decoder as from one that knows
    /// other events of the stream.
    fn tokens(event: &str) -> bool {
        let read = |decoder: &mut Decoder| {
            let mut tokens = false;
            let mut facts = decoder.event(event.as_bytes(), |choice| tokens |= choice.tokens);
            facts.model = None;
            (tokens, format!("{facts:?}"))
        };
        let fresh = read(&mut Decoder::new());
        let mut decoder = Decoder::new();
        for text in ["a", "", "\\\"", "b"] {
            let delta =
                format!(r#"{{"index":0,"delta":{{"content":"{text}"}},"finish_reason":null}}"#);
            decoder.event(chunk(&delta, "").as_bytes(), |_| {});
        }
        assert_eq!(read(&mut decoder), fresh);
        assert_eq!(read(&mut decoder), fresh);
        fresh.0
    }

    fn delta(delta: &str) -> bool {
        tokens(&chunk(&format!(r#"{{"index":0,"delta":{delta},"finish_reason":null}}"#), ""))
    }

    #[test]
    fn token_bearing_events() {
        for yes in [
            r#"{"content":"Hi"}"#,
            r#"{"role":"assistant","content":"Hi"}"#,
            r#"{"content":null,"reasoning_content":"x"}"#,
            r#"{"content":"","reasoning":"x"}"#,
            r#"{"refusal":"no"}"#,
            r#"{"tool_calls":[{"index":0,"id":"t","function":{"name":"f","arguments":""}}]}"#,
            r#"{"tool_calls":[{"index":0},{"function":{"arguments":"{\"a\":"}}]}"#,
            r#"{"function_call":{"name":"f"}}"#,
        ] {
            assert!(delta(yes), "{yes}");
        }
        for no in [
            r#"{"role":"assistant","content":""}"#,
            r#"{"role":"assistant","content":null}"#,
            "{}",
            "null",
            r#"{"content":["x"]}"#,
            r#"{"tool_calls":[{"index":0,"id":"t","type":"function","function":{"arguments":""}}]}"#,
            r#"{"tool_calls":[]}"#,
            r#"{"annotations":[{"content":"x"}]}"#,
        ] {
            assert!(!delta(no), "{no}");
        }
        assert!(tokens(r#"{"choices":[{"index":0,"text":"x","finish_reason":null}]}"#));
        assert!(!tokens(r#"{"choices":[{"index":0,"text":"","finish_reason":"stop"}]}"#));
        assert!(!tokens(&chunk("", r#","prompt_filter_results":[{"delta":{"content":"x"}}]"#)));
        assert!(!tokens("[DONE]"));
    }

    #[test]
    fn facts() {
        let facts = |event: &'static str| Decoder::new().event(event.as_bytes(), |_| {});
        assert!(facts("[DONE]").done);
        assert!(facts(" [DONE]\t").done);
        assert!(!facts(r#"{"a":"[DONE]"}"#).done);
        for yes in [
            r#"{"error":{"message":"x","code":400}}"#,
            r#"{"error":"x","error_type":"overloaded"}"#,
            r#"{"object":"error","message":"x"}"#,
        ] {
            assert!(facts(yes).error, "{yes}");
        }
        for no in
            [r#"{"error":null,"choices":[]}"#, r#"{"choices":[{"error":1}]}"#, r#"{"error":""}"#]
        {
            assert!(!facts(no).error, "{no}");
        }
        let all = facts(
            r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"x":1,"reasoning_tokens":2}}}"#,
        );
        let usage =
            Usage { prompt: Some(9), output: Some(12), cached: Some(4), reasoning: Some(2) };
        assert_eq!(all.usage, Some(usage));
        assert_eq!(facts(r#"{"choices":[],"usage":null}"#).usage, None);
        let timings =
            facts(r#"{"choices":[],"timings":{"cache_n":3,"prompt_n":9,"predicted_n":5}}"#);
        let usage = Usage { prompt: Some(12), output: Some(5), cached: Some(3), reasoning: None };
        assert_eq!((timings.usage, timings.fallback), (None, Some(usage)));
    }

    /// Whatever a decoder has seen, it says of an event what a fresh one says.
    #[test]
    fn memory_changes_nothing() {
        let texts = ["a", "", "\\\"", "\\\\", "b\",\"c\":\"d", "x\"}}]}"];
        let tails = [
            "",
            r#","usage":null"#,
            r#","usage":{"completion_tokens":3}"#,
            r#","error":{"a":1}"#,
            r#","obfuscation":"x""#,
        ];
        let ends = ["null", r#""stop""#];
        let mut events = Vec::new();
        for text in texts {
            for tail in tails {
                for end in ends {
                    for index in 0..2 {
                        for ids in ["null", "[]", "[1,2]"] {
                            let choice = format!(
                                r#"{{"index":{index},"delta":{{"content":"{text}"}},"finish_reason":{end},"token_ids":{ids}}}"#
                            );
                            events.push(chunk(&choice, tail));
                            events.push(chunk(&format!("{choice},{choice}"), tail));
                        }
                    }
                }
            }
        }
        let read = |decoder: &mut Decoder, event: &str| {
            let mut choices = Vec::new();
            let mut facts =
                decoder.event(event.as_bytes(), |choice| choices.push(format!("{choice:?}")));
            facts.model = None;
            (choices, format!("{facts:?}"))
        };
        let mut decoder = Decoder::new();
        // Every event after every other, more or less.
        let mut at = 0;
        for step in (1..events.len()).step_by(37) {
            for _ in 0..events.len() {
                at = (at + step) % events.len();
                assert_eq!(read(&mut decoder, &events[at]), read(&mut Decoder::new(), &events[at]));
            }
        }
    }
}
