//! `application/vnd.amazon.eventstream`: binary frames of headers and a payload.
//!
//! Big-endian `total length | headers' length | CRC of these | headers | payload | CRC of all`.
//! A frame whose checksum is wrong is dropped and counted. Where no frame begins, the decoder looks
//! for the next place where one does: eight bytes whose checksum follows.

use super::{MAX_EVENT, MAX_EVENT_NAME, buf};

/// Both lengths and their checksum.
const PRELUDE: usize = 12;
/// The shortest frame: a prelude and the checksum of all.
const SHORTEST: usize = PRELUDE + 4;
/// Longest frame that the format allows: 16 MiB of payload, 128 KiB of headers.
const LONGEST: usize = (16 << 20) + (128 << 10) + SHORTEST;
/// Bytes that are looked at together while no frame is found.
const SEARCH: usize = 4096;
/// Memory for a split frame that is kept for the next one.
const KEEP: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// `:event-type`, or `:exception-type` or `:error-code`; cut to `MAX_EVENT_NAME`.
    pub name: &'a [u8],
    /// `:message-type` is `exception` or `error`.
    pub exception: bool,
    pub payload: &'a [u8],
}

#[derive(Debug, Default)]
pub struct Decoder {
    /// The beginning of a frame.
    buf: Vec<u8>,
    /// Bytes to come of a frame that is not read.
    skip: usize,
    /// No frame began where one should.
    lost: bool,
    bad: u32,
    long: u32,
}

impl Decoder {
    pub fn new() -> Self {
        Self::default()
    }

    /// Heap bytes held.
    pub fn buffered(&self) -> usize {
        self.buf.capacity()
    }

    /// Times at which a checksum or a length was wrong.
    pub fn bad(&self) -> u32 {
        self.bad
    }

    /// Frames longer than `MAX_EVENT`, which are not read.
    pub fn long(&self) -> u32 {
        self.long
    }

