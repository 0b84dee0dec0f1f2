//! Watching a JSON text go by: bodies of any size, in any pieces, in constant memory.
//!
//! A [`Paths`] table says which values matter. The scanner keeps the chain of table nodes that it
//! is in, and nothing of the rest: what no path leads to is skipped by counting brackets.

/// A path's place in the table: an index the table's author chose, from 1.
pub type Node = u8;

/// The text as a whole.
pub const ROOT: Node = 0;
/// A value that no path leads to.
pub(super) const NONE: Node = u8::MAX;

/// `(parent, key, node)`: the value of `key` in the object `parent` is `node`. The key `[]` stands
/// for every element of an array.
pub type Paths = &'static [(Node, &'static str, Node)];

/// Where `key` of `parent` leads.
#[inline]
pub(super) fn child(paths: Paths, parent: Node, key: &[u8]) -> Node {
    let found = paths.iter().find(|p| p.0 == parent && p.1.as_bytes() == key);
    found.map_or(NONE, |p| p.2)
}

/// Longest value that is kept; longer strings are cut.
pub const MAX_VALUE: usize = 128;
/// Longest key that can match.
const MAX_KEY: usize = 32;
/// Deepest level at which a path can match.
pub(super) const MAX_LEVEL: usize = 8;

/// A value at the end of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// The inside of a string, escapes and all, cut to `MAX_VALUE`.
    String(&'a [u8]),
    /// A number, `true`, `false` or `null`.
    Scalar(&'a [u8]),
    /// An object or array begins.
    Container,
    /// The object or array ends, of which the beginning was told.
    End,
}

impl Value<'_> {
    pub fn number(&self) -> Option<u64> {
        match self {
            Self::Scalar(text) => super::number(text),
            _ => None,
        }
    }

    pub fn is_true(&self) -> bool {
        *self == Self::Scalar(b"true")
    }
}

#[derive(Clone, Debug)]
pub struct Scanner {
    paths: Paths,
    /// Nodes of the open containers, innermost last.
    levels: [Node; MAX_LEVEL],
    depth: usize,
    /// Open containers inside a value that no path leads to.
    skipped: u64,
    /// Node of the value that comes next.
    next: Node,
    state: State,
    /// The key or value being read.
    kept: [u8; MAX_VALUE],
    len: usize,
    /// One bit a level: it is an array.
    arrays: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Where a value can begin.
    Value,
    /// In an object, where a key can begin.
    Key,
    InKey {
        escaped: bool,
    },
    InString {
        escaped: bool,
    },
    InScalar,
    /// In a string inside a skipped container.
    InSkipped {
        escaped: bool,
    },
    /// The text is over.
    Over,
}

impl Scanner {
    pub fn new(paths: Paths) -> Self {
        Self {
            paths,
            levels: [NONE; MAX_LEVEL],
            depth: 0,
            skipped: 0,
            next: ROOT,
            state: State::Value,
            kept: [0; MAX_VALUE],
            len: 0,
            arrays: 0,
        }
    }

    /// The text was complete: its outermost value ended.
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    pub fn push(&mut self, mut bytes: &[u8], mut on: impl FnMut(Node, Value<'_>)) {
        while let Some((&b, rest)) = bytes.split_first() {
            if self.skipped > 0 {
                bytes = self.skip(bytes);
                continue;
            }
            match self.state {
                State::Over => return,
                State::InKey { escaped: true } | State::InString { escaped: true } => {
                    self.keep(&[b]);
                    self.set_escaped(false);
                }
                State::InKey { .. } | State::InString { .. } => {
                    bytes = self.in_string(bytes, &mut on);
                    continue;
                }
                State::InSkipped { .. } => self.state = State::Value,
                State::InScalar => match b {
                    b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t' => {
                        self.end_scalar(&mut on);
                        continue;
                    }
                    _ => self.keep(&[b]),
                },
                State::Value | State::Key => self.structural(b, &mut on),
            }
            bytes = rest;
        }
    }

