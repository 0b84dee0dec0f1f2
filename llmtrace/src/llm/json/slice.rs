//! Reading JSON that lies in memory, value by value; what is not asked for is skipped.
//!
//! INVARIANT: every step moves forward or sets the cursor to the end, so every loop ends.
//! Nothing recurses.

/// A place in a JSON text.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    #[inline]
    pub fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    #[inline]
    pub fn at(&self) -> usize {
        self.at
    }

    /// Goes on at `at`, which must be a place where a cursor on an equal text has been.
    #[inline]
    pub fn seek(&mut self, at: usize) {
        self.at = at.min(self.text.len());
    }

    #[inline]
    pub fn rest(&self) -> &'a [u8] {
        &self.text[self.at..]
    }

    /// The text ended before the value did, or made no sense.
    #[inline]
    pub fn is_at_end(&self) -> bool {
        self.at >= self.text.len()
    }

    /// The first byte of what comes next; 0 at the end.
    #[inline]
    pub fn peek(&mut self) -> u8 {
        loop {
            match self.text.get(self.at) {
                Some(&b) if b > b' ' => return b,
                Some(b' ' | b'\n' | b'\r' | b'\t') => self.at += 1,
                Some(&b) => return b,
                None => return 0,
            }
        }
    }

    /// Enters the object that comes next, if one does.
    #[inline]
    pub fn object(&mut self) -> bool {
        self.enter(b'{')
    }

    /// Enters the array that comes next, if one does.
    #[inline]
    pub fn array(&mut self) -> bool {
        self.enter(b'[')
    }

    #[inline]
    fn enter(&mut self, open: u8) -> bool {
        // Written out, not `at += usize::from(enters)`: rustc 1.95 to 1.97 compile that wrongly
        // together with `peek` when they optimise (the MIR pass SimplifyComparisonIntegral).
        if self.peek() == open {
            self.at += 1;
            true
        } else {
            false
        }
    }

    /// Inside an object: the next key, with the cursor before its value. None, with the cursor
    /// after the object, when there are no more.
    #[inline]
    pub fn key(&mut self) -> Option<&'a [u8]> {
        let mut next = self.peek();
        if next == b',' {
            self.at += 1;
            next = self.peek();
        }
        if next == b'"'
            && let Some(key) = self.string()
            && self.peek() == b':'
        {
            self.at += 1;
            return Some(key);
        }
        self.leave(next, b'}');
        None
    }

    /// Inside an array: whether another value comes next. If not, the cursor is after the array.
    #[inline]
    pub fn item(&mut self) -> bool {
        let mut next = self.peek();
        if next == b',' {
            self.at += 1;
            next = self.peek();
        }
        if matches!(next, 0 | b']' | b'}' | b':' | b',') {
            self.leave(next, b']');
            return false;
        }
        true
    }

    #[inline]
    fn leave(&mut self, next: u8, close: u8) {
        if next == close && !self.is_at_end() {
            self.at += 1;
        } else {
            self.at = self.text.len();
        }
    }

    /// The inside of the string that comes next, escapes and all. Anything else is skipped.
    #[inline]
    pub fn string(&mut self) -> Option<&'a [u8]> {
        if self.peek() != b'"' {
            self.skip();
            return None;
        }
        let start = self.at + 1;
        match string_end(self.text, start) {
            Some(end) => {
                self.at = end + 1;
                Some(&self.text[start..end])
            }
            None => {
                self.at = self.text.len();
                None
            }
        }
    }

    /// The number that comes next. Anything else is skipped.
    #[inline]
    pub fn number(&mut self) -> Option<u64> {
        if !self.peek().is_ascii_digit() {
            self.skip();
            return None;
        }
        // The usual case, then the general one.
        if let [d @ b'0'..=b'9', b',' | b'}', ..] = *self.rest() {
            self.at += 1;
            return Some(u64::from(d - b'0'));
        }
        let start = self.at;
        self.scalar();
        super::number(&self.text[start..self.at])
    }

    /// Skips the value that comes next and says whether it was there and something other than
    /// `null`, `false`, or an empty string, object or array.
    pub fn is_something(&mut self) -> bool {
        self.peek();
        let start = self.at;
        self.skip();
        let empty: [&[u8]; 6] = [b"", b"null", b"false", b"\"\"", b"{}", b"[]"];
        !empty.contains(&&self.text[start..self.at])
    }

    /// The number of values in the array that comes next; None if it is not a whole array.
    pub fn count(&mut self) -> Option<u32> {
        if !self.array() {
            self.skip();
            return None;
        }
        let mut n = 0u32;
        while self.item() {
            self.skip();
            n = n.saturating_add(1);
        }
        (self.text.get(self.at.wrapping_sub(1)) == Some(&b']')).then_some(n)
    }

    /// Skips the value that comes next.
    #[inline]
    pub fn skip(&mut self) {
        match self.peek() {
            b'"' => {
                self.at = string_end(self.text, self.at + 1).map_or(self.text.len(), |i| i + 1);
            }
            b'{' | b'[' => self.container(),
            b'n' | b't' if self.at + 4 <= self.text.len() => self.at += 4,
            _ => self.scalar(),
        }
    }

    /// Skips a number or a literal.
    #[inline]
    fn scalar(&mut self) {
        let rest = self.rest();
        let len = rest
            .iter()
            .position(|b| matches!(b, b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t'));
        // At least one byte, so that the cursor moves.
        self.at = (self.at + len.unwrap_or(rest.len()).max(1)).min(self.text.len());
    }

    /// Skips an object or array. Closing brackets are not told apart.
    fn container(&mut self) {
        let mut depth = 0usize;
        while let Some(&b) = self.text.get(self.at) {
            self.at += 1;
            match b {
                b'"' => {
                    self.at = string_end(self.text, self.at).map_or(self.text.len(), |i| i + 1);
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => {
                    depth -= 1;
                    if depth == 0 {
                        return;
                    }
                }
                _ => {}
            }
        }
    }
}

const LOW: u64 = u64::from_le_bytes([0x01; 8]);
const HIGH: u64 = u64::from_le_bytes([0x80; 8]);

/// Bit 7 of each byte that is zero (and, past the first such byte, perhaps of others).
#[inline]
fn zeros(word: u64) -> u64 {
    word.wrapping_sub(LOW) & !word & HIGH
}

/// The closing quote of a string whose inside begins at `at`.
#[inline]
pub fn string_end(text: &[u8], mut at: usize) -> Option<usize> {
    // Most strings are short: eight bytes at a time, without a call.
    for _ in 0..6 {
        let Some(word) = text.get(at..at + 8) else { break };
        let word = u64::from_le_bytes(word.try_into().unwrap_or_default());
        let hit = zeros(word ^ u64::from_le_bytes([b'"'; 8]))
            | zeros(word ^ u64::from_le_bytes([b'\\'; 8]));
        if hit != 0 {
            at += hit.trailing_zeros() as usize / 8;
            if text[at] == b'"' {
                return Some(at);
            }
            at += 2;
        } else {
            at += 8;
        }
    }
    loop {
        at += memchr::memchr2(b'"', b'\\', text.get(at..)?)?;
        if text[at] == b'"' {
            return Some(at);
        }
        at += 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks() {
        let mut c = Cursor::new(
            br#" { "a" : [1, {"x":"]}"}, "\"}" ] ,"b":-1.5e3,"c":null, "d":{"e":[],"f":"v\\"} ,"g":12}"#,
        );
        assert!(c.object());
        assert_eq!(c.key(), Some(&b"a"[..]));
        assert_eq!(c.count(), Some(3));
        assert_eq!(c.key(), Some(&b"b"[..]));
        assert_eq!(c.number(), None);
        assert_eq!(c.key(), Some(&b"c"[..]));
        assert!(!c.is_something());
        assert_eq!(c.key(), Some(&b"d"[..]));
        assert!(c.object());
        assert_eq!(c.key(), Some(&b"e"[..]));
        assert!(c.array() && !c.item());
        assert_eq!(c.key(), Some(&b"f"[..]));
        assert_eq!(c.string(), Some(&br"v\\"[..]));
        assert_eq!(c.key(), None);
        assert_eq!(c.key(), Some(&b"g"[..]));
        assert_eq!(c.number(), Some(12));
        assert_eq!(c.key(), None);
        assert!(c.is_at_end());
    }

    #[test]
    fn truncated_texts_yield_what_they_held() {
        let text = br#"{"a":1,"b":"two","c":{"d":[3]},"e":4}"#;
        for n in 0..=text.len() {
            let mut c = Cursor::new(&text[..n]);
            let mut seen = 0;
            if c.object() {
                while c.key().is_some() {
                    c.skip();
                    seen += 1;
                }
            }
            assert!(c.is_at_end());
            assert!(seen >= (n / 14).min(4).saturating_sub(1), "{n}: {seen}");
        }
    }

    #[test]
    fn strings_of_every_length() {
        for n in 0..100 {
            for quote in 0..=n {
                let mut text = vec![b'x'; n];
                text.splice(quote..quote, *b"\\\"");
                text.push(b'"');
                text.extend_from_slice(b"tail\"");
                assert_eq!(string_end(&text, 0), Some(n + 2));
                assert_eq!(string_end(&text[..n + 2], 0), None);
            }
        }
    }

    #[test]
    fn broken_texts_end() {
        for text in
            ["{", "{\"", "{\"a", "{\"a\"", "{\"a\":", "{]", "[[[[", "[}", "[,,]", "{\"a\" 1}", "\\"]
        {
            let mut c = Cursor::new(text.as_bytes());
            for _ in 0..10 {
                c.object();
                c.key();
                c.array();
                c.item();
                c.string();
                c.number();
                c.count();
                c.is_something();
            }
            assert!(c.is_at_end(), "{text}");
        }
        let deep = [b'['; 100_000];
        let mut c = Cursor::new(&deep);
        c.skip();
        assert!(c.is_at_end());
    }
}
