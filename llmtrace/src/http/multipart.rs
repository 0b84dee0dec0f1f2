//! `multipart/form-data` as it goes by: the small fields of a form. Files are passed over, and
//! nothing of them is kept.

use super::buf;

/// Longest boundary (RFC 2046 allows 70 bytes).
const MAX_BOUNDARY: usize = 70;
/// Longest head of a part.
const MAX_PART_HEAD: usize = 4 * 1024;
/// Longest value of a field that is kept.
pub const MAX_FIELD: usize = 1024;

/// A field that is no file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    pub name: &'a str,
    /// Cut to `MAX_FIELD`.
    pub value: &'a [u8],
}

#[derive(Debug)]
pub struct Decoder {
    /// CR LF, two hyphens and the boundary.
    delimiter: Vec<u8>,
    /// Bytes of the delimiter that have come. No more state is needed to find it: a CR can only
    /// be its first byte.
    matched: usize,
    state: State,
    /// The head of a part, or its value.
    buf: Vec<u8>,
    name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the first delimiter, or in a part that is not kept.
    Skip,
    /// Right after a delimiter: the bytes that came of CR LF or of two hyphens.
    Delimited(u8),
    Head,
    Value,
    Over,
}

impl Decoder {
    /// None: the content type has no usable boundary.
    pub fn new(content_type: &str) -> Option<Self> {
        let boundary = parameter(content_type, "boundary")?;
        let usable = (1..=MAX_BOUNDARY).contains(&boundary.len())
            && boundary.bytes().all(|b| (b' '..0x7F).contains(&b));
        if !usable {
            return None;
        }
        Some(Self {
            delimiter: format!("\r\n--{boundary}").into_bytes(),
            // The first one may be the very first line.
            matched: 2,
            state: State::Skip,
            buf: Vec::new(),
            name: String::new(),
        })
    }

    /// Heap bytes held.
    pub fn buffered(&self) -> usize {
        self.delimiter.capacity() + self.buf.capacity() + self.name.capacity()
    }