    /// The bytes are over: a bare number at the top ends here.
    pub fn finish(&mut self, mut on: impl FnMut(Node, Value<'_>)) {
        if self.state == State::InScalar && self.depth == 0 {
            self.end_scalar(&mut on);
        }
    }

    #[inline]
    fn structural(&mut self, b: u8, on: &mut impl FnMut(Node, Value<'_>)) {
        match b {
            b' ' | b'\n' | b'\r' | b'\t' | b':' => {}
            b',' => self.after_value(),
            b'}' | b']' => {
                if let Some(depth) = self.depth.checked_sub(1) {
                    self.depth = depth;
                    on(self.levels[depth], Value::End);
                }
                self.value_over();
            }
            b'"' => {
                self.len = 0;
                self.state = match self.state {
                    State::Key => State::InKey { escaped: false },
                    _ => State::InString { escaped: false },
                };
            }
            b'{' | b'[' => {
                if self.next == NONE || self.depth == MAX_LEVEL {
                    self.skipped = 1;
                    return;
                }
                on(self.next, Value::Container);
                self.levels[self.depth] = self.next;
                let bit = 1 << self.depth;
                self.arrays = if b == b'[' { self.arrays | bit } else { self.arrays & !bit };
                self.depth += 1;
                self.after_value();
            }
            _ => {
                self.len = 0;
                self.keep(&[b]);
                self.state = State::InScalar;
            }
        }
    }

    /// Inside a key or string, not after a backslash.
    fn in_string<'a>(&mut self, bytes: &'a [u8], on: &mut impl FnMut(Node, Value<'_>)) -> &'a [u8] {
        let Some(end) = memchr::memchr2(b'"', b'\\', bytes) else {
            self.keep(bytes);
            return &[];
        };
        self.keep(&bytes[..end]);
        if bytes[end] == b'\\' {
            self.keep(b"\\");
            self.set_escaped(true);
        } else if matches!(self.state, State::InKey { .. }) {
            self.next = self.child(&self.kept[..self.len]);
            self.state = State::Value;
        } else {
            if self.next != NONE {
                on(self.next, Value::String(&self.kept[..self.len]));
            }
            self.value_over();
        }
        &bytes[end + 1..]
    }

    fn end_scalar(&mut self, on: &mut impl FnMut(Node, Value<'_>)) {
        if self.next != NONE {
            on(self.next, Value::Scalar(&self.kept[..self.len]));
        }
        self.value_over();
    }

    /// Goes on in a container that no path leads to.
    fn skip<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let mut at = 0;
        if let State::InSkipped { escaped } = self.state {
            if escaped {
                at = 1;
                self.state = State::InSkipped { escaped: false };
            }
            loop {
                let Some(i) = memchr::memchr2(b'"', b'\\', &bytes[at..]) else { return &[] };
                at += i + 1;
                if bytes[at - 1] == b'"' {
                    self.state = State::Value;
                    break;
                }
                if at == bytes.len() {
                    self.state = State::InSkipped { escaped: true };
                    return &[];
                }
                at += 1;
            }
        }
        while let Some(&b) = bytes.get(at) {
            at += 1;
            match b {
                b'"' => {
                    self.state = State::InSkipped { escaped: false };
                    break;
                }
                b'{' | b'[' => self.skipped += 1,
                b'}' | b']' => {
                    self.skipped -= 1;
                    if self.skipped == 0 {
                        self.value_over();
                        break;
                    }
                }
                _ => {}
            }
        }
        &bytes[at..]
    }

    fn value_over(&mut self) {
        self.state = if self.depth == 0 { State::Over } else { State::Value };
        // Until a comma says what comes next.
        self.next = NONE;
    }

    /// What can come next in the innermost container.
    fn after_value(&mut self) {
        let Some(level) = self.depth.checked_sub(1) else { return };
        if self.arrays & 1 << level != 0 {
            self.next = self.child(b"[]");
            self.state = State::Value;
        } else {
            self.next = NONE;
            self.state = State::Key;
        }
    }

    fn child(&self, key: &[u8]) -> Node {
        match self.depth.checked_sub(1) {
            Some(level) => child(self.paths, self.levels[level], key),
            None => NONE,
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        // One more than can match, so that a longer key is not taken for its beginning.
        let max = if matches!(self.state, State::InKey { .. }) { MAX_KEY + 1 } else { MAX_VALUE };
        let take = bytes.len().min(max.saturating_sub(self.len));
        self.kept[self.len..self.len + take].copy_from_slice(&bytes[..take]);
        self.len += take;
    }

    fn set_escaped(&mut self, now: bool) {
        self.state = match self.state {
            State::InKey { .. } => State::InKey { escaped: now },
            _ => State::InString { escaped: now },
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::json::walk;
    use proptest::prelude::*;

    const PATHS: Paths = &[
        (ROOT, "model", 1),
        (ROOT, "options", 2),
        (2, "deep", 3),
        (ROOT, "list", 4),
        (4, "[]", 5),
        (5, "x", 6),
    ];

    fn told(node: Node, value: Value<'_>) -> String {
        match value {
            Value::String(s) => format!("{node} \"{}", String::from_utf8_lossy(s)),
            Value::Scalar(s) => format!("{node} {}", String::from_utf8_lossy(s)),
            Value::Container => format!("{node} {{"),
            Value::End => format!("{node} }}"),
        }
    }

    fn scan(bytes: &[u8], size: usize) -> (Vec<String>, bool) {
        let (mut scanner, mut seen) = (Scanner::new(PATHS), Vec::new());
        for piece in bytes.chunks(size.max(1)) {
            scanner.push(piece, |node, value| seen.push(told(node, value)));
        }
        (seen, scanner.is_over())
    }

    fn walked(text: &[u8]) -> Vec<String> {
        let mut seen = Vec::new();
        walk(text, PATHS, |node, value| seen.push(told(node, value)));
        seen
    }

    #[test]
    fn finds_paths_and_nothing_else() {
        let text = br#" {"messages":[{"model":"no","content":"\"model\":\"no\" \\"},["]}"]],
            "options":{"deep":true,"model":"no","other":{"deep":1}},
            "a":"model","deep":1,"list":[{"x":1.5},2,{"y":{"x":0}},{"x":"a\"b"},[]],
            "mode\u006c":"no", "model" : "m\n" } "#;
        let expected = [
            "0 {",
            "2 {",
            "3 true",
            "2 }",
            "4 {",
            "5 {",
            "6 1.5",
            "5 }",
            "5 2",
            "5 {",
            "5 }",
            "5 {",
            "6 \"a\\\"b",
            "5 }",
            "5 {",
            "5 }",
            "4 }",
            "1 \"m\\n",
            "0 }",
        ];
        assert_eq!(walked(text), expected);
        for size in 1..text.len() {
            let (seen, over) = scan(text, size);
            assert_eq!(seen, expected, "pieces of {size}");
            assert!(over);
        }
    }

    #[test]
    fn a_long_body_whose_model_comes_last() {
        let mut text = br#"{"messages":[{"role":"user","content":""#.to_vec();
        while text.len() < 5_000_000 {
            text.extend_from_slice(br#"word \"model\":\"x\" { [ \\ "#);
        }
        text.extend_from_slice(br#""}],"model":"last"}"#);
        for size in [1, 1000, 65_536, text.len()] {
            assert_eq!(scan(&text, size).0, ["0 {", "1 \"last", "0 }"]);
        }
        let long = format!(r#"{{"model":"{}"}}"#, "y".repeat(100_000));
        assert_eq!(scan(long.as_bytes(), 7).0[1].len(), 3 + MAX_VALUE);
    }

    /// Serialised from a tree, so that it is a whole text.
    fn text() -> impl Strategy<Value = String> {
        let leaf =
            prop::sample::select(vec!["1", "null", "true", "\"s\"", "\"\\\"\"", "-2.5", "\"\""])
                .prop_map(str::to_owned);
        leaf.prop_recursive(6, 40, 4, |inner| {
            let key = prop::sample::select(vec!["model", "options", "deep", "list", "x", "a"]);
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4)
                    .prop_map(|v| format!("[{}]", v.join(", "))),
                prop::collection::vec((key, inner), 0..4).prop_map(|v| {
                    let members: Vec<_> = v.iter().map(|(k, v)| format!("\"{k}\": {v}")).collect();
                    format!("{{{}}}", members.join(" ,"))
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_walker_and_the_scanner_agree(text in text()) {
            let text = format!("{{\"list\":{text},\"options\":{text}}}");
            prop_assert_eq!(walked(text.as_bytes()), scan(text.as_bytes(), 3).0);
        }

        #[test]
        fn the_walker_survives_anything(
            parts in prop::collection::vec(
                prop::sample::select(vec!["{", "}", "[", "]", "\"model\"", "\"list\":[", "\"x\":", ":", ",", "\"", "\\", "1", "null", " ", "\"a\":{"]),
                0..60,
            ),
        ) {
            walked(parts.concat().as_bytes());
        }

        #[test]
        fn any_split(
            parts in prop::collection::vec(
                prop::sample::select(vec!["{", "}", "[", "]", "\"model\"", "\"list\":[", "\"x\":", ":", ",", "\"", "\\", "1", "null", " ", "\"a\":{"]),
                0..60,
            ),
            size in 1usize..9,
        ) {
            let bytes = parts.concat().into_bytes();
            prop_assert_eq!(scan(&bytes, size), scan(&bytes, bytes.len()));
        }
    }
}