    pub fn push(&mut self, mut bytes: &[u8], mut on: impl FnMut(Frame<'_>)) {
        loop {
            if self.skip > 0 {
                let n = self.skip.min(bytes.len());
                self.skip -= n;
                bytes = &bytes[n..];
            }
            if bytes.is_empty() {
                return;
            }
            if self.buf.is_empty() {
                let used = self.frame(bytes, &mut on);
                if used > 0 {
                    bytes = &bytes[used.min(bytes.len())..];
                    continue;
                }
                buf::append(&mut self.buf, bytes, MAX_EVENT);
                return;
            }
            // No more than this frame needs, so that the next one is read where it lies.
            let need = match self.buf.get(..PRELUDE).and_then(prelude) {
                Some((total, _)) => total,
                None if self.lost => SEARCH,
                None => PRELUDE,
            };
            let n = need.saturating_sub(self.buf.len()).min(bytes.len());
            buf::append(&mut self.buf, &bytes[..n], MAX_EVENT);
            bytes = &bytes[n..];
            let kept = std::mem::take(&mut self.buf);
            let mut at = 0;
            loop {
                let used = self.frame(&kept[at..], &mut on);
                if used == 0 {
                    break;
                }
                at = kept.len().min(at + used);
            }
            self.buf = kept;
            self.buf.drain(..at);
            if self.buf.is_empty() {
                buf::clear(&mut self.buf, KEEP);
            }
        }
    }

    /// Reads the frame at the start of `bytes` and says how many of them it used; 0 if there are
    /// too few.
    fn frame(&mut self, bytes: &[u8], on: &mut impl FnMut(Frame<'_>)) -> usize {
        let Some(first) = bytes.get(..PRELUDE) else { return 0 };
        let Some((total, headers)) = prelude(first) else {
            if !self.lost {
                self.lost = true;
                self.bad = self.bad.saturating_add(1);
            }
            // The next byte at which there could be one.
            let last = bytes.len() - PRELUDE;
            return (1..=last)
                .find(|&at| prelude(&bytes[at..at + PRELUDE]).is_some())
                .unwrap_or(last + 1);
        };
        self.lost = false;
        if total > MAX_EVENT {
            self.long = self.long.saturating_add(1);
            self.skip = total.saturating_sub(bytes.len());
            return total;
        }
        let Some(frame) = bytes.get(..total) else { return 0 };
        let (body, crc) = frame.split_at(total - 4);
        if crc32fast::hash(body) == number(crc) {
            let (headers, payload) = body[PRELUDE..].split_at(headers);
            on(named(headers, payload));
        } else {
            self.bad = self.bad.saturating_add(1);
        }
        total
    }
}

/// The length of the frame and of its headers, if these are twelve bytes with which one can begin.
fn prelude(bytes: &[u8]) -> Option<(usize, usize)> {
    let total = usize::try_from(number(&bytes[..4])).ok()?;
    let headers = usize::try_from(number(&bytes[4..8])).ok()?;
    let fits = (SHORTEST..=LONGEST).contains(&total) && headers <= total - SHORTEST;
    (fits && crc32fast::hash(&bytes[..8]) == number(&bytes[8..PRELUDE])).then_some((total, headers))
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).fold(0, |n, &b| n << 8 | u32::from(b))
}

fn named<'a>(mut headers: &'a [u8], payload: &'a [u8]) -> Frame<'a> {
    let mut frame = Frame { name: &[], exception: false, payload };
    while let Some((name, value, rest)) = header(headers) {
        headers = rest;
        let short = &value[..value.len().min(MAX_EVENT_NAME)];
        match name {
            b":event-type" | b":exception-type" | b":error-code" => frame.name = short,
            b":message-type" => frame.exception = matches!(value, b"exception" | b"error"),
            _ => {}
        }
    }
    frame
}

/// The first header, its value empty unless it is a string, and what follows it.
fn header(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (&len, bytes) = bytes.split_first()?;
    let (name, bytes) = bytes.split_at_checked(usize::from(len))?;
    let (&kind, bytes) = bytes.split_first()?;
    // true, false, byte, i16, i32, i64, bytes, string, time, UUID.
    let len = match kind {
        0 | 1 => 0,
        2 => 1,
        3 => 2,
        4 => 4,
        5 | 8 => 8,
        9 => 16,
        6 | 7 => {
            let (len, bytes) = bytes.split_at_checked(2)?;
            let (value, rest) = bytes.split_at_checked(number(len) as usize)?;
            return Some((name, if kind == 7 { value } else { &[] }, rest));
        }
        _ => return None,
    };
    Some((name, &[], bytes.get(len..)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(headers: &[(&str, &str)], payload: &[u8]) -> Vec<u8> {
        let mut head = Vec::new();
        for (name, value) in headers {
            head.push(name.len() as u8);
            head.extend_from_slice(name.as_bytes());
            head.push(7);
            head.extend_from_slice(&(value.len() as u16).to_be_bytes());
            head.extend_from_slice(value.as_bytes());
        }
        let total = (SHORTEST + head.len() + payload.len()) as u32;
        let mut frame = total.to_be_bytes().to_vec();
        frame.extend_from_slice(&(head.len() as u32).to_be_bytes());
        frame.extend_from_slice(&crc32fast::hash(&frame).to_be_bytes());
        frame.extend_from_slice(&head);
        frame.extend_from_slice(payload);
        frame.extend_from_slice(&crc32fast::hash(&frame).to_be_bytes());
        frame
    }

    fn frames(bytes: &[u8], size: usize) -> (Vec<String>, u32, u32) {
        let (mut decoder, mut seen) = (Decoder::new(), Vec::new());
        for piece in bytes.chunks(size.max(1)) {
            decoder.push(piece, |f| {
                let (name, payload) =
                    (String::from_utf8_lossy(f.name), String::from_utf8_lossy(f.payload));
                seen.push(format!("{name} {} {payload}", f.exception));
            });
            assert!(decoder.buffered() <= MAX_EVENT);
        }
        (seen, decoder.bad(), decoder.long())
    }

    /// The test vector `payload_no_headers` of the AWS SDKs.
    #[test]
    fn a_frame_of_the_sdks() {
        let bytes = [
            0x00, 0x00, 0x00, 0x1D, 0x00, 0x00, 0x00, 0x00, 0xFD, 0x52, 0x8C, 0x5A, 0x7B, 0x27,
            0x66, 0x6F, 0x6F, 0x27, 0x3A, 0x27, 0x62, 0x61, 0x72, 0x27, 0x7D, 0xC3, 0x65, 0x39,
            0x36,
        ];
        for size in 1..=bytes.len() {
            assert_eq!(frames(&bytes, size), (vec![" false {'foo':'bar'}".into()], 0, 0));
        }
    }

    fn three() -> Vec<Vec<u8>> {
        vec![
            encode(&[(":event-type", "a"), (":message-type", "event")], b"{}"),
            encode(&[("x", ""), (":exception-type", "b"), (":message-type", "exception")], b"12"),
            encode(&[(":event-type", "c")], b""),
        ]
    }

    #[test]
    fn names_and_exceptions() {
        let bytes = three().concat();
        for size in 1..=bytes.len() {
            let (seen, bad, _) = frames(&bytes, size);
            assert_eq!(
                (seen, bad),
                (vec!["a false {}".into(), "b true 12".into(), "c false ".into()], 0)
            );
        }
    }

    #[test]
    fn broken_frames_are_dropped_and_counted() {
        let whole = three();
        // A wrong byte in the payload costs one frame.
        let mut bytes = whole.clone();
        let at = bytes[0].len() - 5;
        bytes[0][at] ^= 1;
        for size in 1..200 {
            assert_eq!(
                frames(&bytes.concat(), size),
                (vec!["b true 12".into(), "c false ".into()], 1, 0)
            );
        }
        // One in a length, or bytes that are missing: the next frame is found.
        let mut bytes = whole.clone();
        bytes[1][3] ^= 0x40;
        for size in 1..200 {
            let (seen, bad, _) = frames(&bytes.concat(), size);
            assert_eq!((seen, bad), (vec!["a false {}".into(), "c false ".into()], 1));
        }
        let bytes = whole.concat();
        for size in 1..200 {
            assert_eq!(frames(&bytes[5..], size).0, ["b true 12", "c false "]);
        }
    }

    #[test]
    fn a_long_frame_is_passed_over() {
        let mut bytes = encode(&[(":event-type", "long")], &vec![b'x'; MAX_EVENT]);
        bytes.extend_from_slice(&three().concat());
        for size in [1000, 100_000, bytes.len()] {
            let (seen, bad, long) = frames(&bytes, size);
            assert_eq!((seen.len(), bad, long), (3, 0, 1));
        }
    }

    #[test]
    fn headers_of_every_type() {
        let mut head = Vec::new();
        for (kind, len) in [(0, 0), (1, 0), (2, 1), (3, 2), (4, 4), (5, 8), (8, 8), (9, 16)] {
            head.extend_from_slice(&[1, b'k', kind]);
            head.resize(head.len() + len, 0xEE);
        }
        head.extend_from_slice(&[1, b'k', 6, 0, 2, 1, 2]);
        head.extend_from_slice(b"\x0b:event-type\x07\x00\x01z");
        assert_eq!(named(&head, &[]).name, b"z");
        // A broken header ends the list.
        assert_eq!(named(&[1, b'k', 77, 1, 2], &[]).name, b"");
        for n in 0..head.len() {
            named(&head[..n], &[]);
        }
    }

    proptest! {
        #[test]
        fn any_split(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in any::<prop::sample::Index>(),
            size in 1usize..40,
        ) {
            let mut bytes = [three().concat(), three().concat()].concat();
            let len = bytes.len();
            changes.iter().for_each(|(at, byte)| bytes[at.index(len)] = *byte);
            bytes.remove(cut.index(len));
            prop_assert_eq!(frames(&bytes, size), frames(&bytes, bytes.len()));
        }
    }
}
