//! Just enough JSON: to find a few values among much that nobody here needs.
//!
//! [`slice`] reads an event that lies in memory and is what the hot path uses; [`stream`] watches
//! a body of any size go by in pieces, for the values that a table of paths names; [`walk`] does the
//! same to a text that lies in memory. All take what they understand and never complain: a
//! truncated or broken text yields what came before.

pub mod slice;
pub mod stream;
mod walk;

pub use walk::walk;

/// Turns the inside of a JSON string into text of at most `max` bytes.
pub fn unescape(raw: &[u8], max: usize) -> Box<str> {
    let mut out = Vec::with_capacity(raw.len().min(max));
    let mut bytes = raw.iter().copied();
    while let Some(b) = bytes.next() {
        if out.len() >= max {
            break;
        }
        if b != b'\\' {
            out.push(b);
            continue;
        }
        let c = match bytes.next() {
            Some(b'n') => '\n',
            Some(b't') => '\t',
            Some(b'r') => '\r',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'u') => match code(&mut bytes) {
                Some(c) => c,
                None => break,
            },
            Some(other) => {
                out.push(other);
                continue;
            }
            None => break,
        };
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
    clip(&String::from_utf8_lossy(&out), max).into()
}

/// What `\u` stands for; two of them if it is a surrogate pair. None at the end of the text.
fn code(bytes: &mut (impl Iterator<Item = u8> + Clone)) -> Option<char> {
    let unit = |bytes: &mut dyn Iterator<Item = u8>| {
        (0..4).try_fold(0u32, |n, _| Some(n << 4 | char::from(bytes.next()?).to_digit(16)?))
    };
    let high = unit(bytes)?;
    if !(0xD800..0xDC00).contains(&high) {
        return Some(char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER));
    }
    let mut ahead = bytes.clone();
    if (ahead.next(), ahead.next()) == (Some(b'\\'), Some(b'u'))
        && let Some(low) = unit(&mut ahead)
        && (0xDC00..0xE000).contains(&low)
    {
        *bytes = ahead;
        let c = 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
        return Some(char::from_u32(c).unwrap_or(char::REPLACEMENT_CHARACTER));
    }
    Some(char::REPLACEMENT_CHARACTER)
}

/// At most `max` bytes of `s`, cut between characters.
pub fn clip(s: &str, max: usize) -> &str {
    if s.len() <= max {
        return s;
    }
    let end = (0..=max).rev().find(|&i| s.is_char_boundary(i)).unwrap_or(0);
    &s[..end]
}

/// A whole number that is not negative; a fraction is cut off (some servers send `12.0`).
pub fn number(text: &[u8]) -> Option<u64> {
    let digits = text.iter().take_while(|b| b.is_ascii_digit()).count();
    match text.get(digits) {
        None | Some(b'.') if digits > 0 => {}
        _ => return None,
    }
    text[..digits]
        .iter()
        .try_fold(0u64, |n, &b| n.checked_mul(10)?.checked_add(u64::from(b - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unescapes() {
        assert_eq!(&*unescape(br#"a\n\"\\\/\u0041\ud83d\ude00z"#, 100), "a\n\"\\/A\u{1F600}z");
        assert_eq!(&*unescape(br"x\ud83dy", 100), "x\u{FFFD}y");
        assert_eq!(&*unescape(br"x\u00", 100), "x");
        assert_eq!(&*unescape(br"x\", 100), "x");
        assert_eq!(&*unescape("aé".as_bytes(), 2), "a");
        assert_eq!(unescape(&[0xFF; 100], 128).len(), 126);
    }

    #[test]
    fn numbers() {
        assert_eq!(number(b"12"), Some(12));
        assert_eq!(number(b"12.0"), Some(12));
        assert_eq!(number(b"18446744073709551615"), Some(u64::MAX));
        for bad in [&b"18446744073709551616"[..], b"-1", b"", b".5", b"1e3", b"null"] {
            assert_eq!(number(bad), None);
        }
    }
}