    pub fn push(&mut self, mut bytes: &[u8], mut on: impl FnMut(Field<'_>)) {
        while let Some((&b, rest)) = bytes.split_first() {
            match self.state {
                State::Over => return,
                State::Skip | State::Value => {
                    bytes = self.content(bytes, &mut on);
                    continue;
                }
                // What may stand between is white space.
                State::Delimited(before) => match (before, b) {
                    (b'-', b'-') => self.state = State::Over,
                    (_, b'\n') => {
                        self.state = State::Head;
                        self.buf.clear();
                    }
                    _ => self.state = State::Delimited(b),
                },
                State::Head => {
                    let full = buf::append(&mut self.buf, &[b], MAX_PART_HEAD) == 0;
                    if full {
                        self.state = State::Skip;
                    } else if b == b'\n' && is_over(&self.buf) {
                        self.head();
                    }
                }
            }
            bytes = rest;
        }
    }

    /// Goes on in the content of a part.
    fn content<'a>(&mut self, bytes: &'a [u8], on: &mut impl FnMut(Field<'_>)) -> &'a [u8] {
        if self.matched == 0 {
            let cr = memchr::memchr(b'\r', bytes).unwrap_or(bytes.len());
            self.keep(&bytes[..cr]);
            if cr < bytes.len() {
                self.matched = 1;
            }
            return bytes.get(cr + 1..).unwrap_or(&[]);
        }
        if bytes[0] != self.delimiter[self.matched] {
            // What looked like a delimiter was content.
            let matched = std::mem::take(&mut self.matched);
            if self.state == State::Value {
                buf::append(&mut self.buf, &self.delimiter[..matched], MAX_FIELD);
            }
            return bytes;
        }
        self.matched += 1;
        if self.matched == self.delimiter.len() {
            if self.state == State::Value {
                on(Field { name: &self.name, value: &self.buf });
            }
            self.buf.clear();
            self.matched = 0;
            self.state = State::Delimited(0);
        }
        &bytes[1..]
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.state == State::Value {
            buf::append(&mut self.buf, bytes, MAX_FIELD);
        }
    }

    /// The head of a part is complete.
    fn head(&mut self) {
        self.state = State::Skip;
        let head = String::from_utf8_lossy(&self.buf);
        for line in head.lines() {
            let Some((name, value)) = line.split_once(':') else { continue };
            if name.trim().eq_ignore_ascii_case("content-disposition")
                && let Some(field) = parameter(value, "name")
                && parameter(value, "filename").is_none()
                && parameter(value, "filename*").is_none()
            {
                self.name = field.into();
                self.state = State::Value;
            }
        }
        self.buf.clear();
    }
}

/// Whether a head ends with an empty line.
fn is_over(head: &[u8]) -> bool {
    head == b"\r\n" || head == b"\n" || head.ends_with(b"\n\r\n") || head.ends_with(b"\n\n")
}

/// A parameter of a header's value, without quotes.
fn parameter<'a>(value: &'a str, name: &str) -> Option<&'a str> {
    value.split(';').skip(1).find_map(|part| {
        let (key, value) = part.split_once('=')?;
        let value = value.trim();
        let bare = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
        key.trim().eq_ignore_ascii_case(name).then_some(bare)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TYPE: &str = "multipart/form-data; charset=x; boundary=\"--b'1\"";

    fn fields(bytes: &[u8], size: usize) -> Vec<String> {
        let mut decoder = Decoder::new(TYPE).expect("a boundary");
        let mut seen = Vec::new();
        for piece in bytes.chunks(size.max(1)) {
            decoder.push(piece, |f| {
                seen.push(format!("{}={}", f.name, String::from_utf8_lossy(f.value)));
            });
            assert!(decoder.buffered() <= 2 * MAX_PART_HEAD);
        }
        seen
    }

    fn form() -> Vec<u8> {
        let mut form =
            b"----b'1\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n\
            ----b'1\r\ncontent-disposition: form-data; name=file; filename=\"a;b.wav\"\r\n\
            Content-Type: audio/wav\r\n\r\n"
                .to_vec();
        form.extend((0..5000u32).flat_map(|i| [(i % 256) as u8, b'\r', b'\n', b'-', b'-', b'-']));
        form.extend_from_slice(
            b"\r\n----b'1 \r\nContent-Disposition: form-data; name=\"stream\"\r\n\r\n\
            true\r\n----b'1\r\nContent-Disposition: form-data; name=\"empty\"\r\n\r\n\r\n\
            ----b'1\r\nContent-Disposition: form-data; name=\"odd\"\r\n\r\na\r\r\n----b'x\r\n\r\n----b'1--\r\n\
            ----b'1\r\nContent-Disposition: form-data; name=\"after\"\r\n\r\nx\r\n----b'1--",
        );
        form
    }

    #[test]
    fn small_fields_are_found_and_files_are_not_kept() {
        let form = form();
        for size in [1, 2, 3, 7, 100, form.len()] {
            assert_eq!(
                fields(&form, size),
                ["model=whisper-1", "stream=true", "empty=", "odd=a\r\r\n----b'x\r\n"],
                "pieces of {size}"
            );
        }
    }

    #[test]
    fn boundaries() {
        for bad in ["multipart/form-data", "multipart/form-data; boundary=", "a; boundary=\u{e9}"] {
            assert!(Decoder::new(bad).is_none(), "{bad}");
        }
        assert!(Decoder::new(&format!("a; boundary={}", "x".repeat(71))).is_none());
        assert!(Decoder::new("multipart/form-data; Boundary=x").is_some());
    }

    #[test]
    fn long_heads_and_values_are_bounded() {
        let mut form = b"----b'1\r\nX: ".to_vec();
        form.resize(100_000, b'x');
        form.extend_from_slice(
            b"\r\n\r\nv\r\n----b'1\r\nContent-Disposition: form-data; name=\"long\"\r\n\r\n",
        );
        form.resize(200_000, b'y');
        form.extend_from_slice(b"\r\n----b'1--");
        for size in [1, 1000, form.len()] {
            let seen = fields(&form, size);
            assert_eq!((seen.len(), seen[0].len()), (1, "long=".len() + MAX_FIELD));
        }
    }

    proptest! {
        #[test]
        fn any_split(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            size in 1usize..50,
        ) {
            let mut bytes = form();
            let len = bytes.len();
            changes.iter().for_each(|(at, byte)| bytes[at.index(len)] = *byte);
            prop_assert_eq!(fields(&bytes, size), fields(&bytes, len));
        }
    }
}
