//! Redaction of HTTP/2: its frames and header blocks can still be read, by us and by a library.

use httlib_hpack::{Decoder, Encoder};

use super::redaction::{records, redact, redact_with};
use crate::http::h2::PREFACE;
use crate::http::h2::hpack::huffman;
use crate::record::Direction;

/// A word that must not be left, in plain or by Huffman's code.
const WORD: &str = "zqsecretzq";

struct Ends {
    client: Encoder<'static>,
    server: Encoder<'static>,
    /// Coded by Huffman or not.
    flags: u8,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn block(encoder: &mut Encoder<'_>, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        let field = (name.as_bytes().to_vec(), value.as_bytes().to_vec(), flags);
        encoder.encode(field, &mut block).unwrap();
    }
    block
}

impl Ends {
    fn new(flags: u8) -> Self {
        Self { client: Encoder::default(), server: Encoder::default(), flags }
    }

    fn ask(&mut self, path: &str, kind: &str) -> Vec<u8> {
        let fields = [
            (":method", "POST"),
            (":path", path),
            (":authority", "h:1"),
            ("content-type", kind),
            ("authorization", "Bearer zqsecretzq"),
            ("x-{\"<\\>\"}", "{\"<zqsecretzq>\"}"),
            ("user-agent", "ua/1"),
        ];
        block(&mut self.client, self.flags, &fields)
    }

    fn answer(&mut self, status: &str, kind: &str) -> Vec<u8> {
        let fields = [(":status", status), ("content-type", kind), ("set-cookie", WORD)];
        block(&mut self.server, self.flags, &fields)
    }

    fn trailers(&mut self, status: &str) -> Vec<u8> {
        let fields = [("grpc-status", status), ("grpc-message", WORD)];
        block(&mut self.server, self.flags, &fields)
    }
}

fn message(bytes: &[u8]) -> Vec<u8> {
    [&[0][..], &(bytes.len() as u32).to_be_bytes(), bytes].concat()
}

