//! The readers of JSON. An input is a byte for the cuts, and a text.
//!
//! The scanner says the same of a text in pieces as of the whole. Of a text that serde_json takes
//! (an object, not too deep), scanner and walker say the same, and a string that they find is the
//! one that serde_json finds.

use std::fmt::Write as _;

use llmtrace::llm::json::stream::{MAX_VALUE, Paths, ROOT, Scanner, Value};
use llmtrace::llm::json::{unescape, walk};

use super::both;

const PATHS: Paths = &[
    (ROOT, "model", 1),
    (ROOT, "usage", 2),
    (2, "n", 3),
    (ROOT, "list", 4),
    (4, "[]", 5),
    (5, "n", 6),
];

fn scan(bytes: &[u8], mut cuts: super::Cuts) -> (String, Vec<Box<str>>) {
    let (mut scanner, mut out, mut models) = (Scanner::new(PATHS), String::new(), Vec::new());
    let mut on = |node, value: Value<'_>| {
        writeln!(out, "{node} {value:?}").expect("a string");
        if let (1, Value::String(raw)) = (node, value)
            && raw.len() < MAX_VALUE
        {
            models.push(unescape(raw, MAX_VALUE));
        }
    };
    cuts.each(bytes, |piece| scanner.push(piece, &mut on));
    scanner.finish(on);
    (out, models)
}

pub fn check(input: &[u8]) {
    both(input, |bytes, cuts| scan(bytes, cuts).0);
    let Some((_, text)) = input.split_first() else { return };
    let mut walked = String::new();
    walk(text, PATHS, |node, value| {
        let value = match value {
            Value::String(raw) => Value::String(&raw[..raw.len().min(MAX_VALUE)]),
            Value::Scalar(raw) => Value::Scalar(&raw[..raw.len().min(MAX_VALUE)]),
            other => other,
        };
        writeln!(walked, "{node} {value:?}").expect("a string");
    });
    let Ok(serde_json::Value::Object(object)) = serde_json::from_slice(text) else { return };
    let (scanned, models) = scan(text, super::Cuts::Whole);
    assert_eq!(scanned, walked);
    // The last of several: so does serde_json. An escaped key is not found here.
    if let (Some(model), Some(serde_json::Value::String(known))) =
        (models.last(), object.get("model"))
        && !text.windows(2).any(|w| w == b"\\u")
        && known.len() < MAX_VALUE
    {
        assert_eq!(&**model, known);
    }
}