/// Chat (streamed, refused, compressed), Triton's gRPC, and a call of something else.
fn conversation(flags: u8) -> Vec<(Direction, Vec<u8>)> {
    let mut e = Ends::new(flags);
    let body = br#"{"model":"m-1","messages":[{"content":"zqsecretzq"}],"stream":true}"#;
    let event = |delta: &str, more: &str| {
        format!("data: {{\"model\":\"m-1\",\"choices\":[{{\"delta\":{{\"content\":\"{delta}\"}}}}]{more}}}\n\n")
            .into_bytes()
    };
    let chat = e.ask("/v1/chat/completions?key=zqsecretzq&api-version=7", "application/json");
    let (head, tail) = chat.split_at(chat.len() / 2);
    let again = e.ask("/v1/chat/completions?key=zqsecretzq&api-version=7", "application/json");
    let triton = e.ask("/inference.GRPCInferenceService/ModelStreamInfer", "application/grpc");
    let other = e.ask("/account", "application/json");
    let coded = e.ask("/v1/chat/completions", "application/json");
    let sse = "text/event-stream";
    let name = [b"\x0a\x03m-2\x1a\x0a", WORD.as_bytes()].concat();
    let answer = [b"\x12\x0a", WORD.as_bytes()].concat();
    let padded = [&[4][..], &event("zqsecretzq", ""), b"zqzq"].concat();
    let usage = r#","usage":{"prompt_tokens":9,"completion_tokens":2}"#;
    let zipped = [(":status", "200"), ("content-type", sse), ("content-encoding", "gzip")];
    let calls = [
        (true, [PREFACE, &frame(4, 0, 0, &[0, 3, 0, 0, 0, 100]), &frame(6, 0, 0, b"zqsecret")]),
        (true, [&frame(1, 0, 1, head), &frame(9, 4, 1, tail), &[]]),
        (true, [&frame(0, 0, 1, &body[..30]), &frame(0, 1, 1, &body[30..]), &[]]),
        (false, [&frame(4, 0, 0, b""), &frame(1, 4, 1, &e.answer("200", sse)), &[]]),
        (true, [&frame(1, 4, 3, &again), &frame(0, 1, 3, body), &[]]),
        (false, [&frame(0, 8, 1, &padded), &frame(0, 0, 1, &event("zqsecretzq", "")), &[]]),
        (true, [&frame(1, 4, 5, &triton), &frame(0, 1, 5, &message(&name)), &[]]),
        (false, [&frame(0, 0, 1, &event("", usage)), &frame(0, 1, 1, b"data: [DONE]\n\n"), &[]]),
        (
            false,
            [
                &frame(1, 4, 3, &e.answer("400", "application/json")),
                &frame(0, 1, 3, br#"{"error":{"message":"zqsecretzq"}}"#),
                &[],
            ],
        ),
        (
            false,
            [
                &frame(1, 4, 5, &e.answer("200", "application/grpc")),
                &frame(0, 0, 5, &[message(&answer), message(&answer)].concat()),
                &frame(1, 5, 5, &e.trailers("0")),
            ],
        ),
        (true, [&frame(1, 4, 7, &other), &frame(0, 1, 7, br#"{"id":"zkzk"}"#), &[]]),
        (
            false,
            [
                &frame(1, 4, 7, &e.answer("200", "application/json")),
                &frame(0, 1, 7, br#"{"id":"zkzk"}"#),
                &[],
            ],
        ),
        (true, [&frame(1, 4, 9, &coded), &frame(0, 1, 9, body), &[]]),
        (
            false,
            [
                &frame(1, 4, 9, &block(&mut e.server, flags, &zipped)),
                &frame(0, 1, 9, b"zqsecretzq"),
                &frame(7, 0, 0, b"\0\0\0\x09\0\0\0\0zqsecretzq"),
            ],
        ),
    ];
    let direction = |asks| if asks { Direction::Read } else { Direction::Write };
    calls.iter().map(|(asks, parts)| (direction(*asks), parts.concat())).collect()
}

fn bits(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:08b}")).collect()
}

/// That the word is nowhere, wherever its code might begin.
fn is_clean(out: &[u8]) -> bool {
    let coded = bits(&huffman::hide(b"secret", &[false; 6]));
    // Without the padding of its last byte.
    let coded = coded.trim_end_matches('1');
    !String::from_utf8_lossy(out).contains("secret") && !bits(out).contains(coded)
}

/// What a library reads of the header blocks of one direction.
fn fields(mut bytes: &[u8]) -> Vec<(String, String)> {
    let (mut decoder, mut block, mut all) = (Decoder::default(), Vec::new(), Vec::new());
    bytes = bytes.strip_prefix(PREFACE).unwrap_or(bytes);
    while let [a, b, c, kind, flags, _, _, _, _, rest @ ..] = bytes {
        let len = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        assert!(len <= rest.len(), "no frame: {}", String::from_utf8_lossy(bytes));
        let (payload, rest) = rest.split_at(len);
        bytes = rest;
        if matches!(kind, 1 | 9) {
            block.extend_from_slice(payload);
            if flags & 4 != 0 {
                let mut fields = Vec::new();
                decoder.decode(&mut block, &mut fields).expect("a header block");
                let text = |bytes| String::from_utf8(bytes).expect("text");
                all.extend(fields.into_iter().map(|(name, value, _)| (text(name), text(value))));
                block.clear();
            }
        }
    }
    assert!(bytes.is_empty());
    all
}

const HUFFMAN: u8 = Encoder::HUFFMAN_VALUE | Encoder::WITH_INDEXING | Encoder::BEST_FORMAT;
const PLAIN: u8 = Encoder::WITH_INDEXING | Encoder::BEST_FORMAT;
const NEVER: u8 = Encoder::HUFFMAN_VALUE | Encoder::NEVER_INDEXED | Encoder::BEST_FORMAT;

#[test]
fn no_word_stays_and_the_exchanges_do() {
    for flags in [HUFFMAN, PLAIN, NEVER] {
        assert!(!is_clean(
            &conversation(flags).iter().flat_map(|c| c.1.clone()).collect::<Vec<_>>()
        ));
        for size in [1, 2, 3, 7, 20, 64, 1000, usize::MAX] {
            let calls = records(&conversation(flags), size);
            let (out, mut before, mut after) = redact(&calls);
            let text = String::from_utf8_lossy(&out);
            // Of what calls no LLM, not even what is listed. (If its request is lost, nobody knows.)
            assert!(is_clean(&out) && !text.contains("zkzk"), "{size}: {text}");
            let mut sides = [Vec::new(), Vec::new()];
            let mut rest = &out[..];
            for (direction, .., bytes) in &calls {
                let (now, later) = rest.split_at(bytes.len());
                sides[*direction as usize].extend_from_slice(now);
                rest = later;
            }
            let asked = fields(&sides[Direction::Read as usize]);
            let said = fields(&sides[Direction::Write as usize]);
            assert_eq!(asked.iter().filter(|(name, _)| name == "authorization").count(), 5);
            assert_eq!(said.iter().filter(|(name, _)| name == "grpc-message").count(), 1);
            assert!(asked.iter().any(|(_, v)| v.ends_with("&api-version=7")), "{asked:?}");
            assert_eq!((before.len(), after.len()), (4, 4), "{size}: {after:?}");
            for text in ["prompt: Some(9)", "output: Some(2)", "model: Some(\"m-2\")", "HttpError"]
            {
                assert!(before.iter().any(|f| f.contains(text)), "{text}: {before:?}");
            }
            // The compressed one keeps its status; it is the last.
            let (coded, filled) = (before.pop().unwrap(), after.pop().unwrap());
            for f in [coded, filled] {
                assert!(f.contains("status: Some(200)"), "{f}");
            }
            assert_eq!(before, after, "{size}");
        }
    }
}

#[test]
fn whatever_is_missing() {
    for size in [9, 40] {
        let all = records(&conversation(HUFFMAN), size);
        for lost in 0..all.len() {
            let mut some = all.clone();
            some.remove(lost);
            let out = redact(&some).0;
            assert!(is_clean(&out), "{lost}: {}", String::from_utf8_lossy(&out));
        }
        for from in 1..all.len() {
            let out = redact_with(&all[from..], false).0;
            assert!(is_clean(&out), "{from}: {}", String::from_utf8_lossy(&out));
        }
    }
}

#[test]
fn after_an_upgrade_and_joined() {
    let mut e = Ends::new(HUFFMAN);
    let ask = "POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: zqsecretzq\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    let agree = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
    let answer = br#"{"model":"m","choices":[{"message":{"content":"zqsecretzq"},"finish_reason":"stop"}],"usage":{"prompt_tokens":4,"completion_tokens":5}}"#;
    let head = e.answer("200", "application/json");
    let said =
        [agree.as_bytes(), &frame(4, 0, 0, b""), &frame(1, 4, 1, &head), &frame(0, 1, 1, answer)];
    let calls = [
        (Direction::Read, ask.as_bytes().to_vec()),
        (Direction::Write, said.concat()),
        (Direction::Read, [PREFACE, &frame(4, 0, 0, b"")].concat()),
    ];
    for size in [1, 30, usize::MAX] {
        let (out, before, after) = redact(&records(&calls, size));
        assert!(is_clean(&out));
        assert_eq!((before.len(), &before), (1, &after), "{size}");
        assert!(before[0].contains("finish_reason: Some(\"stop\")"), "{before:?}");
    }
    // From the second request on, which refers to what was missed.
    let all = conversation(NEVER);
    let (out, before, after) = redact_with(&records(&all[4..], usize::MAX), false);
    assert!(is_clean(&out));
    assert!(!before.is_empty());
    assert_eq!(before[0], after[0]);
}

#[test]
fn a_code_is_as_long_and_says_nothing() {
    for text in ["zqsecretzq", "{\"<\\>\"}", "", "z", "~", "a b c %41 \u{fc}"] {
        let text = text.as_bytes();
        let coded = huffman::hide(text, &vec![false; text.len()]);
        let mut back = Vec::new();
        huffman::decode(&coded, &mut back).unwrap();
        assert_eq!(back, text);
        for from in 0..=text.len() {
            let hidden: Vec<bool> = (0..text.len()).map(|i| i >= from).collect();
            let new = huffman::hide(text, &hidden);
            assert_eq!(new.len(), coded.len());
            let mut shown = Vec::new();
            huffman::decode(&new, &mut shown).unwrap();
            // Bytes that are no ASCII have long codes, which do not always add up.
            let most = text.len() + usize::from(!text.is_ascii());
            assert!(shown.len() <= most && shown.starts_with(&text[..from]), "{shown:?}");
        }
    }
}
